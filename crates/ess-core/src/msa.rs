//! What an HL7 v2 acknowledgement says: its MSA segment, and ERR where there is one.
//!
//! Source: HL7 version 2.5.1, chapter 2, sections 2.9 (processing rules), 2.15.1 (ACK) and tables 0008 and 0357; ERR also as
//! it was before 2.5. It reads what it needs and never fails on the rest: partners' acknowledgements are seldom complete.

use std::borrow::Cow;

use crate::receipt::{Said, words};

/// HL7 table 0008.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCode {
    /// Application accept.
    Aa,
    /// Application error.
    Ae,
    /// Application reject.
    Ar,
    /// Commit accept.
    Ca,
    /// Commit error.
    Ce,
    /// Commit reject.
    Cr,
}

/// What a code is to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The partner has it.
    Ack,
    /// The partner refuses it for good.
    Nack,
    /// The partner refuses it for now.
    Retry,
    /// Nothing yet: the acknowledgement that counts comes after it.
    Wait,
}

/// The codes that mean something else for one partner than they do by the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AckCodes([Option<Meaning>; 6]);

/// An acknowledgement, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// MSA-2: the control id of the message that it speaks of.
    pub control_id: &'a str,
    /// MSA-1, as it came.
    pub code: &'a str,
    /// What it says; nothing for a code that is to be waited past.
    pub said: Option<Said>,
}

/// The words for the codes, in a partner's document.
pub const ACK_CODES: [(&str, AckCode); 6] = [
    ("AA", AckCode::Aa),
    ("AE", AckCode::Ae),
    ("AR", AckCode::Ar),
    ("CA", AckCode::Ca),
    ("CE", AckCode::Ce),
    ("CR", AckCode::Cr),
];

/// What no other try of the same message changes: unsupported message type, event code, processing id, version (table 0357).
const UNSUPPORTED: [&str; 4] = ["200", "201", "202", "203"];

impl AckCodes {
    /// The same with another meaning for one code.
    #[must_use]
    pub fn with(mut self, code: AckCode, meaning: Meaning) -> Self {
        self.0[code as usize] = Some(meaning);
        self
    }

    /// The meaning that the partner chose for this code.
    #[must_use]
    pub fn chosen(&self, code: AckCode) -> Option<Meaning> {
        self.0[code as usize]
    }

    /// What a code means; what is wrong is looked for only where that decides, as most acknowledgements say that all is well.
    fn meaning<'a>(&self, code: AckCode, error: impl FnOnce() -> Option<&'a str>) -> Meaning {
        self.chosen(code).unwrap_or_else(|| match code {
            AckCode::Aa | AckCode::Ca => Meaning::Ack,
            AckCode::Ae | AckCode::Cr => Meaning::Nack,
            AckCode::Ar if error().is_some_and(|error| UNSUPPORTED.contains(&error)) => Meaning::Nack,
            AckCode::Ar | AckCode::Ce => Meaning::Retry,
        })
    }
}

/// MSH-10 of a message that the hub is about to send; `None` when it has none.
#[must_use]
pub fn control_id(message: &[u8]) -> Option<String> {
    // Only the first segment is looked at: the rest may be long.
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let is_before = |byte: &u8| matches!(byte, b'\r' | b'\n' | b' ' | 0xEF | 0xBB | 0xBF);
    let begin = message.iter().position(|byte| !is_before(byte))?;
    let end = message[begin..].iter().position(is_end).map_or(message.len(), |length| begin + length);
    let segment = &message[begin..end];
    let delimiter = *segment.strip_prefix(b"MSH")?.first()?;
    let id = if delimiter.is_ascii() {
        // MSH-1 is the delimiter itself.
        text_of(segment.split(|byte| *byte == delimiter).nth(9)?).trim().to_owned()
    } else {
        Segments::of(&text_of(segment))?.field("MSH", 10)?.trim().to_owned()
    };
    (!id.is_empty()).then_some(id)
}

