//! Where a message goes on a NATS server, an AMQP broker or a Kafka cluster, as the path of an address names it.
//!
//! No value can name another place than its own: what has a meaning there stands encoded in it.

use crate::topic::{Topic, Values, decoded};

/// A subject of NATS, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsSubject(Topic);

impl NatsSubject {
    /// Takes the template that an address holds after its host.
    ///
    /// # Errors
    /// Nothing, a wildcard, a blank, an empty token, or an unknown word in braces.
    pub fn of_path(path: &str) -> Result<Self, String> {
        if path.contains('?') {
            return Err("a `?` in a subject is written %3F".to_owned());
        }
        let topic = Topic::of_path(path.strip_prefix('/').unwrap_or(path))
            .map_err(|why| format!("after the host stands the subject: {why}"))?;
        let template = topic.template();
        let refuse = |why: &str| Err(why.to_owned());
        if template.contains(['*', '>']) {
            return refuse("a subject to publish to has no wildcard (`*`, `>`)");
        }
        if template.chars().any(char::is_whitespace) {
            return refuse("a subject has no blanks");
        }
        if template.split('.').any(str::is_empty) {
            return refuse("between the dots of a subject stands something");
        }
        if template.starts_with("_INBOX.") {
            return refuse("subjects that begin with `_INBOX.` are for answers");
        }
        Ok(Self(topic))
    }

    /// The subject for one message; a value is always one token.
    #[must_use]
    pub fn fill(&self, values: &Values<'_>) -> String {
        self.0.fill_sparing(values, |character| character.is_whitespace() || matches!(character, '.' | '*' | '>'))
    }
}

/// A topic of Kafka, checked. Its name has letters, digits, dots, hyphens and underscores only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTopic(Topic);

/// Length of a topic's name.
const KAFKA_TOPIC_BYTES_MAX: usize = 249;

impl KafkaTopic {
    /// Takes the template that an address holds after its host.
    ///
    /// # Errors
    /// Nothing, a character that no topic has, one of the cluster's own topics, or an unknown word in braces.
    pub fn of_path(path: &str) -> Result<Self, String> {
        let topic = Topic::of_path(path.strip_prefix('/').unwrap_or(path))
            .map_err(|why| format!("after the host stands the topic: {why}"))?;
        let template = topic.template();
        if !template.chars().all(|character| is_of_kafka(character) || matches!(character, '{' | '}')) {
            return Err("a topic has letters, digits, `.`, `-` and `_` only, and words in braces".to_owned());
        }
        if template.starts_with("__") {
            return Err("topics that begin with `__` are the cluster's own".to_owned());
        }
        if matches!(template, "." | "..") || template.len() > KAFKA_TOPIC_BYTES_MAX {
            return Err(format!("a topic has 1 to {KAFKA_TOPIC_BYTES_MAX} characters and is not `.` or `..`"));
        }
        Ok(Self(topic))
    }

    /// The topic for one message. What a value cannot have there stands as `_x3a` and its like.
    ///
    /// # Errors
    /// The name that comes out is none that a topic can have.
    pub fn fill(&self, values: &Values<'_>) -> Result<String, String> {
        // An underscore of a value that begins one of these is one of them, so that two values never become one.
        let filled = self.0.fill_with(values, |out, value| {
            let mut rest = value;
            while let Some(character) = rest.chars().next() {
                rest = &rest[character.len_utf8()..];
                let is_first = matches!(out.as_str(), "" | "_");
                let begins_word = character == '_' && (rest.starts_with('x') || is_first);
                if is_of_kafka(character) && !begins_word {
                    out.push(character);
                    continue;
                }
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("_x{byte:02x}"));
                }
            }
        });
        match filled.as_str() {
            "." | ".." => Err(format!("no topic can be called {filled}")),
            _ if filled.len() > KAFKA_TOPIC_BYTES_MAX => Err(format!(
                "the topic's name takes {} bytes, and Kafka has {KAFKA_TOPIC_BYTES_MAX} at most",
                filled.len()
            )),
            _ => Ok(filled),
        }
    }
}

fn is_of_kafka(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
}

/// A virtual host, an exchange and a routing key of AMQP, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpPlace {
    /// The virtual host.
    pub vhost: String,
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// None goes with an empty routing key, as to a fanout exchange.
    routing_key: Option<Topic>,
}

