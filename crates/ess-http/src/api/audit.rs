//! The audit trail: who changed what, when and why.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_hub::view::AuditView;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// One act.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    /// From 1.
    number: u64,
    at: String,
    /// The token's public name.
    #[schema(example = "tok_3f9a0c12")]
    actor: String,
    #[schema(example = "partner.add")]
    act: String,
    #[schema(example = "COURT-CAL")]
    object: String,
    /// Why, if it was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl AuditEntry {
    fn of(view: AuditView) -> Self {
        let AuditView { number, at, actor, act, object, reason } = view;
        Self { number, at: at.to_string(), actor, act, object, reason }
    }
}

/// Read the audit trail
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "Audit",
    operation_id = "list_audit",
    params(
        ("after" = Option<u64>, Query, description = "Only acts with a higher number."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of acts.", body = List<AuditEntry>)),
)]
pub(crate) async fn list_audit(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["after", "limit"])?;
    let page = site.hub.audit_trail(query.number("after")?, query.limit()?).await?;
    ok(List::of(page, AuditEntry::of))
}
