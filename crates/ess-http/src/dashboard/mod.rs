//! The dashboard: pages for people, rendered here. Every page reads without script; the script only fetches what changed.
//!
//! A page is one struct, one function, one template. It asks the hub what the API asks, as the bearer of the session's token,
//! and imports nothing of `api`. No inline script or style, nothing foreign; whatever comes from outside is escaped.

pub(crate) mod assets;
pub(crate) mod audit;
pub(crate) mod bridges;
mod day;
pub(crate) mod dead_letters;
pub(crate) mod escalations;
pub(crate) mod event;
pub(crate) mod events;
mod form;
mod frame;
pub(crate) mod holds;
pub(crate) mod ledger;
pub(crate) mod live;
pub(crate) mod nodes;
pub(crate) mod overview;
pub(crate) mod partner;
pub(crate) mod partner_acts;
pub(crate) mod partners;
mod plot;
mod sessions;
pub(crate) mod sign_in;
pub(crate) mod trouble;
mod visitor;
mod way;
mod words;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::Response;
use ess_hub::Hub;
use ess_hub::fresh::Fresh;

use crate::refusal::Refusal;
use sessions::Sessions;

/// What a page answers.
pub(crate) type Screen = Result<Response, Refusal>;

/// How long a rendered part serves everybody who asks for it.
pub(crate) const PART_AGE_MAX: Duration = Duration::from_millis(250);
/// Rendered parts that are kept at once; more are made for one caller only.
const PARTS_MAX: usize = 256;

/// What the dashboard keeps beside the hub: who is signed in, and what was just rendered.
pub(crate) struct Desk {
    pub(crate) sessions: Sessions,
    /// Whether the hub is reached over TLS: then cookies never travel without.
    pub(crate) is_tls: bool,
    /// Open streams of changes.
    pub(crate) streams: AtomicUsize,
    /// Guards the parts; held for one look-up.
    parts: Mutex<HashMap<String, Arc<Fresh<String>>>>,
}

impl Desk {
    /// Nobody is signed in yet.
    pub(crate) fn new(hub: &Hub, is_tls: bool) -> Self {
        Self { sessions: Sessions::of(hub), is_tls, streams: AtomicUsize::new(0), parts: Mutex::default() }
    }

    /// The place of a rendered part that all who may see it share.
    fn part(&self, name: &str) -> Arc<Fresh<String>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = parts.get(name) {
            return known.clone();
        }
        if parts.len() >= PARTS_MAX {
            parts.clear();
        }
        let part = Arc::new(Fresh::new(PART_AGE_MAX));
        parts.insert(name.to_owned(), part.clone());
        part
    }
}