/// What was received, as text. Nearly all is UTF-8, and that is quicker to see than to mend.
#[must_use]
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Reads an acknowledgement.
///
/// # Errors
/// It is none; the text says what is missing.
pub fn read<'a>(message: &'a str, codes: &AckCodes) -> Result<Acknowledgement<'a>, &'static str> {
    let segments = Segments::of(message).ok_or("it does not begin with MSH")?;
    let msa = segments.segment("MSA");
    let code = msa.and_then(|msa| nth(msa, segments.field, 1)).ok_or("it has no MSA segment")?.trim();
    let control_id = msa.and_then(|msa| nth(msa, segments.field, 2)).unwrap_or_default().trim();
    if control_id.is_empty() {
        return Err("its MSA-2 is empty, so it belongs to no message");
    }
    let (_, known) = ACK_CODES
        .iter()
        .find(|(word, _)| code.eq_ignore_ascii_case(word))
        .ok_or("its MSA-1 is none of AA, AE, AR, CA, CE, CR")?;
    let reason = || segments.reason(code);
    let said = match codes.meaning(*known, || segments.error_code()) {
        Meaning::Ack => Some(Said::Ack),
        Meaning::Nack => Some(Said::Nack { reason: reason() }),
        Meaning::Retry => Some(Said::Retry { reason: reason() }),
        Meaning::Wait => None,
    };
    Ok(Acknowledgement { control_id, code, said })
}

/// A message with the delimiters that its MSH names.
struct Segments<'a> {
    text: &'a str,
    field: char,
    component: char,
    subcomponent: char,
}

impl<'a> Segments<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let text = text.trim_start_matches(['\u{feff}', '\r', '\n', ' ']);
        let mut delimiters = text.strip_prefix("MSH")?.chars();
        let field = delimiters.next()?;
        let component = delimiters.next()?;
        // Repetition and escape, then the subcomponents' own.
        let subcomponent = delimiters.nth(2).filter(|c| *c != field).unwrap_or('&');
        Some(Self { text, field, component, subcomponent })
    }

    /// The first segment of this name.
    fn segment(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.text;
        loop {
            let end = rest.bytes().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
            let (segment, after) = rest.split_at(end);
            let is_it = segment.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(self.field));
            if is_it {
                return Some(segment);
            }
            rest = after.get(1..)?;
        }
    }

    /// A field of the first segment of this name, as it stands there.
    fn field(&self, name: &str, number: usize) -> Option<&'a str> {
        // MSH-1 is the delimiter itself.
        let index = if name == "MSH" { number - 1 } else { number };
        nth(self.segment(name)?, self.field, index)
    }

    fn part(&self, segment: &str, number: usize, component: usize) -> Option<&'a str> {
        let part = self.field(segment, number)?.split(self.component).nth(component - 1)?.trim();
        (!part.is_empty()).then_some(part)
    }

    /// A code of table 0357: ERR-3 from 2.5 on, MSA-6 in 2.4, the end of ERR-1 before.
    fn error_code(&self) -> Option<&'a str> {
        let old = || self.part("ERR", 1, 4)?.split(self.subcomponent).next();
        self.part("ERR", 3, 1).or_else(|| self.part("MSA", 6, 1)).or_else(old)
    }

    /// The code with the first words for people that are there.
    fn reason(&self, code: &str) -> String {
        let text = self
            .part("MSA", 3, 1)
            .or_else(|| self.part("ERR", 8, 1))
            .or_else(|| self.part("ERR", 3, 2))
            .or_else(|| self.part("ERR", 7, 1))
            .or_else(|| self.part("MSA", 6, 2));
        let text = text.map(unescaped);
        words(&match (self.error_code(), text) {
            (Some(error), Some(text)) => format!("{code}: {text} (error {error})"),
            (Some(error), None) => format!("{code}: error {error}"),
            (None, Some(text)) => format!("{code}: {text}"),
            (None, None) => format!("{code} without a reason"),
        })
    }
}

/// The part of this index, by a delimiter that is nearly always one byte: a general search costs more than these few steps.
fn nth(text: &str, delimiter: char, index: usize) -> Option<&str> {
    let Some(byte) = u8::try_from(delimiter).ok().filter(u8::is_ascii) else {
        return text.split(delimiter).nth(index);
    };
    let mut rest = text;
    for _ in 0..index {
        rest = &rest[rest.bytes().position(|one| one == byte)? + 1..];
    }
    Some(&rest[..rest.bytes().position(|one| one == byte).unwrap_or(rest.len())])
}

