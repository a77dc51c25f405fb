//! Targets: where Ops are told of trouble. They are configured in the hub's file; here they are shown and tried.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_hub::view::TargetView;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, ok};
use crate::body::Ignored;
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// A configured target and how it fares.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Target {
    name: String,
    /// `webhook`, `email`, `pagerduty`, `slack` or `alertmanager`.
    #[serde(rename = "type")]
    #[schema(example = "pagerduty")]
    kind: Value,
    /// When it is told urgent things only.
    #[serde(skip_serializing_if = "Value::is_null")]
    quiet: Value,
    /// Its configuration; secrets are masked.
    configuration: Value,
    /// Failures in a row.
    failures: u32,
    /// It is left alone until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    /// When a message last got there, since the hub started.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<String>,
    /// Why the last message did not get there, or why none can.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// What a test message came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TargetTested {
    /// It got there.
    sent: bool,
    /// What came back.
    #[schema(example = "taken")]
    reason: String,
    took_ms: u64,
}

impl Target {
    fn of(view: TargetView) -> Self {
        Self {
            name: view.name,
            kind: view.document["type"].clone(),
            quiet: view.document["quiet"].clone(),
            configuration: view.document,
            failures: view.failures,
            not_before: view.not_before.map(|time| time.to_string()),
            sent_at: view.sent_at.map(|time| time.to_string()),
            last_error: view.last_error,
        }
    }
}

/// List targets
///
/// Where Ops are told of trouble, and how the targets fare.
#[utoipa::path(
    get,
    path = "/v1/targets",
    tag = "Escalation",
    operation_id = "list_targets",
    responses((status = 200, description = "All of them.", body = List<Target>)),
)]
pub(crate) async fn list_targets(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["limit"])?;
    ok(List::whole(site.hub.targets().into_iter().map(Target::of).collect()))
}

/// Test a target
///
/// Sends one marked message and says what came back.
#[utoipa::path(
    post,
    path = "/v1/targets/{name}/test",
    tag = "Escalation",
    operation_id = "test_target",
    params(("name" = String, Path, description = "The target's name.")),
    responses((status = 200, description = "What came back.", body = TargetTested)),
)]
pub(crate) async fn test_target(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Named(name): Named,
    _: Ignored,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let tested = site.hub.test_target(&name, &caller.0).await?;
    let took_ms = u64::try_from(tested.took.as_millis()).unwrap_or(u64::MAX);
    ok(TargetTested { sent: tested.sent, reason: tested.reason, took_ms })
}
