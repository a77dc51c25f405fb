//! Where a message goes on a NATS server or an AMQP broker, as the path of an address names it.
//!
//! No value can name another place than its own: what has a meaning there stands percent-encoded in it.

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
