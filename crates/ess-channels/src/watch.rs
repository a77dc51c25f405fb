//! Words that come apart from an attempt: what is awaited, what was heard, and which files have come to rest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ess_core::id::{EventId, Version};
use ess_core::receipt::{AckWord, Evidence, Said, read_receipt};

/// How words that come apart from an attempt reach a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// They do not: they come in the answer, or by `POST /v1/acks`.
    None,
    /// Somebody looks for them, this often, while something is awaited.
    Look(Duration),
    /// A subscription brings them.
    Listen,
}

/// A delivery whose receipt is outstanding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Awaited {
    /// The event.
    pub event: EventId,
    /// The version that was sent.
    pub version: Version,
    /// A dry run.
    pub test: bool,
}

/// A partner's word that came apart from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The event.
    pub event: EventId,
    /// A dry run.
    pub test: bool,
    /// What was said.
    pub said: Said,
    /// How it came.
    pub evidence: Evidence,
}

/// How a receipt file looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub bytes: u64,
    pub modified: Option<SystemTime>,
}

/// Receipt files as they were at the last look. A file may be found while it is being written: empty, it would be an ACK
/// where a NACK was meant. One that is no whole document counts only when it is the same at two looks.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// Guards the looks; held for a look-up or a change.
    known: Mutex<HashMap<String, (Look, bool)>>,
}

impl Unsettled {
    /// What the file says, once that is certain.
    pub(crate) fn read(&self, name: &str, look: Look, content: &[u8], event: &EventId) -> Option<Said> {
        let is_whole = AckWord::parse(content).is_ok();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(name).cloned();
        let is_same = before.as_ref().is_some_and(|(before, _)| *before == look);
        let was_told = is_same && before.is_some_and(|(_, told)| told);
        if !is_whole && !is_same {
            known.insert(name.to_owned(), (look, false));
            return None;
        }
        match read_receipt(content, event) {
            Ok(said) => Some(said),
            Err(reason) => {
                known.insert(name.to_owned(), (look, true));
                drop(known);
                if !was_told {
                    tracing::warn!(file = name, reason, "a receipt counts for nothing");
                }
                None
            }
        }
    }

    /// Forgets what is awaited no more.
    pub(crate) fn keep_only(&self, names: &[String]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| names.contains(name));
    }
}
