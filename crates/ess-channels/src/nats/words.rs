//! What a NATS server's answer to a publication means.

use ess_core::receipt::{Failure, Receipt, Stage, words};
use serde_json::Value;

use super::protocol::Reply;

/// What came back on the message's own inbox: JetStream's acknowledgement, its refusal, or the word that nobody listens.
pub(super) fn receipt(reply: &Reply, subject: &str) -> Receipt {
    let failed = |reason: String| Receipt::Failed(Failure { stage: Stage::Await, reason });
    if reply.status == Some(503) {
        let what = format!(
            "no stream takes the subject {subject}: the message was not stored; let the partner make a stream for it, or \
             correct the url"
        );
        return failed(what);
    }
    let ack: Value = serde_json::from_slice(&reply.payload).unwrap_or(Value::Null);
    if let Some(error) = ack.get("error") {
        let said = error["description"].as_str().map_or_else(|| "no reason given".to_owned(), words);
        let code = error["code"].as_u64().unwrap_or(0);
        let number = error["err_code"].as_u64().unwrap_or(0);
        let reason = format!("the stream does not take the message: {said} (code {code}, {number})");
        // 4xx is about the message, the rest about the stream's state, such as its being full.
        return if (400..500).contains(&code) { Receipt::Refused { reason } } else { failed(reason) };
    }
    let is_stored = ack["stream"].as_str().is_some_and(|name| !name.is_empty()) && ack["seq"].as_u64().is_some();
    if is_stored {
        // A duplicate is what an earlier attempt brought, whose acknowledgement was lost.
        return Receipt::Confirmed;
    }
    failed(format!("what answers on {subject} is not JetStream; a stream must take it"))
}

/// An error that the server says in place of an answer.
pub(super) fn refusal(said: &str, subject: &str) -> Receipt {
    let said = words(said);
    let lower = said.to_ascii_lowercase();
    if lower.contains("maximum payload") {
        return Receipt::Refused { reason: format!("the server does not take so long a message: {said}") };
    }
    let is_denied = lower.contains("permissions violation");
    let hint = if is_denied { "; let the partner grant it, or correct the url" } else { "" };
    let reason = format!("the server refused the message to {subject}: {said}{hint}");
    Receipt::Failed(Failure { stage: Stage::Await, reason })
}

/// An error at the log-in.
pub(super) fn login_words(said: &str) -> String {
    let said = words(said);
    let lower = said.to_ascii_lowercase();
    if lower.contains("authorization violation") {
        return format!("the server does not take the login: {said}");
    }
    if lower.contains("permissions violation") {
        return format!("the user may not listen to _INBOX.>, without which there is no receipt: {said}");
    }
    format!("the server refused the log-in: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: Option<u16>, payload: &str) -> Receipt {
        let reply = Reply { subject: "_INBOX.a.1".to_owned(), status, payload: payload.as_bytes().to_vec() };
        receipt(&reply, "rules.R-1")
    }

    #[test]
    fn only_a_stored_message_is_confirmed() {
        assert!(matches!(of(None, r#"{"stream":"RULES","seq":7}"#), Receipt::Confirmed));
        assert!(matches!(of(None, r#"{"stream":"RULES","seq":7,"duplicate":true}"#), Receipt::Confirmed));
        for other in ["", "+ACK", "{}", r#"{"stream":"","seq":1}"#, r#"{"stream":"R"}"#, "[]", "7"] {
            assert!(matches!(of(None, other), Receipt::Failed(_)), "{other}");
        }
    }

    #[test]
    fn no_stream_waits_and_says_what_to_do() {
        let Receipt::Failed(failure) = of(Some(503), "") else { panic!("not a failure") };
        assert!(failure.reason.contains("rules.R-1") && failure.reason.contains("stream"), "{}", failure.reason);
    }

    #[test]
    fn a_full_stream_is_tried_again_and_a_wrong_message_is_not() {
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        assert!(matches!(of(None, full), Receipt::Failed(_)));
        let long = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}"#;
        let Receipt::Refused { reason } = of(None, long) else { panic!("not refused") };
        assert!(reason.contains("message size"), "{reason}");
    }

    #[test]
    fn a_servers_error_says_what_the_partner_can_grant() {
        let denied = refusal(r#"Permissions Violation for Publish to "rules.R-1""#, "rules.R-1");
        let Receipt::Failed(failure) = denied else { panic!("not a failure") };
        assert!(failure.reason.contains("grant"), "{}", failure.reason);
        assert!(matches!(refusal("Maximum Payload Violation", "x"), Receipt::Refused { .. }));
    }
}
