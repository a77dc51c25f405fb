//! placeholder
use axum::response::Response;
use std::sync::Arc;
use axum::extract::State;
use crate::site::Site;
pub(crate) fn page(_: &serde_json::Value) -> String { String::new() }
pub(crate) async fn read_openapi(State(site): State<Arc<Site>>) -> Response { Response::new(site.openapi.clone().into()) }
pub(crate) async fn read_docs(State(site): State<Arc<Site>>) -> Response { Response::new(site.docs.clone().into()) }
pub(crate) async fn read_style() -> Response { Response::new("".into()) }
