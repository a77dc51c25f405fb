//! `GET /v1/ledger/export`: the ledger in a form that is checked without a hub, written while it is sent.

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use ess_core::access::Act;
use ess_hub::{Hub, LedgerExport};

use crate::api::Answer;
use crate::caller::Caller;
use crate::pieces::{self, Step};
use crate::query::Query;
use crate::site::Site;

/// Export the ledger
///
/// Every receipt from a place on and every checkpoint, a JSON object a line, up to a checkpoint that is made now.
/// `hms-ess ledger verify FILE` checks it without a hub, and that it continues an earlier export.
#[utoipa::path(
    get,
    path = "/v1/ledger/export",
    tag = "Audit",
    operation_id = "export_ledger",
    params(("from" = Option<u64>, Query, description = "How many receipts are left out: as many as the export before had; none unless given.")),
    responses((status = 200, description = "The export.", body = String, content_type = "application/x-ndjson")),
)]
pub(crate) async fn export_ledger(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["from"])?;
    let export = site.hub.export_ledger(query.number("from")?.unwrap_or(0)).await?;
    let mut response = Response::new(pieces::body((site.hub.clone(), export), next));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn next((hub, export): (Hub, LedgerExport)) -> Step<(Hub, LedgerExport)> {
    match hub.next_of_export(export).await {
        Ok(step) => Ok(step.map(|(text, export)| (Bytes::from(text), (hub, export)))),
        Err(problem) => {
            tracing::error!(detail = problem.detail, "could not export the ledger");
            Err(io::Error::other(problem.detail))
        }
    }
}
