//! The Version Bridge: scripts that turn a payload of one version into another, and the shortest way through them.

use crate::id::{Digest, Version};
use crate::partner::Glob;

/// One rule: payloads of these subjects, from these versions, to that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Bridge {
    /// `<subject glob>/<from>-to-<to>`, such as `RULE-COURT-DEADLINE/3-to-1`.
    pub id: String,
    /// Which subjects.
    pub subject: Glob,
    /// From which versions.
    pub from: FromVersion,
    /// To which version.
    pub to: Version,
    /// How.
    pub rule: Rule,
    /// Inputs with the outputs they must give.
    pub examples: Vec<Example>,
}

/// From which versions a bridge leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromVersion {
    /// `3`.
    Exactly(Version),
    /// `">=3"`.
    AtLeast(Version),
}

/// How a bridge converts.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Only the version label changes.
    Identity,
    /// JSONata text with its digest.
    Script {
        /// The script.
        text: String,
        /// SHA-256 of the text.
        digest: Digest,
    },
}

/// An input with the output that it must give; both JSON texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The payload that goes in.
    pub input: String,
    /// The payload that must come out.
    pub output: String,
}
