//! The hub's public signing keys: whoever verifies a `v1a` signature needs them, so no token is asked for.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, ok};
use crate::query::Query;
use crate::site::Site;

/// Public keys.
#[derive(Serialize, ToSchema)]
pub(crate) struct Keys {
    /// As `whpk_…`, newest first.
    keys: Vec<String>,
}

/// Read the public signing keys
///
/// For `v1a` signatures (Ed25519, Standard Webhooks). No token.
#[utoipa::path(
    get,
    path = "/v1/keys",
    tag = "Partner's side",
    operation_id = "list_keys",
    security(()),
    responses((status = 200, description = "The keys, newest first.", body = Keys, example = json!({"keys": ["whpk_MCowBQYDK2VwAyEAexample"]}))),
)]
pub(crate) async fn list_keys(State(site): State<Arc<Site>>, query: Query) -> Answer {
    query.only(&[])?;
    ok(Keys { keys: site.hub.public_keys() })
}
