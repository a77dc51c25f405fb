//! What the codes of a Kafka broker mean for a message, in words that say what to do.
//!
//! Source: Kafka protocol guide, "Error codes".

use ess_core::receipt::words;

use super::protocol::Produced;

/// What became of a message that a broker answered for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The partition has it, now or since an earlier attempt.
    Appended,
    /// Another broker leads the partition; ask who.
    Moved(String),
    /// The broker knows this sender no more, or it went on without this message; another sender may try.
    Forgotten(String),
    /// It may go better later.
    Later(String),
    /// It never will.
    Refused(String),
}

/// What a broker's answer to a message means.
pub(super) fn outcome(produced: &Produced, topic: &str) -> Outcome {
    let said = produced.message.as_deref().map(|message| format!(": {}", words(message))).unwrap_or_default();
    match produced.error {
        // The second is a message that it has since so long that it does not say where.
        0 | 46 => Outcome::Appended,
        3 | 5 | 6 | 9 | 13 | 56 | 74 | 75 | 76 => Outcome::Moved(format!("{}{said}", name(produced.error, topic))),
        45 | 47 | 49 | 59 | 90 => Outcome::Forgotten(format!(
            "the broker does not know the sequence of messages any more ({})",
            produced.error
        )),
        10 | 18 => Outcome::Refused(format!("the broker does not take so long a message for topic {topic}{said}")),
        17 | 42 | 43 | 44 | 87 => Outcome::Refused(format!(
            "the broker does not take the message for topic {topic}{said} ({})",
            produced.error
        )),
        error => Outcome::Later(format!("{}{said}", name(error, topic))),
    }
}

/// What is wrong with a topic, or the cluster, when its whereabouts are asked for.
pub(super) fn name(error: i16, topic: &str) -> String {
    match error {
        3 => format!("topic {topic} is not there; let the partner create it, or correct the url"),
        5 => format!("topic {topic} has no leader for now"),
        6 => format!("the broker leads topic {topic} no more"),
        7 => "the broker's replicas took too long to take the message".to_owned(),
        17 => format!("no topic can be called {topic}"),
        19 | 20 => format!("too few replicas of topic {topic} are in step for acks=all"),
        29 | 53 => format!("the user may not write to topic {topic}; let the partner grant it"),
        31 => "the user may not produce on this cluster; let the partner grant it".to_owned(),
        56 => "the broker could not write to its disk".to_owned(),
        89 => "the broker takes no messages for now: a quota is used up".to_owned(),
        error => format!("the broker did not take the message for topic {topic} (error {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_can_be_done() {
        let of = |error| outcome(&Produced { error, message: None }, "rules");
        assert!([0, 46].iter().all(|error| of(*error) == Outcome::Appended));
        assert!([3, 5, 6, 56].iter().all(|error| matches!(of(*error), Outcome::Moved(_))));
        assert!([45, 47, 59].iter().all(|error| matches!(of(*error), Outcome::Forgotten(_))));
        assert!([10, 17, 44, 87].iter().all(|error| matches!(of(*error), Outcome::Refused(_))));
        assert!([-1, 2, 7, 19, 20, 29, 89, 12_345].iter().all(|error| matches!(of(*error), Outcome::Later(_))));
        let said = outcome(&Produced { error: 87, message: Some("a key\nis missing".to_owned()) }, "rules");
        let Outcome::Refused(reason) = said else { panic!("not refused") };
        assert!(reason.contains("topic rules: a key") && !reason.contains('\n'), "{reason}");
    }
}