impl AmqpPlace {
    /// Takes `/vhost/exchange/routing-key`, of which the key may be absent and the exchange empty.
    ///
    /// # Errors
    /// A part that is missing, too long, or has braces where they mean nothing.
    pub fn of_path(path: &str) -> Result<Self, String> {
        if path.contains('?') {
            return Err("a `?` there is written %3F".to_owned());
        }
        let mut parts = path.strip_prefix('/').unwrap_or(path).splitn(3, '/');
        let (Some(vhost), Some(exchange)) = (parts.next(), parts.next()) else {
            return Err(
                "expected a virtual host and an exchange after the host, with %2F for the virtual host /".into()
            );
        };
        let (vhost, exchange) = (decoded(vhost)?, decoded(exchange)?);
        if vhost.is_empty() || vhost.len() > 255 || exchange.len() > 255 {
            return Err("a virtual host has 1 to 255 bytes (write / as %2F), an exchange 255 at most".to_owned());
        }
        if exchange.contains(['{', '}']) || vhost.contains(['{', '}']) {
            return Err("only the routing key has words in braces".to_owned());
        }
        let routing_key = match parts.next().unwrap_or_default() {
            "" => None,
            key => Some(Topic::of_path(key)?),
        };
        if exchange.is_empty() && routing_key.is_none() {
            return Err("the default exchange needs the queue's name as routing key".to_owned());
        }
        Ok(Self { vhost, exchange, routing_key })
    }

    /// The routing key for one message; a value is always one word.
    #[must_use]
    pub fn routing_key(&self, values: &Values<'_>) -> String {
        let has_meaning = |character| matches!(character, '.' | '*' | '#');
        self.routing_key.as_ref().map(|key| key.fill_sparing(values, has_meaning)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{EventId, PartnerId, Subject, Version};

    fn with_values<T>(subject: &str, look: impl FnOnce(&Values<'_>) -> T) -> T {
        let partner = PartnerId::parse("CLINIC.A").unwrap();
        let (event, subject) = (EventId::trusted("R:1-V3"), Subject::trusted(subject));
        look(&Values { partner: &partner, event: &event, subject: &subject, version: Version(3) })
    }

    #[test]
    fn a_value_is_one_token_of_a_subject() {
        let fill =
            |path: &str, subject: &str| with_values(subject, |values| NatsSubject::of_path(path).unwrap().fill(values));
        assert_eq!(fill("/rules.{partner}.{subject}.v{version}", "RULE-A"), "rules.CLINIC%2EA.RULE-A.v3");
        assert_eq!(fill("/rules.{subject}", "a.b*c>d e/f%"), "rules.a%2Eb%2Ac%3Ed%20e/f%25");
        assert_eq!(fill("/{id}", "x"), "R:1-V3");
    }

    #[test]
    fn an_address_that_names_no_subject_is_refused() {
        for wrong in
            ["", "/", "/rules.*", "/rules.%3E", "/a%20b", "/rules.", "/.a", "/a..b", "/_INBOX.x", "/a?b", "/{x}"]
        {
            assert!(NatsSubject::of_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_of_a_kafka_topic_names_no_other_topic() {
        let fill =
            |path: &str, subject: &str| with_values(subject, |values| KafkaTopic::of_path(path).unwrap().fill(values));
        assert_eq!(fill("/rules", "x").unwrap(), "rules");
        assert_eq!(fill("/rules.{partner}.{subject}.v{version}", "RULE_A-1").unwrap(), "rules.CLINIC.A.RULE_A-1.v3");
        assert_eq!(fill("/{id}", "x").unwrap(), "R_x3a1-V3");
        assert_eq!(fill("/r.{subject}", "a/b ä_x20").unwrap(), "r.a_x2fb_x20_xc3_xa4_x5fx20");
        assert_eq!(fill("/{subject}", "__offsets").unwrap(), "_x5f_offsets");
        assert!(fill("/{subject}", "..").is_err() && fill("/{subject}", &"a".repeat(250)).is_err());
        for wrong in ["", "/", "/a/b", "/a%20b", "/__offsets", "/..", "/a?b", "/{x}", "/ä"] {
            assert!(KafkaTopic::of_path(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_subjects_never_share_a_kafka_topic(one in "[ax_/]{1,6}", other in "[ax_/]{1,6}") {
            let fill = |subject: &str| with_values(subject, |values| KafkaTopic::of_path("/{subject}").unwrap().fill(values));
            proptest::prop_assert_eq!(fill(&one) == fill(&other), one == other);
        }
    }

    #[test]
    fn an_address_names_a_virtual_host_an_exchange_and_a_key() {
        let of = |path: &str| {
            let place = AmqpPlace::of_path(path)?;
            let key = with_values("a.b#", |values| place.routing_key(values));
            Ok::<_, String>(format!("{}|{}|{key}", place.vhost, place.exchange))
        };
        assert_eq!(of("/court/rules/{subject}.x").unwrap(), "court|rules|a%2Eb%23.x");
        assert_eq!(of("/%2F/rules").unwrap(), "/|rules|");
        assert_eq!(of("/%2F//a/b").unwrap(), "/||a/b");
        for wrong in ["", "/", "/court", "//rules/k", "/v/{subject}/k", "/v//", "/v/e/{x}", "/v/e/k?x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
