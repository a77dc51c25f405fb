//! What a broker's answer to a publication means, in words that say what to do.

use ess_core::receipt::{Failure, Receipt, Stage, words};

/// Where a message went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
}

impl Place<'_> {
    fn exchange(&self) -> String {
        if self.exchange.is_empty() { "the default exchange".to_owned() } else { format!("exchange {}", self.exchange) }
    }
}

/// A message that came back: the broker has dropped it.
pub(super) fn returned(code: u16, text: &str, place: Place<'_>) -> Receipt {
    if code != 312 {
        let reason = format!("the broker gave the message back: {} ({code})", words(text));
        return Receipt::Failed(Failure { stage: Stage::Await, reason });
    }
    let reason = format!(
        "no queue takes what goes to {} with routing key {:?}; let the partner bind one, then redrive",
        place.exchange(),
        place.routing_key
    );
    Receipt::Refused { reason }
}

/// A nack: a queue is full and refuses what is new, or the broker failed inside.
pub(super) fn not_taken(place: Place<'_>) -> Receipt {
    let reason = format!("the broker did not take the message to {} (nack); its queue may be full", place.exchange());
    Receipt::Failed(Failure { stage: Stage::Await, reason })
}

/// The broker ended the channel or the connection in place of an answer.
pub(super) fn closed(code: u16, text: &str, place: Place<'_>) -> Receipt {
    let said = words(text);
    let reason = match code {
        404 => format!("{} is not there; let the partner declare it, or correct the url: {said}", place.exchange()),
        403 => format!("the user may not write to {}; let the partner grant it: {said}", place.exchange()),
        406 if said.contains("larger than") => {
            return Receipt::Refused { reason: format!("the broker does not take so long a message: {said}") };
        }
        _ => format!("the broker closed the connection: {said} ({code})"),
    };
    Receipt::Failed(Failure { stage: Stage::Await, reason })
}

/// The broker ended the connection at the log-in.
pub(super) fn login_words(code: u16, text: &str, vhost: &str) -> String {
    let said = words(text);
    match code {
        403 => format!("the broker does not take the login: {said}"),
        530 => format!("the user may not enter the virtual host {vhost}, or it is not there: {said}"),
        _ => format!("the broker closed the connection: {said} ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { exchange: "rules", routing_key: "R-1" };

    #[test]
    fn an_unroutable_message_is_refused_with_what_to_do() {
        let Receipt::Refused { reason } = returned(312, "NO_ROUTE", PLACE) else { panic!("not refused") };
        assert!(reason.contains("exchange rules") && reason.contains("\"R-1\"") && reason.contains("bind"), "{reason}");
        assert!(matches!(returned(313, "NO_CONSUMERS", PLACE), Receipt::Failed(_)));
    }

    #[test]
    fn what_the_partner_can_mend_is_tried_again() {
        for (code, word) in [(404, "declare"), (403, "grant"), (541, "INTERNAL")] {
            let Receipt::Failed(failure) = closed(code, "INTERNAL", PLACE) else { panic!("not a failure") };
            assert!(failure.reason.contains(word), "{}", failure.reason);
        }
        let long = "PRECONDITION_FAILED - message size 9 is larger than configured max size 8";
        assert!(matches!(closed(406, long, PLACE), Receipt::Refused { .. }));
        assert!(matches!(not_taken(PLACE), Receipt::Failed(_)));
        assert!(login_words(530, "NOT_ALLOWED", "court").contains("court"));
    }
}
