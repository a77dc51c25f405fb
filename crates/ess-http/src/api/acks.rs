//! `/v1/acks`: a partner's word, under its own token.

use axum::body::Body;
use axum::extract::State;
use ess_core::access::{Act, Role};
use ess_core::problem::{Code, Problem};
use ess_core::receipt::AckWord;
use ess_hub::{Hub, Word};
use http::{Request, StatusCode};
use serde_json::json;

use super::{Answer, json as answer};
use crate::ask::{self, allow, caller};

pub(crate) async fn take(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = caller(&hub, request.headers())?;
    let word = AckWord::parse(&ask::body(request, ess_core::limits::ADMIN_BYTES_MAX).await?)?;
    let (word, named) = match word {
        AckWord::Ack { event, test, digest, partner } => (Word::Ack { event, test, digest }, partner),
        AckWord::Nack { event, test, reason, retryable, partner } => {
            (Word::Nack { event, test, reason, retryable }, partner)
        }
    };
    let partner = match (&caller.role, named) {
        (Role::Partner(own), None) => own.clone(),
        (_, Some(named)) => named,
        (_, None) => {
            return Err(Problem::new(Code::Invalid, "say for which partner: this token is not a partner's")
                .with_field("partner")
                .into());
        }
    };
    allow(&caller, &Act::Acknowledge(&partner))?;
    hub.acknowledge(word, &partner, &caller).await?;
    answer(StatusCode::OK, &json!({"ok": true}))
}
