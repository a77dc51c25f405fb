//! What each key of a partner's document means, in a line: for whoever shows a partner. `docs/partners.md` says the same at length.

/// A key of a partner's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As in the document.
    pub name: &'static str,
    /// Its meaning, in a line.
    pub meaning: &'static str,
}

const fn key(name: &'static str, meaning: &'static str) -> Key {
    Key { name, meaning }
}

/// All of them, in the order in which people read them.
pub const KEYS: [Key; 32] = [
    key("id", "its name"),
    key("channel", "how events travel"),
    key("url", "where to, in the channel's form"),
    key("subscribe", "globs over subjects; any one suffices"),
    key("where", "JSONata predicate over the event: what fits it goes out"),
    key("accepts_version", "the version that it wants, or a map of globs to versions; as published unless given"),
    key("adapter", "JSONata that reshapes what it gets"),
    key("format", "how the body is written"),
    key("ack", "what counts as the receipt, how long it may take, how often it is sent again for want of it"),
    key("retry", "when to try again, and when to give up"),
    key("order", "which deliveries run side by side: subject, latest, none"),
    key("limits", "attempts at once, and per second; 0 is without limit"),
    key("timeout", "one attempt, from finding the address to the last byte of the answer"),
    key("headers", "fixed request headers"),
    key("auth", "how the hub logs in; secrets are named, never shown"),
    key("escalate", "whom to tell of its trouble, and after which age of a delivery"),
    key("fallback", "another way to the same partner, and after which time it is tried too"),
    key("zone", "IANA time zone, bound as $partner.zone"),
    key("tests", "dry runs: deliver, skip, or another address"),
    key("heartbeat", "after how long without a message it is told that the hub is there"),
    key("host_key", "the server's keys that are trusted; no other is spoken to"),
    key("write", "how a file appears: under another name first, or at once"),
    key("clean", "after how long the hub takes its own drops away once their deliveries have ended"),
    key("retain", "whether the broker keeps the last message of a topic"),
    key("protocol", "the protocol's version"),
    key("client_id", "the hub's name at the broker"),
    key("sasl", "how user and password are shown to the broker"),
    key("codes", "what the partner's acknowledgement codes mean"),
    key("from", "the sender's address"),
    key("tls", "when the connection is encrypted"),
    key("endpoint", "the storage's address"),
    key("region", "the storage's region"),
];

/// What a key means; empty for one that is not known.
#[must_use]
pub fn meaning(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).map_or("", |key| key.meaning)
}

#[cfg(test)]
mod tests {
    use super::super::channel::own_fields;
    use super::super::document::FIELDS;
    use super::*;

    #[test]
    fn every_key_that_a_document_may_have_is_explained_and_no_other() {
        let known: Vec<&str> = FIELDS.into_iter().chain(own_fields()).chain(["format", "tests"]).collect();
        for name in &known {
            assert!(!meaning(name).is_empty(), "{name} has no line");
        }
        for key in KEYS {
            assert!(known.contains(&key.name), "{} is no key", key.name);
        }
        assert_eq!(meaning("nothing"), "");
    }
}
