//! The topic of a message on a broker: a template with `{subject}`, `{id}`, `{version}` and `{partner}`, filled so that no
//! value can name another topic than its own.
//!
//! Source: MQTT 5.0, section 4.7 (topic names and filters).

use crate::id::{EventId, PartnerId, Subject, Version};
use crate::limits::TOPIC_BYTES_MAX;

/// A template that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic(String);

/// What a topic is filled with.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The partner.
    pub partner: &'a PartnerId,
    /// The event.
    pub event: &'a EventId,
    /// Its subject.
    pub subject: &'a Subject,
    /// The version that is sent.
    pub version: Version,
}

impl Topic {
    /// Takes a template for publishing.
    ///
    /// # Errors
    /// Empty, too long, with a wildcard or an unknown word in braces, or one of the broker's own topics.
    pub fn parse(template: &str) -> Result<Self, String> {
        if template.is_empty() || template.len() > TOPIC_BYTES_MAX {
            return Err(format!("expected a topic of 1 to {TOPIC_BYTES_MAX} bytes"));
        }
        if template.contains(['+', '#']) {
            return Err("a topic to publish to has no wildcard (`+`, `#`)".to_owned());
        }
        if template.chars().any(char::is_control) {
            return Err("a topic has no control characters".to_owned());
        }
        if template.starts_with('$') {
            return Err("topics that begin with `$` are the broker's own".to_owned());
        }
        let rest = ["{subject}", "{id}", "{version}", "{partner}"]
            .iter()
            .fold(template.to_owned(), |rest, word| rest.replace(word, ""));
        if rest.contains(['{', '}']) {
            return Err("known in braces are {subject}, {id}, {version} and {partner}".to_owned());
        }
        Ok(Self(template.to_owned()))
    }

    /// Takes the template that an address holds after its host, percent-encoded as addresses are.
    ///
    /// # Errors
    /// As for `parse`, or not UTF-8.
    pub fn of_path(path: &str) -> Result<Self, String> {
        Self::parse(&decoded(path)?)
    }

    /// The template as it was written.
    pub(crate) fn template(&self) -> &str {
        &self.0
    }

    /// The topic for one message. Characters that have a meaning in topics stand as `%2F` and its like in a value.
    #[must_use]
    pub fn fill(&self, values: &Values<'_>) -> String {
        self.fill_sparing(values, has_meaning_in_mqtt)
    }

    /// The topic for one message on a broker that gives these characters a meaning.
    pub(crate) fn fill_sparing(&self, values: &Values<'_>, has_meaning: fn(char) -> bool) -> String {
        let mut out = self.fill_with(values, |out, value| push_safe(out, value, has_meaning));
        if out.starts_with('$') {
            out.replace_range(..1, "%24");
        }
        out
    }

    /// The template with each value written by `push`, which says what stands for what a broker cannot take.
    pub(crate) fn fill_with(&self, values: &Values<'_>, push: impl Fn(&mut String, &str)) -> String {
        let mut out = String::with_capacity(self.0.len() + 32);
        let mut rest = self.0.as_str();
        // In one pass, so that a value that holds `{id}` stays what it is.
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            let end = rest[at..].find('}').map_or(rest.len(), |length| at + length + 1);
            match &rest[at..end] {
                "{subject}" => push(&mut out, values.subject.as_str()),
                "{id}" => push(&mut out, values.event.as_str()),
                "{version}" => out.push_str(&values.version.to_string()),
                _ => push(&mut out, values.partner.as_str()),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

/// A part of an address with `%20` and its like undone.
pub(crate) fn decoded(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let coded = std::str::from_utf8(after.get(..2).unwrap_or_default()).ok();
        match (first, coded.and_then(|coded| u8::from_str_radix(coded, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| "an address is UTF-8, percent-encoded where it must be".to_owned())
}

fn has_meaning_in_mqtt(character: char) -> bool {
    matches!(character, '+' | '#' | '/')
}

fn push_safe(out: &mut String, value: &str, has_meaning: fn(char) -> bool) {
    for character in value.chars() {
        if character == '%' || character.is_control() || has_meaning(character) {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(character);
        }
    }
}

/// A filter to listen with: the partner filled in; wildcards are fine at their places.
///
/// # Errors
/// A wildcard that is not a level of its own, `#` before the end, or another word in braces.
pub fn filter(template: &str, partner: &PartnerId) -> Result<String, String> {
    let mut name = String::new();
    push_safe(&mut name, partner.as_str(), has_meaning_in_mqtt);
    let filled = template.replace("{partner}", &name);
    if filled.contains(['{', '}']) {
        return Err("known in braces there is {partner}".to_owned());
    }
    if filled.chars().any(char::is_control) {
        return Err("a topic has no control characters".to_owned());
    }
    let levels: Vec<&str> = filled.split('/').collect();
    let is_fine = |(at, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        other => !other.contains(['+', '#']),
    };
    if !levels.iter().enumerate().all(is_fine) {
        return Err("`+` stands for a whole level and `#` for all that follow, at the end".to_owned());
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, subject: &str) -> String {
        let partner = PartnerId::parse("CLINIC").unwrap();
        let (event, subject) = (EventId::trusted("R:1-V3"), Subject::trusted(subject));
        let values = Values { partner: &partner, event: &event, subject: &subject, version: Version(3) };
        Topic::parse(template).unwrap().fill(&values)
    }

    #[test]
    fn a_value_names_no_other_topic_than_its_own() {
        assert_eq!(fill("rules/{subject}/{id}/v{version}/{partner}", "RULE-A"), "rules/RULE-A/R:1-V3/v3/CLINIC");
        assert_eq!(fill("rules/{subject}", "a/b+c#d%e\0f"), "rules/a%2Fb%2Bc%23d%25e%00f");
        assert_eq!(fill("{subject}", "$SYS"), "%24SYS");
        assert_eq!(fill("{subject}/x", "{id}"), "{id}/x");
        assert_eq!(fill("r/{subject}", "Gebühr"), "r/Gebühr");
        assert_eq!(Topic::of_path("a%20b/%7Bid%7D"), Topic::parse("a b/{id}"));
    }

    #[test]
    fn a_template_that_is_no_topic_is_refused() {
        for wrong in ["", "a/+/b", "a/#", "$SYS/x", "a/{event}", "a/{", "a\0b"] {
            assert!(Topic::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_has_its_wildcards_at_their_places() {
        let partner = PartnerId::parse("CLINIC").unwrap();
        assert_eq!(filter("acks/{partner}/#", &partner).unwrap(), "acks/CLINIC/#");
        assert_eq!(filter("acks/+/x", &partner).unwrap(), "acks/+/x");
        for wrong in ["a/#/b", "a+/b", "a/b#", "a/{id}"] {
            assert!(filter(wrong, &partner).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_subjects_never_share_a_topic(one in "[ -~]{1,12}", other in "[ -~]{1,12}") {
            let is_same = fill("{subject}", &one) == fill("{subject}", &other);
            proptest::prop_assert_eq!(is_same, one == other);
            let has_wildcard = fill("{subject}", &one).contains(['+', '#', '/']);
            proptest::prop_assert!(!has_wildcard);
        }
    }
}
