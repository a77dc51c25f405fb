//! What the writers walk: JSON with its fields in order and its numbers as written, and a place for errors to name.

use std::borrow::Cow;

use super::FormatError;
use crate::json::{Node, Text};
use crate::limits::BODY_BYTES_MAX;

/// Where in the value the writer is, such as `entries[2].name`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// The value itself.
    Root,
    /// A field of a map.
    Field(&'a Place<'a>, &'a str),
    /// An item of a list, from 0.
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    /// An error that names the place and what would help.
    pub(super) fn error(&self, what: impl std::fmt::Display) -> FormatError {
        match self {
            Place::Root => FormatError(format!("the value {what}")),
            _ => FormatError(format!("{self} {what}")),
        }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(parent, name) => write!(f, "{parent}.{name}"),
            Place::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The text of a string; a lone surrogate is no text that any of the formats can carry.
pub(super) fn text<'a>(text: &'a Text<'_>, place: &Place<'_>) -> Result<&'a str, FormatError> {
    match text {
        Text::Read(text) => Ok(text),
        Text::Raw(raw) => Err(place.error(format_args!("holds {raw}, which is no Unicode text"))),
    }
}

/// The text of a scalar: strings as they are, numbers as they were written, `null` as nothing.
///
/// # Errors
/// A map or a list; `hint` says what an adapter can do.
pub(super) fn scalar<'a>(node: &'a Node<'_>, place: &Place<'_>, hint: &str) -> Result<Cow<'a, str>, FormatError> {
    match node {
        Node::Word("null") => Ok(Cow::Borrowed("")),
        Node::Word(word) => Ok(Cow::Borrowed(word)),
        Node::Text(string) => text(string, place).map(Cow::Borrowed),
        Node::List(_) | Node::Map(_) => Err(place.error(format_args!("is nested; {hint}"))),
    }
}

/// Refuses a body that grows out of bounds.
pub(super) fn check_size(body: &str) -> Result<(), FormatError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(FormatError(format!("the body would have more than {BODY_BYTES_MAX} bytes")));
    }
    Ok(())
}
