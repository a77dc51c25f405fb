//! JSON Schemas of payloads: add, list, remove.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::id::Version;
use ess_core::limits::ADMIN_BYTES_MAX;
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::schema::Schema;
use ess_hub::view::Offer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, answer, ok, read_json};
use crate::caller::{Caller, Reason};
use crate::document;
use crate::query::Query;
use crate::site::Site;

/// A schema to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSchema {
    /// Glob over subjects.
    #[schema(example = "RULE-COURT-DEADLINE")]
    subject: String,
    /// The payloads' version.
    #[schema(example = 3, minimum = 1)]
    version: u32,
    /// JSON Schema, draft 2020-12. It may not refer to what is not in it.
    #[schema(value_type = serde_json::Value)]
    schema: Box<RawValue>,
}

/// A schema.
#[derive(Serialize, ToSchema)]
pub(crate) struct SchemaView {
    /// `SUBJECT/vVERSION`.
    id: String,
    subject: String,
    version: u32,
    #[schema(value_type = Option<serde_json::Value>)]
    schema: Option<Box<RawValue>>,
    /// SHA-256 of the text.
    sha256: String,
}

/// What adding a schema did.
#[derive(Serialize, ToSchema)]
pub(crate) struct SchemaChange {
    id: String,
    /// False when it was the same already.
    changed: bool,
    /// Bridges that need no script: the older schema accepts every newer payload that the hub knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offers: Vec<IdentityOffer>,
}

/// A bridge that changes the version label only.
#[derive(Serialize, ToSchema)]
pub(crate) struct IdentityOffer {
    subject: String,
    from: u32,
    to: u32,
    /// Adds it.
    command: String,
}

impl SchemaView {
    fn of(schema: &Schema) -> Self {
        Self {
            id: schema.id.clone(),
            subject: schema.subject.as_str().to_owned(),
            version: schema.version.0,
            schema: RawValue::from_string(schema.text.to_string()).ok(),
            sha256: schema.digest.to_string(),
        }
    }
}

impl NewSchema {
    fn parse(self) -> Result<Schema, Problem> {
        let invalid = |field: &str, detail: &str| Problem::new(Code::Invalid, detail).with_field(field);
        let subject = Glob::parse(&self.subject).map_err(|wrong| invalid("subject", &wrong))?;
        if self.version == 0 {
            return Err(invalid("version", "version must be 1 at least"));
        }
        Schema::new(subject, Version(self.version), self.schema.get())
    }
}

/// Add a schema
///
/// From then on a payload of its subject and version that does not fit is refused with 422, and what a bridge makes of that
/// version is held back when it does not fit.
#[utoipa::path(
    post,
    path = "/v1/schemas",
    tag = "Schemas and tables",
    operation_id = "add_schema",
    params(
        ("replace" = Option<bool>, Query, description = "Take the place of another schema for this subject and version."),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = NewSchema, example = json!({"subject": "RULE-COURT-DEADLINE", "version": 3, "schema": {"type": "object", "required": ["deadline"]}})),
    responses(
        (status = 201, description = "Added.", body = SchemaChange, example = json!({"id": "RULE-COURT-DEADLINE/v3", "changed": true})),
        (status = 200, description = "It was the same already.", body = SchemaChange, example = json!({"id": "RULE-COURT-DEADLINE/v3", "changed": false})),
    ),
)]
pub(crate) async fn add_schema(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    let replace = query.only(&["replace"])?.flag("replace")?;
    let body = read_json(&site, request, ADMIN_BYTES_MAX).await?;
    let schema = document::read::<NewSchema>(&body.bytes)?.parse()?;
    let id = schema.id.clone();
    let change = site.hub.add_schema(schema, replace, reason, &caller.0).await?;
    let offers = change.offers.into_iter().map(|Offer { subject, from, to, command }| IdentityOffer {
        subject,
        from: from.0,
        to: to.0,
        command,
    });
    let status = if change.changed { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, SchemaChange { id, changed: change.changed, offers: offers.collect() })
}

/// List the schemas
#[utoipa::path(
    get,
    path = "/v1/schemas",
    tag = "Schemas and tables",
    operation_id = "list_schemas",
    responses((status = 200, description = "All schemas, the most specific subjects first.", body = List<SchemaView>)),
)]
pub(crate) async fn list_schemas(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    ok(List::whole(site.hub.schemas().iter().map(|schema| SchemaView::of(schema)).collect()))
}

/// Remove a schema
#[utoipa::path(
    delete,
    path = "/v1/schemas/{id}",
    tag = "Schemas and tables",
    operation_id = "remove_schema",
    params(
        ("id" = String, Path, description = "The schema's id, URL-encoded.", example = "RULE-COURT-DEADLINE%2Fv3"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 204, description = "Removed.")),
)]
pub(crate) async fn remove_schema(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Named(id): Named,
    query: Query,
    Reason(reason): Reason,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    site.hub.remove_schema(&id, reason, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
