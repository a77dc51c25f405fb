//! Partners: add, change, list, pause, test, remove.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::id::PartnerId;
use ess_core::json::Fields;
use ess_core::limits::PARTNER_FILE_BYTES_MAX;
use ess_core::partner::{Partner, Secrets};
use ess_core::problem::{Code, Problem};
use ess_hub::view::{PartnerChange, PartnerTest, PartnerView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::{Answer, List, OfPartner, answer, ok, read_json};
use crate::body::Ignored;
use crate::caller::{Caller, Reason};
use crate::document;
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// A partner's document: four fields are a complete one, everything else has a default.
#[derive(ToSchema)]
#[schema(as = PartnerDocument)]
#[allow(dead_code)]
pub(crate) struct PartnerDocument {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`.
    #[schema(example = "COURT-CAL")]
    id: String,
    /// Where events go.
    #[schema(example = "https://api.courtcal.com/update")]
    url: String,
    /// The schema version that it wants: a number, a map from subject glob to number, or absent for as published.
    #[schema(value_type = Option<serde_json::Value>, example = 1)]
    accepts_version: Option<()>,
    /// `webhook`.
    #[schema(example = "webhook")]
    channel: Option<String>,
    /// Globs over subjects; `["*"]` unless given.
    subscribe: Option<Vec<String>>,
    /// JSONata predicate over the payload.
    #[schema(rename = "where")]
    filter: Option<String>,
    /// JSONata that reshapes the bridged event.
    adapter: Option<String>,
    /// `json`, `form`, `text` or `cloudevents`.
    format: Option<String>,
    /// `{"by": "body", "within": "30s", "resend": 3}`.
    #[schema(value_type = Option<serde_json::Value>)]
    ack: Option<()>,
    /// `{"first": "5s", "factor": 2, "max": "1h", "jitter": 0.2, "give_up_after": "24h", "redrive": "on_recovery"}`.
    #[schema(value_type = Option<serde_json::Value>)]
    retry: Option<()>,
    /// `subject`, `latest` or `none`.
    order: Option<String>,
    /// `{"in_flight": 16, "per_second": 0}`.
    #[schema(value_type = Option<serde_json::Value>)]
    limits: Option<()>,
    /// One attempt, such as `30s`.
    timeout: Option<String>,
    /// Fixed request headers.
    #[schema(value_type = Option<serde_json::Value>)]
    headers: Option<()>,
    /// `{"bearer": "env:NAME"}`, or `basic`, `oauth2`, `mtls`.
    #[schema(value_type = Option<serde_json::Value>)]
    auth: Option<()>,
    /// `{"after": "15m", "to": ["ops-email"]}`.
    #[schema(value_type = Option<serde_json::Value>)]
    escalate: Option<()>,
    /// IANA time zone, bound as `$partner.zone`.
    zone: Option<String>,
    /// Another way to reach it.
    #[schema(value_type = Option<serde_json::Value>)]
    fallback: Option<()>,
    /// `deliver`, `skip` or the address for dry runs.
    tests: Option<String>,
}

/// A partner and how it fares.
#[derive(Serialize, ToSchema)]
#[schema(as = Partner)]
pub(crate) struct PartnerState {
    id: String,
    /// `active`, `paused` or `offline`.
    #[schema(example = "active")]
    state: &'static str,
    /// The whole document, defaults included; secrets are references or `(sealed)`.
    #[schema(value_type = PartnerDocument)]
    config: Value,
    added_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_since: Option<String>,
    /// Deliveries not yet ended.
    backlog: u64,
    /// Attempts under way.
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// What its `where` said since the hub began.
    #[serde(skip_serializing_if = "Option::is_none")]
    where_counts: Option<WhereCounts>,
}

/// What a `where` predicate said of the events of the partner's subjects.
#[derive(Serialize, ToSchema)]
pub(crate) struct WhereCounts {
    /// They went out.
    matched: u64,
    /// They did not.
    left_out: u64,
    /// The predicate failed; they went out.
    failed: u64,
}

impl PartnerState {
    fn of(view: &PartnerView) -> Self {
        let state = match (view.paused_since, view.offline_since) {
            (Some(_), _) => "paused",
            (None, Some(_)) => "offline",
            (None, None) => "active",
        };
        Self {
            id: view.partner.id.to_string(),
            state,
            config: view.partner.to_json(Secrets::Masked),
            added_at: view.added_at.to_string(),
            paused_since: view.paused_since.map(|time| time.to_string()),
            offline_since: view.offline_since.map(|time| time.to_string()),
            backlog: view.backlog,
            in_flight: view.in_flight,
            last_error: view.last_error.clone(),
            where_counts: view.filter.map(|counts| WhereCounts {
                matched: counts.matched,
                left_out: counts.left_out,
                failed: counts.failed,
            }),
        }
    }
}

/// What adding or replacing a partner did.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartnerChanged {
    partner: PartnerState,
    /// The signing secret, shown this once: when the partner is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_c2VjcmV0LXNob3duLW9uY2U")]
    secret: Option<String>,
    /// False when it was the same already.
    changed: bool,
}

impl PartnerChanged {
    fn of(change: PartnerChange) -> Self {
        let PartnerChange { partner, secret, changed } = change;
        Self { partner: PartnerState::of(&partner), secret, changed }
    }
}

/// Reads a partner's document; `named` is the id in the path, which the document may leave out but not contradict.
fn read_partner(body: &[u8], named: Option<&PartnerId>) -> Result<Partner, Problem> {
    // Fields that stand twice, and where JSON is broken, are told before anything else.
    Fields::parse(body)?;
    let mut document: Value = document::read(body)?;
    if let (Some(named), Value::Object(map)) = (named, &mut document) {
        let id = map.entry("id").or_insert_with(|| Value::from(named.as_str()));
        if id.as_str() != Some(named.as_str()) {
            let detail = format!("the document's id is not the path's, {named}");
            return Err(Problem::new(Code::Invalid, detail).with_field("id"));
        }
    }
    Partner::from_json(&document)
}

/// Add a partner
///
/// The signing secret is in the answer, this once. The same content again changes nothing; other content is refused with
/// the differences unless `replace` is set.
#[utoipa::path(
    post,
    path = "/v1/partners",
    tag = "Partners",
    operation_id = "add_partner",
    params(
        ("replace" = Option<bool>, Query, description = "Take the place of the partner's present document."),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = PartnerDocument, example = json!({"id": "COURT-CAL", "url": "https://api.courtcal.com/update", "accepts_version": 1, "channel": "webhook"})),
    responses(
        (status = 201, description = "Added, or replaced.", body = PartnerChanged),
        (status = 200, description = "It was the same already.", body = PartnerChanged),
        (status = 409, description = "It is there with other content; `detail` holds the differences.", body = crate::refusal::ProblemDocument<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn add_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    let replace = query.only(&["replace"])?.flag("replace")?;
    let body = read_json(&site, request, PARTNER_FILE_BYTES_MAX).await?;
    let partner = read_partner(&body.bytes, None)?;
    let change = site.hub.add_partner(partner, replace, reason, &caller.0).await?;
    let status = if change.changed { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, PartnerChanged::of(change))
}

/// Set a partner's document
///
/// Adds the partner or takes the place of its present document.
#[utoipa::path(
    put,
    path = "/v1/partners/{id}",
    tag = "Partners",
    operation_id = "set_partner",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = PartnerDocument, example = json!({"url": "https://api.courtcal.com/update", "accepts_version": 1})),
    responses(
        (status = 201, description = "The partner is new.", body = PartnerChanged),
        (status = 200, description = "It was there before.", body = PartnerChanged),
    ),
)]
pub(crate) async fn set_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let body = read_json(&site, request, PARTNER_FILE_BYTES_MAX).await?;
    let partner = read_partner(&body.bytes, Some(&id))?;
    let replace = true;
    let change = site.hub.add_partner(partner, replace, reason, &caller.0).await?;
    let status = if change.secret.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, PartnerChanged::of(change))
}

/// List the partners
#[utoipa::path(
    get,
    path = "/v1/partners",
    tag = "Partners",
    operation_id = "list_partners",
    params(
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of partners, by id.", body = List<PartnerState>)),
)]
pub(crate) async fn list_partners(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["after", "limit"])?;
    let page = site.hub.partners_page(query.text("after"), query.limit()?).await?;
    ok(List::of(page, |view| PartnerState::of(&view)))
}

/// Read one partner
#[utoipa::path(
    get,
    path = "/v1/partners/{id}",
    tag = "Partners",
    operation_id = "read_partner",
    params(("id" = String, Path, description = "The partner's id.", example = "COURT-CAL")),
    responses((status = 200, description = "The partner.", body = PartnerState, example = json!({"id": "COURT-CAL", "state": "active", "config": {"id": "COURT-CAL", "channel": "webhook", "url": "https://api.courtcal.com/update", "accepts_version": 1, "subscribe": ["*"]}, "added_at": "2026-11-23T15:00:00Z", "backlog": 0, "in_flight": 0}))),
)]
pub(crate) async fn read_one(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadPartner(&id))?;
    query.only(&[])?;
    ok(PartnerState::of(&site.hub.partner(&id).await?))
}

/// Remove a partner
///
/// Its open deliveries end as cancelled; what was delivered stays on record.
#[utoipa::path(
    delete,
    path = "/v1/partners/{id}",
    tag = "Partners",
    operation_id = "remove_partner",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 204, description = "Removed.")),
)]
pub(crate) async fn remove_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    Reason(reason): Reason,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    site.hub.remove_partner(&id, reason, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Pause a partner
///
/// Nothing is sent to it until it is resumed; its events wait.
#[utoipa::path(
    post,
    path = "/v1/partners/{id}/pause",
    tag = "Partners",
    operation_id = "pause_partner",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 200, description = "The partner.", body = PartnerState)),
)]
pub(crate) async fn pause_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    Reason(reason): Reason,
    _: Ignored,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    ok(PartnerState::of(&site.hub.pause_partner(&id, reason, &caller.0).await?))
}

/// Resume a partner
#[utoipa::path(
    post,
    path = "/v1/partners/{id}/resume",
    tag = "Partners",
    operation_id = "resume_partner",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 200, description = "The partner.", body = PartnerState)),
)]
pub(crate) async fn resume_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    Reason(reason): Reason,
    _: Ignored,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    ok(PartnerState::of(&site.hub.resume_partner(&id, reason, &caller.0).await?))
}

/// What a test delivery brought.
#[derive(Serialize, ToSchema)]
pub(crate) struct TestResult {
    message_id: String,
    /// HTTP status, if there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Whether the partner acknowledged.
    acked: bool,
    took_ms: u64,
    /// What came back, in words.
    reason: String,
}

/// Send a test
///
/// One marked message, now; nothing is recorded as an event. A partner may ask for its own.
#[utoipa::path(
    post,
    path = "/v1/partners/{id}/test",
    tag = "Partners",
    operation_id = "test_partner",
    params(("id" = String, Path, description = "The partner's id.", example = "COURT-CAL")),
    responses((status = 200, description = "What came back.", body = TestResult, example = json!({"message_id": "test_msg_019ab0de6b2b7e2a9a52f3f0c1d2e3f4", "status": 200, "acked": true, "took_ms": 41, "reason": "acknowledged in the answer"}))),
)]
pub(crate) async fn test_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    _: Ignored,
) -> Answer {
    caller.permit(&Act::Tend(&id))?;
    query.only(&[])?;
    let PartnerTest { message_id, status, acked, took, reason } = site.hub.test_partner(&id, &caller.0).await?;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    ok(TestResult { message_id, status, acked, took_ms, reason })
}

/// How to rotate.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old secret signs too; `24h` unless given, at most `30d`.
    #[schema(example = "24h")]
    overlap: Option<String>,
}

/// The new secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Rotated {
    /// Shown this once.
    #[schema(example = "whsec_bmV3LXNlY3JldA")]
    secret: String,
    #[schema(example = "24h")]
    old_valid_for: String,
}

/// Rotate the signing secret
///
/// Both secrets sign for a while, so that the partner can change over without a gap. A partner may ask for its own.
#[utoipa::path(
    post,
    path = "/v1/partners/{id}/rotate-secret",
    tag = "Partners",
    operation_id = "rotate_secret",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = Rotation, example = json!({"overlap": "24h"})),
    responses((status = 200, description = "The new secret, shown this once.", body = Rotated)),
)]
pub(crate) async fn rotate_secret(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Tend(&id))?;
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Rotation { overlap } = document::read_optional(&body.bytes)?;
    let refuse = |wrong: String| Problem::new(Code::Invalid, wrong).with_field("overlap");
    let overlap = ess_core::duration::parse(overlap.as_deref().unwrap_or("24h")).map_err(refuse)?;
    if overlap > std::time::Duration::from_secs(30 * 86_400) {
        return Err(refuse("overlap may be at most 30d".to_owned()).into());
    }
    let secret = site.hub.rotate_secret(&id, overlap, reason, &caller.0).await?;
    ok(Rotated { secret, old_valid_for: ess_core::duration::format(overlap) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_leave_its_id_to_the_path_but_not_contradict_it() {
        let id = PartnerId::trusted("COURT-CAL");
        let body = br#"{"url": "https://api.courtcal.com/update"}"#;
        assert_eq!(read_partner(body, Some(&id)).unwrap().id, id);
        assert_eq!(read_partner(body, None).unwrap_err().field.as_deref(), Some("id"));
        let other = br#"{"id": "OTHER", "url": "https://api.courtcal.com/update"}"#;
        assert_eq!(read_partner(other, Some(&id)).unwrap_err().field.as_deref(), Some("id"));
        let twice = br#"{"id": "A", "id": "B", "url": "https://api.courtcal.com/update"}"#;
        assert_eq!(read_partner(twice, None).unwrap_err().field.as_deref(), Some("id"));
    }
}
