//! `POST /v1/acks`: a partner's word that comes later than its answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use ess_core::access::{Act, Role};
use ess_core::id::PartnerId;
use ess_core::problem::{Code, Problem};
use ess_core::receipt::AckWord;
use ess_hub::Word;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, ok, read_json};
use crate::caller::Caller;
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// A partner's word: `ack` or `nack`.
#[derive(ToSchema)]
#[schema(as = Ack)]
#[allow(dead_code)]
pub(crate) struct AckDocument {
    /// The event that is acknowledged.
    #[schema(example = "RULE-COURT-DEADLINE-V3")]
    ack: Option<String>,
    /// The event that is refused.
    nack: Option<String>,
    /// Why it is refused.
    reason: Option<String>,
    /// The refusal may pass: try again.
    retryable: Option<bool>,
    /// The dry run of this id.
    test: Option<bool>,
    /// `sha-256=…` of the bytes that the partner got.
    digest: Option<String>,
    /// For whom; only an operator says it, a partner's token speaks for its partner.
    partner: Option<String>,
}

/// It was done.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    ok: bool,
}

/// Acknowledge or refuse an event
///
/// With the partner's own token. A late ACK, or one of an earlier attempt, still counts.
#[utoipa::path(
    post,
    path = "/v1/acks",
    tag = "Partner's side",
    operation_id = "acknowledge_event",
    request_body(content = AckDocument, example = json!({"ack": "RULE-COURT-DEADLINE-V3"})),
    responses((status = 200, description = "Recorded in the Ack Ledger.", body = Done, example = json!({"ok": true}))),
)]
pub(crate) async fn acknowledge(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    request: Request,
) -> Answer {
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let (word, named) = match AckWord::parse(&body.bytes)? {
        AckWord::Ack { event, test, digest, partner } => (Word::Ack { event, test, digest }, partner),
        AckWord::Nack { event, test, reason, retryable, partner } => {
            (Word::Nack { event, test, reason, retryable }, partner)
        }
    };
    let partner = speaker(&caller.0.role, named)?;
    caller.permit(&Act::Acknowledge(&partner))?;
    site.hub.acknowledge(word, &partner, &caller.0).await?;
    ok(Done { ok: true })
}

/// For whom the word is: a partner speaks for itself, all others name one.
fn speaker(role: &Role, named: Option<PartnerId>) -> Result<PartnerId, Problem> {
    match (role, named) {
        (_, Some(named)) => Ok(named),
        (Role::Partner(own), None) => Ok(own.clone()),
        (_, None) => {
            Err(Problem::new(Code::Invalid, "this token is no partner's: name the partner that it speaks for")
                .with_field("partner")
                .with_hint("add \"partner\": \"<id>\", or use that partner's own token"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_speaks_for_itself_and_others_name_one() {
        let own = PartnerId::trusted("COURT-CAL");
        assert_eq!(speaker(&Role::Partner(own.clone()), None).unwrap(), own);
        assert_eq!(speaker(&Role::Operator, Some(own.clone())).unwrap(), own);
        assert_eq!(speaker(&Role::Admin, None).unwrap_err().field.as_deref(), Some("partner"));
    }
}