/// The delimiters that stand in a text as escape sequences.
fn unescaped(text: &str) -> String {
    text.replace("\\F\\", "|")
        .replace("\\S\\", "^")
        .replace("\\T\\", "&")
        .replace("\\R\\", "~")
        .replace("\\.br\\", " ")
        .replace("\\E\\", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "MSH|^~\\&|LAB|CLINIC|HMS-ESS||20261126||ACK|77|P|2.5.1\r";

    fn said(rest: &str, codes: &AckCodes) -> Option<Said> {
        read(&format!("{HEAD}{rest}"), codes).unwrap().said
    }

    #[track_caller]
    fn check(rest: &str, expected: Said) {
        assert_eq!(said(rest, &AckCodes::default()), Some(expected), "{rest}");
    }

    fn nack(reason: &str) -> Said {
        Said::Nack { reason: reason.to_owned() }
    }

    fn retry(reason: &str) -> Said {
        Said::Retry { reason: reason.to_owned() }
    }

    #[test]
    fn codes_mean_what_the_contract_says() {
        check("MSA|AA|M1\r", Said::Ack);
        check("MSA|CA|M1\r", Said::Ack);
        check("MSA|AE|M1|no such county\r", nack("AE: no such county"));
        check("MSA|CR|M1\r", nack("CR without a reason"));
        check("MSA|CE|M1|queue full\r", retry("CE: queue full"));
        check("MSA|AR|M1|busy\r", retry("AR: busy"));
    }

    #[test]
    fn a_reject_of_what_no_other_try_changes_is_a_nack() {
        check(
            "MSA|AR|M1\rERR||MSH^1^9|200^Unsupported message type|E\r",
            nack("AR: Unsupported message type (error 200)"),
        );
        check("MSA|AR|M1\rERR||MSH^1^12|203|E||||only 2.3\r", nack("AR: only 2.3 (error 203)"));
        check("MSA|AR|M1|||| 202^Unsupported processing id\r", nack("AR: Unsupported processing id (error 202)"));
        check("MSA|AR|M1\rERR|MSH^1^9^201&Unsupported event code\r", nack("AR: error 201"));
        check(
            "MSA|AR|M1\rERR||PID^1^3|207^Application internal error|E\r",
            retry("AR: Application internal error (error 207)"),
        );
    }

    #[test]
    fn a_partner_may_have_its_own_meanings() {
        let codes = AckCodes::default()
            .with(AckCode::Ar, Meaning::Retry)
            .with(AckCode::Ae, Meaning::Retry)
            .with(AckCode::Ca, Meaning::Wait);
        assert!(matches!(said("MSA|AE|M1\r", &codes), Some(Said::Retry { .. })));
        assert!(matches!(said("MSA|AR|M1\rERR|||200\r", &codes), Some(Said::Retry { .. })));
        assert_eq!(said("MSA|CA|M1\r", &codes), None);
        assert_eq!(said("MSA|AA|M1\r", &codes), Some(Said::Ack));
    }

    #[test]
    fn delimiters_are_those_that_msh_names() {
        let ack = read("MSH#*~\\%#A#B\nMSA#ar#M1##\nERR###203*bad%version\n", &AckCodes::default()).unwrap();
        assert_eq!((ack.control_id, ack.said), ("M1", Some(nack("ar: bad%version (error 203)"))));
    }

    #[test]
    fn a_delimiter_may_be_more_than_one_byte() {
        let ack = read("MSH§^~\\&§A\rMSA§AE§M1§no\r", &AckCodes::default()).unwrap();
        assert_eq!((ack.control_id, ack.said), ("M1", Some(nack("AE: no"))));
    }

    #[test]
    fn what_is_no_acknowledgement_is_told_apart() {
        for wrong in
            ["", "hello", "MSH", "MSH|^~\\&", "MSH|^~\\&|\rMSA|AA\r", "MSH|^~\\&|\rMSA|AA||\r", "MSH|^~\\&\rMSA|XX|M1"]
        {
            assert!(read(wrong, &AckCodes::default()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_control_id_is_the_one_that_was_sent() {
        assert_eq!(control_id(HEAD.as_bytes()).as_deref(), Some("77"));
        assert_eq!(control_id(b"MSH|^~\\&|A||||||ACK||P\r"), None);
        assert_eq!(control_id(b"{}"), None);
        assert_eq!(control_id("\u{feff}\r\nMSH§^~\\&§§§§§§§ACK§ 8 §P\r".as_bytes()).as_deref(), Some("8"));
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_the_one_that_a_split_gives(text in "[a|é§]{0,12}", delimiter in "[|é§]", index in 0usize..8) {
            let delimiter = delimiter.chars().next().unwrap();
            proptest::prop_assert_eq!(nth(&text, delimiter, index), text.split(delimiter).nth(index));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), rest in "[A-Z|^&\r\n0-9\\\\]{0,80}") {
            let _ = read(&String::from_utf8_lossy(&bytes), &AckCodes::default());
            let _ = read(&format!("MSH|^~\\&|{rest}"), &AckCodes::default());
            let _ = control_id(&bytes);
        }
    }
}
