//! A consistent copy of the store, made while the hub runs.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use ess_core::access::Act;
use ess_core::problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{Answer, ok, read_json};
use crate::caller::Caller;
use crate::document;
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// Where to write the copy.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backup {
    /// An absolute path on the hub's machine; the file must not exist.
    #[schema(example = "/var/backups/hms-ess.db")]
    file: String,
}

/// What was written.
#[derive(Serialize, ToSchema)]
pub(crate) struct BackedUp {
    bytes: u64,
}

/// Back the store up
///
/// Writes a consistent copy to a file on the hub's machine. For admins: the path is the hub's own.
#[utoipa::path(
    post,
    path = "/v1/backup",
    tag = "Hub",
    operation_id = "back_up",
    request_body(content = Backup, example = json!({"file": "/var/backups/hms-ess.db"})),
    responses((status = 200, description = "The copy is complete.", body = BackedUp, example = json!({"bytes": 1_048_576}))),
)]
pub(crate) async fn back_up(State(site): State<Arc<Site>>, caller: Caller, query: Query, request: Request) -> Answer {
    // Writing files on the machine is an admin's, like tokens.
    caller.permit(&Act::Tokens)?;
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Backup { file } = document::read(&body.bytes)?;
    let path = Path::new(&file);
    if !path.is_absolute() || file.contains('\0') {
        let problem = Problem::new(Code::Invalid, "file must be an absolute path on the hub's machine");
        return Err(problem.with_field("file").into());
    }
    ok(BackedUp { bytes: site.hub.backup(path, &caller.0).await? })
}
