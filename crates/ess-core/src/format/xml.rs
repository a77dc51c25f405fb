//! XML 1.0 with namespaces: a map with one root element; `@name` is an attribute, `#text` the text, a list repeats its element.
//!
//! Sources: XML 1.0 (Fifth Edition), sections 2.2 (characters), 2.3 (names), 2.11 (line ends) and 3.3.3 (attribute values);
//! Namespaces in XML 1.0, section 5 (a prefix must be declared). Nothing is indented: blanks are content.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::FormatError;
use super::tree::{Place, check_size, scalar, text};
use crate::json::{Node, Text};

const ONE_ROOT: &str = "must be a map with one field, the root element: let an adapter make one";
const SCALAR: &str = "an attribute or a text is one text, number or truth value";

/// How the bytes are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Latin1,
    Ascii,
}

impl Encoding {
    /// The name that the declaration and the media type carry.
    pub(super) fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "UTF-8",
            Encoding::Latin1 => "ISO-8859-1",
            Encoding::Ascii => "US-ASCII",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Encoding::Utf8, Encoding::Latin1, Encoding::Ascii]
            .into_iter()
            .find(|encoding| encoding.name().eq_ignore_ascii_case(name))
    }

    fn holds(self, character: char) -> bool {
        match self {
            Encoding::Utf8 => true,
            Encoding::Latin1 => u32::from(character) < 0x100,
            Encoding::Ascii => character.is_ascii(),
        }
    }

    /// The text's bytes; every character fits, as the writer saw to it.
    fn encode(self, text: String) -> Vec<u8> {
        match self {
            Encoding::Utf8 | Encoding::Ascii => text.into_bytes(),
            Encoding::Latin1 => text.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect(),
        }
    }
}

/// The document's bytes and their encoding.
pub(super) fn write(value: &Node<'_>) -> Result<(Vec<u8>, Encoding), FormatError> {
    let root = Place::Root;
    let Node::Map(fields) = value else { return Err(root.error(ONE_ROOT)) };
    let (mut encoding, mut element) = (Encoding::Utf8, None);
    for (name, value) in fields {
        let name = text(name, &root)?;
        let place = Place::Field(&root, name);
        if name == "?xml" {
            encoding = declared(value, &place)?;
        } else if element.replace((name, value)).is_some() {
            return Err(root.error(ONE_ROOT));
        }
    }
    let Some((name, value)) = element else { return Err(root.error(ONE_ROOT)) };
    if matches!(value, Node::List(_)) {
        return Err(Place::Field(&root, name).error("is a list, but a document has one root element"));
    }
    let mut writer = Writer { out: String::new(), encoding };
    // Invariant: writing to a string does not fail.
    let _ = write!(writer.out, "<?xml version=\"1.0\" encoding=\"{}\"?>", encoding.name());
    writer.element(name, value, &Place::Field(&root, name), Scope { prefixes: &[], parent: None })?;
    Ok((encoding.encode(writer.out), encoding))
}

fn declared(value: &Node<'_>, place: &Place<'_>) -> Result<Encoding, FormatError> {
    let Node::Map(fields) = value else { return Err(place.error("must be a map such as {\"encoding\": \"UTF-8\"}")) };
    let mut encoding = Encoding::Utf8;
    for (name, value) in fields {
        let name = text(name, place)?;
        let place = Place::Field(place, name);
        let word = scalar(value, &place, SCALAR)?;
        encoding = Encoding::parse(&word)
            .filter(|_| name == "encoding")
            .ok_or_else(|| place.error("is not understood: encoding is UTF-8, ISO-8859-1 or US-ASCII"))?;
    }
    Ok(encoding)
}

/// The prefixes that are declared here and above.
#[derive(Clone, Copy)]
struct Scope<'a> {
    prefixes: &'a [&'a str],
    parent: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn knows(&self, prefix: &str) -> bool {
        prefix == "xml" || self.prefixes.contains(&prefix) || self.parent.is_some_and(|parent| parent.knows(prefix))
    }
}

struct Writer {
    out: String,
    encoding: Encoding,
}

