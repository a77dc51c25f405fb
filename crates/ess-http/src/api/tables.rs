//! Lookup tables: add, list, remove.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::limits::ADMIN_BYTES_MAX;
use ess_core::table::Table;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, answer, ok, read_json};
use crate::caller::{Caller, Reason};
use crate::document;
use crate::query::Query;
use crate::site::Site;

/// A lookup table to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTable {
    /// What scripts call it.
    #[schema(example = "courts")]
    name: String,
    /// Its value, as a rule an array of rows.
    #[schema(value_type = serde_json::Value)]
    value: Box<RawValue>,
}

/// A lookup table.
#[derive(Serialize, ToSchema)]
pub(crate) struct TableView {
    name: String,
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<Box<RawValue>>,
    /// SHA-256 of the text; deliveries record it beside those of the scripts.
    sha256: String,
}

/// What adding a table did.
#[derive(Serialize, ToSchema)]
pub(crate) struct TableChange {
    name: String,
    /// False when it was the same already.
    changed: bool,
}

impl TableView {
    fn of(table: &Table) -> Self {
        Self {
            name: table.name.clone(),
            value: RawValue::from_string(table.text.to_string()).ok(),
            sha256: table.digest.to_string(),
        }
    }
}

/// Add a lookup table
///
/// Scripts look it up by `$table('NAME')`. Deliveries that waited for it go out by themselves.
#[utoipa::path(
    post,
    path = "/v1/tables",
    tag = "Schemas and tables",
    operation_id = "add_table",
    params(
        ("replace" = Option<bool>, Query, description = "Take the place of another table of this name."),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = NewTable, example = json!({"name": "courts", "value": [{"id": "C1", "name": "Cook County"}]})),
    responses(
        (status = 201, description = "Added.", body = TableChange, example = json!({"name": "courts", "changed": true})),
        (status = 200, description = "It was the same already.", body = TableChange, example = json!({"name": "courts", "changed": false})),
    ),
)]
pub(crate) async fn add_table(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    let replace = query.only(&["replace"])?.flag("replace")?;
    let body = read_json(&site, request, ADMIN_BYTES_MAX).await?;
    let NewTable { name, value } = document::read(&body.bytes)?;
    let table = Table::new(&name, value.get())?;
    let changed = site.hub.add_table(table, replace, reason, &caller.0).await?;
    answer(if changed { StatusCode::CREATED } else { StatusCode::OK }, TableChange { name, changed })
}

/// List the lookup tables
#[utoipa::path(
    get,
    path = "/v1/tables",
    tag = "Schemas and tables",
    operation_id = "list_tables",
    responses((status = 200, description = "All tables, by name.", body = List<TableView>)),
)]
pub(crate) async fn list_tables(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    ok(List::whole(site.hub.tables().iter().map(|table| TableView::of(table)).collect()))
}

/// Remove a lookup table
///
/// Deliveries whose scripts need it are blocked from then on.
#[utoipa::path(
    delete,
    path = "/v1/tables/{id}",
    tag = "Schemas and tables",
    operation_id = "remove_table",
    params(
        ("id" = String, Path, description = "The table's name.", example = "courts"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 204, description = "Removed.")),
)]
pub(crate) async fn remove_table(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Named(name): Named,
    query: Query,
    Reason(reason): Reason,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    site.hub.remove_table(&name, reason, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
