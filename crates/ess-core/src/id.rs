//! The identities of things; each its own type, so that they cannot be mixed up.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::limits::{EVENT_ID_BYTES_MAX, PARTNER_ID_BYTES_MAX, SUBJECT_BYTES_MAX};
use crate::problem::{Code, Problem};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the identity.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes a text that was checked before, such as one read back from the store.
            #[must_use]
            pub fn trusted(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// What a publisher calls an event: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    EventId
}
text_id! {
    /// What Ops call a partner: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    PartnerId
}
text_id! {
    /// What an event is about; events of one subject are ordered.
    Subject
}

impl EventId {
    /// Takes what a publisher wrote.
    ///
    /// # Errors
    /// Empty, too long, or with other characters than `A-Z a-z 0-9 . _ : -`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if text.is_empty() || text.len() > EVENT_ID_BYTES_MAX || !text.bytes().all(is_fine) {
            let detail = format!("id must be 1 to {EVENT_ID_BYTES_MAX} of `A-Z a-z 0-9 . _ : -`, not {}", quoted(text));
            return Err(Problem::new(Code::Invalid, detail).with_field("id"));
        }
        Ok(Self(Arc::from(text)))
    }
}

impl PartnerId {
    /// Takes what an operator wrote.
    ///
    /// # Errors
    /// Empty, too long, or with other characters than `A-Z a-z 0-9 . _ -`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > PARTNER_ID_BYTES_MAX || !text.bytes().all(is_fine) {
            let detail = format!("id must be 1 to {PARTNER_ID_BYTES_MAX} of `A-Z a-z 0-9 . _ -`, not {}", quoted(text));
            return Err(Problem::new(Code::Invalid, detail).with_field("id"));
        }
        Ok(Self(Arc::from(text)))
    }
}

impl Subject {
    /// Takes what a publisher wrote.
    ///
    /// # Errors
    /// Empty, too long, or with control characters or surrounding blanks.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_fine = !text.is_empty()
            && text.len() <= SUBJECT_BYTES_MAX
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if !is_fine {
            let detail = format!("subject must be 1 to {SUBJECT_BYTES_MAX} visible characters, not {}", quoted(text));
            return Err(Problem::new(Code::Invalid, detail).with_field("subject"));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The id less a trailing version, any case: `-V3`, `-v2`, `-v2.1.0`. An id that is nothing else stays itself.
    #[must_use]
    pub fn derived_from(id: &EventId) -> Self {
        let text = id.as_str();
        let stem = text.rfind(['v', 'V']).and_then(|at| {
            let (head, version) = (text[..at].strip_suffix('-')?, &text[at + 1..]);
            let is_version =
                version.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
            (is_version && !head.is_empty()).then_some(head)
        });
        Self(Arc::from(stem.unwrap_or(text)))
    }
}

/// A short, printable form of what somebody sent.
fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().count() > 40 {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Position of an event in the Event Log: 1, 2, 3, … without a gap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The store's short name of a partner; never reused, also not after a removal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct PartnerNo(pub u32);

/// The schema version of a payload (not the rule's revision); 1 at least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of something: bytes sent, a script, an event's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_the_id_less_its_version() {
        let derive = |id: &str| Subject::derived_from(&EventId::trusted(id)).to_string();
        assert_eq!(derive("RULE-COURT-DEADLINE-V3"), "RULE-COURT-DEADLINE");
        assert_eq!(derive("rule-v2"), "rule");
        assert_eq!(derive("rule-v2.1.0"), "rule");
        for whole in ["V3", "-V3", "RULE", "RULE-V", "RULE-V3a", "RULE-V3.", "RULEV3", "RULE-V3-X"] {
            assert_eq!(derive(whole), whole);
        }
    }

    #[test]
    fn an_id_is_short_and_plain() {
        assert!(EventId::parse(&"a".repeat(128)).is_ok());
        for bad in ["", "a b", "ä", "a/b", &"a".repeat(129)] {
            assert_eq!(EventId::parse(bad).unwrap_err().field.as_deref(), Some("id"), "{bad}");
        }
    }
}
