//! The hub's HTTP API and its documentation page. It asks the engine and never names store or channels.

mod api;
mod ask;
mod docs;
mod openapi;
mod problem;
mod routes;
mod server;
mod views;

pub use server::{ServerError, ServerOptions, serve, serve_metrics};
