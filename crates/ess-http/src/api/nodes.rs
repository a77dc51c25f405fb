//! The hubs that share a store.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_hub::NodeView;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// A hub among those that share a store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Node {
    /// Its number; one that was given up comes back under another.
    id: String,
    /// What it is called.
    name: String,
    /// The version of its program.
    version: String,
    /// When it came.
    began_at: String,
    /// `live`; `leaving`, when it hands its partners over; or `lapsed`, when it was not heard of for as long as its lease.
    #[schema(example = "live")]
    state: &'static str,
    /// What is left of its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_left_ms: Option<u64>,
    /// How many partners it serves.
    partners: u64,
    /// It signs the ledger and clears away, for all.
    leads: bool,
    /// It is the one that answers.
    is_this: bool,
}

impl Node {
    fn of(view: NodeView) -> Self {
        Self {
            id: view.no.to_string(),
            name: view.name,
            version: view.version,
            began_at: view.began_at.to_string(),
            state: view.state,
            lease_left_ms: view.lease_left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            partners: view.partners,
            leads: view.leads,
            is_this: view.is_this,
        }
    }
}

/// List nodes
///
/// The hubs that share this one's store, in the order in which they came; none where it has its store for itself.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "Hub",
    operation_id = "list_nodes",
    responses((status = 200, description = "All of them.", body = List<Node>, example = json!({"items": [{"id": "4", "name": "hub-1/10.0.0.1:8443", "version": "0.1.0", "began_at": "2026-11-23T16:00:00Z", "state": "live", "lease_left_ms": 4210, "partners": 19, "leads": true, "is_this": true}]}))),
)]
pub(crate) async fn list_nodes(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["limit"])?;
    ok(List::whole(site.hub.nodes().await?.into_iter().map(Node::of).collect()))
}
