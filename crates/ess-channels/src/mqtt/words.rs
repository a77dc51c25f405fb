//! What a broker's codes mean, in words that say what to do, and which event the correlation of a receipt names.
//!
//! Source: OASIS MQTT 5.0 section 2.4, MQTT 3.1.1 section 3.2.2.3. Pure.

use ess_core::id::EventId;
use ess_core::partner::MqttProtocol;
use ess_core::receipt::{Failure, Receipt, Stage};

use super::line::Puback;

/// The correlation that a receipt may give back: the event's id, `;test` behind it for a dry run.
pub(super) fn correlation(event: &EventId, test: bool) -> Vec<u8> {
    format!("{event}{}", if test { ";test" } else { "" }).into_bytes()
}

/// The event that a correlation names, and whether a dry run is meant.
pub(super) fn named(correlation: &[u8]) -> Option<(EventId, bool)> {
    let text = std::str::from_utf8(correlation).ok()?;
    let (id, test) = text.strip_suffix(";test").map_or((text, false), |id| (id, true));
    EventId::parse(id).ok().map(|id| (id, test))
}

/// What a PUBACK means.
pub(super) fn receipt(puback: Puback, topic: &str) -> Receipt {
    let Puback { code, reason } = puback;
    let said = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let refused = |what: &str| Receipt::Refused { reason: format!("{what}{said}") };
    let failed = |what: &str| Receipt::Failed(Failure { stage: Stage::Await, reason: format!("{what}{said}") });
    match code {
        // 0x10 says that nobody is subscribed; the broker has done its part.
        0..0x80 => Receipt::Confirmed,
        0x87 => refused(&format!("the broker does not let the hub publish to {topic}; allow it there")),
        0x90 => refused(&format!("the broker does not take the topic {topic}")),
        0x99 => refused("the broker says that the payload is not what it claims to be (0x99)"),
        0x97 => failed("the broker's quota for the hub is used up (0x97)"),
        0x91 => failed("the broker holds the packet id in use (0x91)"),
        _ => failed(&format!("the broker refused the message (0x{code:02X})")),
    }
}

/// Why a log-in was refused.
pub(super) fn connack_words(protocol: MqttProtocol, code: u8, reason: Option<String>) -> String {
    let said = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = match (protocol, code) {
        // A broker of 3.1.1 answers with its own code.
        (MqttProtocol::V5, 0x84 | 1) => "the broker does not speak MQTT 5; set `protocol: 3.1.1`".to_owned(),
        (MqttProtocol::V311, 1) => "the broker does not speak MQTT 3.1.1; leave `protocol` away".to_owned(),
        (MqttProtocol::V5, 0x85) | (MqttProtocol::V311, 2) => {
            "the broker does not take the client id; set `client_id`".to_owned()
        }
        (MqttProtocol::V5, 0x86) | (MqttProtocol::V311, 4) => {
            "the broker does not take the user's name and password".to_owned()
        }
        (MqttProtocol::V5, 0x87 | 0x8A | 0x8C) | (MqttProtocol::V311, 5) => {
            "the broker does not let the hub in; is `auth` right?".to_owned()
        }
        (MqttProtocol::V5, 0x88 | 0x89) | (MqttProtocol::V311, 3) => "the broker is not available now".to_owned(),
        (MqttProtocol::V5, 0x97 | 0x9F) => "the broker takes no more connections of the hub now".to_owned(),
        _ => format!("the broker refused the log-in (0x{code:02X})"),
    };
    format!("{what}{said}")
}

/// Why the broker ended a connection.
pub(super) fn disconnect_words(code: u8, reason: Option<String>) -> String {
    let said = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = match code {
        0x8B => "the broker is stopping".to_owned(),
        0x8E => "another client logged in under the same client id; set `client_id`".to_owned(),
        0x95 => "the broker does not take a message of this length".to_owned(),
        0x9B | 0x9A => "the broker does not take QoS 1 or retained messages".to_owned(),
        _ => format!("the broker ended the connection (0x{code:02X})"),
    };
    format!("{what}{said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correlation_names_its_event() {
        let event = EventId::trusted("RULE:1-V3");
        for test in [false, true] {
            assert_eq!(named(&correlation(&event, test)), Some((event.clone(), test)));
        }
        for other in [&b"\xFF"[..], b"", b"a b", b";test"] {
            assert_eq!(named(other), None);
        }
    }

    #[test]
    fn codes_end_a_message_or_let_it_be_tried_again() {
        let of = |code| receipt(Puback { code, reason: None }, "t");
        assert!(matches!(of(0), Receipt::Confirmed));
        assert!(matches!(of(0x10), Receipt::Confirmed));
        for code in [0x87, 0x90, 0x99] {
            assert!(matches!(of(code), Receipt::Refused { .. }), "{code:x}");
        }
        for code in [0x80, 0x83, 0x91, 0x97, 0xFF] {
            assert!(matches!(of(code), Receipt::Failed(_)), "{code:x}");
        }
    }
}
