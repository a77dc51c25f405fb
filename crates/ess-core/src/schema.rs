//! JSON Schemas (2020-12) of payloads, by subject and version.
//!
//! A payload is checked by one schema at most: the one of its version whose subject is the most specific.

mod checker;

use std::sync::Arc;

use crate::id::{Digest, Subject, Version};
use crate::limits::SCHEMA_BYTES_MAX;
use crate::partner::Glob;
use crate::problem::{Code, Problem};

pub use checker::{Checker, Violation};

/// What payloads of these subjects look like in this version.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// `<subject glob>/v<version>`, such as `RULE-COURT-DEADLINE/v3`.
    pub id: String,
    /// Which subjects.
    pub subject: Glob,
    /// Which version.
    pub version: Version,
    /// The schema, JSON.
    pub text: Arc<str>,
    /// SHA-256 of the text.
    pub digest: Digest,
}

impl Schema {
    /// A schema of this text, which may not be one yet: [`Checker::compile`] finds out.
    ///
    /// # Errors
    /// It is too large.
    pub fn new(subject: Glob, version: Version, text: &str) -> Result<Self, Problem> {
        if text.len() > SCHEMA_BYTES_MAX {
            let detail = format!("a schema has at most {SCHEMA_BYTES_MAX} bytes");
            return Err(Problem::new(Code::Invalid, detail).with_field("schema"));
        }
        let id = format!("{}/v{version}", subject.as_str());
        Ok(Self { id, subject, version, text: Arc::from(text), digest: Digest::of(text.as_bytes()) })
    }
}

/// Every schema there is.
#[derive(Debug, Clone, Default)]
pub struct Schemas {
    /// The most specific subjects first.
    all: Vec<Arc<Schema>>,
}

impl Schemas {
    /// All schemas, in any order.
    #[must_use]
    pub fn new(mut all: Vec<Arc<Schema>>) -> Self {
        all.sort_by(|a, b| (b.subject.specificity(), &a.id).cmp(&(a.subject.specificity(), &b.id)));
        Self { all }
    }

    /// The schemas in the order of preference.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Schema>> {
        self.all.iter()
    }

    /// The schema of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<Schema>> {
        self.all.iter().find(|schema| schema.id == id)
    }

    /// The schema that payloads of this subject and version are checked by.
    #[must_use]
    pub fn of(&self, subject: &Subject, version: Version) -> Option<&Arc<Schema>> {
        self.all.iter().find(|schema| schema.version == version && schema.subject.matches(subject.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_schema_of_the_version_is_taken() {
        let schema = |subject: &str, version: u32| {
            Arc::new(Schema::new(Glob::trusted(subject), Version(version), "{}").unwrap())
        };
        let schemas =
            Schemas::new(vec![schema("*", 3), schema("RULE-*", 3), schema("RULE-A", 2), schema("RULE-A*", 3)]);
        let of = |subject: &str, version: u32| {
            schemas.of(&Subject::trusted(subject), Version(version)).map(|schema| schema.id.clone())
        };
        assert_eq!(of("RULE-A", 3).as_deref(), Some("RULE-A*/v3"));
        assert_eq!(of("RULE-A", 2).as_deref(), Some("RULE-A/v2"));
        assert_eq!(of("FEE", 3).as_deref(), Some("*/v3"));
        assert_eq!(of("FEE", 2), None);
    }
}
