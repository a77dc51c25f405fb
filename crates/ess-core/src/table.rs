//! Lookup tables: what scripts look up by `$table('courts')`, kept beside them so that a list is not written into each.

use std::sync::Arc;

use crate::id::Digest;
use crate::limits::{TABLE_BYTES_MAX, TABLE_NAME_BYTES_MAX};
use crate::problem::{Code, Problem};

/// A named JSON value, as a rule an array of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What scripts call it.
    pub name: String,
    /// The value, JSON.
    pub text: Arc<str>,
    /// SHA-256 of the text.
    pub digest: Digest,
}

impl Table {
    /// A table of this JSON text.
    ///
    /// # Errors
    /// The name or the text is none, it is too large, or a number in it would change in a script.
    pub fn new(name: &str, text: &str) -> Result<Self, Problem> {
        let invalid = |field: &str, detail: String| Problem::new(Code::Invalid, detail).with_field(field);
        let is_name = (1..=TABLE_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_name {
            let detail = format!("a table's name has 1 to {TABLE_NAME_BYTES_MAX} of A-Z a-z 0-9 - _");
            return Err(invalid("name", detail));
        }
        if text.len() > TABLE_BYTES_MAX {
            return Err(invalid("value", format!("a table has at most {TABLE_BYTES_MAX} bytes of JSON")));
        }
        crate::json::check_nesting(text).map_err(|problem| problem.with_field("value"))?;
        if let Some(number) = crate::script::Tables::inexact_number(text)? {
            let detail = format!("the number {number} would change in a script");
            return Err(invalid("value", detail).with_hint("write it as text, in quotes"));
        }
        Ok(Self { name: name.to_owned(), text: Arc::from(text), digest: Digest::of(text.as_bytes()) })
    }

    /// Whether a script of this text may look it up.
    #[must_use]
    pub fn is_named_in(&self, script: &str) -> bool {
        script.contains("$table") && script.contains(&self.name)
    }
}
