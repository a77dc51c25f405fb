//! The API, a noun a file: function = verb.

pub(crate) mod acks;
pub(crate) mod admin;
pub(crate) mod bridges;
pub(crate) mod dead_letters;
pub(crate) mod deliveries;
pub(crate) mod events;
pub(crate) mod ledger;
pub(crate) mod partners;
pub(crate) mod stream;
pub(crate) mod tokens;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;

use crate::problem::Refusal;

/// What a handler answers.
pub(crate) type Answer = Result<Response, Refusal>;

/// JSON with a status.
pub(crate) fn json(status: StatusCode, value: &Value) -> Answer {
    Ok(json_text(status, value.to_string()))
}

/// JSON text with a status.
pub(crate) fn json_text(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
