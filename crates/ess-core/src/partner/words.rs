//! The contract's words for a partner's choices.

use super::{AckBy, Format, Order, Redrive, Write};

pub(super) const ORDERS: [(&str, Order); 3] =
    [("subject", Order::Subject), ("latest", Order::Latest), ("none", Order::None)];
pub(super) const ACK_BYS: [(&str, AckBy); 5] = [
    ("body", AckBy::Body),
    ("status", AckBy::Status),
    ("callback", AckBy::Callback),
    ("file", AckBy::File),
    ("topic", AckBy::Topic),
];
pub(super) const FORMATS: [(&str, Format); 8] = [
    ("json", Format::Json),
    ("xml", Format::Xml),
    ("csv", Format::Csv),
    ("form", Format::Form),
    ("text", Format::Text),
    ("hl7", Format::Hl7),
    ("cloudevents", Format::CloudEvents),
    ("cloudevents-binary", Format::CloudEventsBinary),
];
pub(super) const REDRIVES: [(&str, Redrive); 2] = [("on_recovery", Redrive::OnRecovery), ("manual", Redrive::Manual)];

pub(super) const WRITES: [(&str, Write); 2] = [("rename", Write::Rename), ("once", Write::Once)];

impl Format {
    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        word_of(&FORMATS, self)
    }

    /// The file name extension of its bodies.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Format::Json | Format::CloudEvents | Format::CloudEventsBinary => "json",
            Format::Xml => "xml",
            Format::Csv => "csv",
            Format::Form => "form",
            Format::Text => "txt",
            Format::Hl7 => "hl7",
        }
    }
}

pub(super) fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    // Invariant: the tables above name every variant.
    words.iter().find(|(_, known)| *known == value).map(|(word, _)| *word).expect("every variant has a word")
}