impl Writer {
    fn element(
        &mut self,
        name: &str,
        value: &Node<'_>,
        place: &Place<'_>,
        above: Scope<'_>,
    ) -> Result<(), FormatError> {
        check_size(&self.out)?;
        let none = Vec::new();
        let fields = if let Node::Map(fields) = value { fields } else { &none };
        let mut prefixes = Vec::new();
        for (field, _) in fields {
            if let Text::Read(field) = field
                && let Some(prefix) = field.strip_prefix("@xmlns:")
            {
                prefixes.push(prefix);
            }
        }
        let scope = Scope { prefixes: &prefixes, parent: Some(&above) };
        self.name(name, place, scope)?;
        self.out.push('<');
        self.out.push_str(name);
        let mut seen = BTreeSet::new();
        for (field, value) in fields {
            let field = text(field, place)?;
            if let Some(attribute) = field.strip_prefix('@') {
                if !seen.insert(attribute) {
                    return Err(Place::Field(place, field).error("stands twice"));
                }
                self.attribute(attribute, value, &Place::Field(place, field), scope)?;
            }
        }
        let opened = self.out.len();
        self.out.push('>');
        self.content(value, place, scope)?;
        if self.out.len() == opened + 1 {
            self.out.truncate(opened);
            self.out.push_str("/>");
        } else {
            let _ = write!(self.out, "</{name}>");
        }
        Ok(())
    }

    fn content(&mut self, value: &Node<'_>, place: &Place<'_>, scope: Scope<'_>) -> Result<(), FormatError> {
        let Node::Map(fields) = value else {
            let text = scalar(value, place, "lists stand in a map, each item an element of the field's name")?;
            return self.text(&text, place);
        };
        for (field, value) in fields {
            let field = text(field, place)?;
            let place = Place::Field(place, field);
            if field == "#text" {
                let text = scalar(value, &place, SCALAR)?;
                self.text(&text, &place)?;
            } else if field.starts_with('@') {
                // Stands in the start tag.
            } else if let Node::List(items) = value {
                for (index, item) in items.iter().enumerate() {
                    self.element(field, item, &Place::Item(&place, index), scope)?;
                }
            } else {
                self.element(field, value, &place, scope)?;
            }
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        name: &str,
        value: &Node<'_>,
        place: &Place<'_>,
        scope: Scope<'_>,
    ) -> Result<(), FormatError> {
        let declares = name == "xmlns" || name.starts_with("xmlns:");
        if !declares {
            self.name(name, place, scope)?;
        } else if !is_name(name.strip_prefix("xmlns:").unwrap_or("x")) || matches!(name, "xmlns:xml" | "xmlns:xmlns") {
            return Err(place.error("does not declare a namespace prefix"));
        }
        let value = scalar(value, place, SCALAR)?;
        if name.starts_with("xmlns:") && value.is_empty() {
            return Err(place.error("is empty, but a prefix stands for a namespace"));
        }
        let _ = write!(self.out, " {name}=\"");
        for character in value.chars() {
            match character {
                '<' => self.out.push_str("&lt;"),
                '&' => self.out.push_str("&amp;"),
                '"' => self.out.push_str("&quot;"),
                // A reader turns these into blanks unless they are escaped.
                '\t' | '\n' | '\r' => self.reference(character),
                _ => self.character(character, place)?,
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn text(&mut self, text: &str, place: &Place<'_>) -> Result<(), FormatError> {
        for character in text.chars() {
            match character {
                '<' => self.out.push_str("&lt;"),
                '&' => self.out.push_str("&amp;"),
                // `]]>` must not stand in text.
                '>' => self.out.push_str("&gt;"),
                '\r' => self.reference(character),
                _ => self.character(character, place)?,
            }
        }
        Ok(())
    }

    fn character(&mut self, character: char, place: &Place<'_>) -> Result<(), FormatError> {
        if !is_character(character) {
            let code = u32::from(character);
            return Err(place.error(format_args!("holds the character U+{code:04X}, which XML can't carry")));
        }
        if self.encoding.holds(character) {
            self.out.push(character);
        } else {
            self.reference(character);
        }
        Ok(())
    }

    fn reference(&mut self, character: char) {
        let _ = write!(self.out, "&#{};", u32::from(character));
    }

    /// A name with at most one prefix, which must be declared, in characters of the encoding.
    fn name(&self, name: &str, place: &Place<'_>, scope: Scope<'_>) -> Result<(), FormatError> {
        let (prefix, local) = name.split_once(':').map_or((None, name), |(prefix, local)| (Some(prefix), local));
        let fits = prefix.is_none_or(is_name) && is_name(local) && name.chars().all(|c| self.encoding.holds(c));
        if !fits {
            return Err(place.error("is no XML name: it begins with a letter or _, then letters, digits, . - _"));
        }
        match prefix {
            Some(prefix) if !scope.knows(prefix) => Err(place.error(format_args!(
                "has the prefix {prefix}, which is not declared: put \"@xmlns:{prefix}\" on it or on an element around it"
            ))),
            _ => Ok(()),
        }
    }
}

/// `Char` of XML 1.0.
fn is_character(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// `NCName` of Namespaces in XML 1.0.
fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(is_name_start) && characters.all(|character| {
        is_name_start(character)
            || matches!(character, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
    })
}

fn is_name_start(character: char) -> bool {
    matches!(character,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}
