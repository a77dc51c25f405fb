//! What all requests share: the hub, the rendered documents, and the bounds that hold for all connections together.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use ess_hub::metrics::Limit;
use tokio::sync::watch;

use crate::dashboard::Desk;
use crate::limits::{BODIES_BYTES_MAX, REFUSED_PEERS_MAX, REFUSED_TOKENS_MAX};
use crate::{docs, openapi};

/// What all requests share.
pub(crate) struct Site {
    /// The engine.
    pub(crate) hub: Hub,
    /// Turns true when the server is to stop: long answers end.
    pub(crate) stopping: watch::Receiver<bool>,
    /// `/openapi.json`.
    pub(crate) openapi: Bytes,
    /// `/docs`.
    pub(crate) docs: Bytes,
    /// Names this run of the server in request ids and in the stream's `source`.
    pub(crate) instance: String,
    /// How long a body may pause.
    pub(crate) body_timeout: Duration,
    /// What the dashboard keeps.
    pub(crate) desk: Desk,
    requests: AtomicU64,
    body_bytes: AtomicUsize,
    /// Guards the counts of refused tokens; held for one look-up.
    refused_tokens: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Site {
    /// A site over a hub.
    pub(crate) fn new(hub: Hub, stopping: watch::Receiver<bool>, body_timeout: Duration, is_tls: bool) -> Self {
        let document = openapi::document();
        let desk = Desk::new(&hub, is_tls);
        Self {
            hub,
            stopping,
            docs: Bytes::from(docs::page(&document)),
            openapi: Bytes::from(document.to_string()),
            instance: instance_name(),
            body_timeout,
            desk,
            requests: AtomicU64::new(0),
            body_bytes: AtomicUsize::new(0),
            refused_tokens: Mutex::default(),
        }
    }

    /// A new request's id.
    pub(crate) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(self.instance.len() + 17);
        id.push_str(&self.instance);
        // Writing to a string never fails.
        let _ = write!(id, "-{number:x}");
        id
    }

    /// Takes room for body bytes; given back when the answer drops.
    pub(crate) fn take_room(&self, bytes: usize) -> Result<Room<'_>, Problem> {
        let mut room = Room { site: self, bytes: 0 };
        room.grow(bytes)?;
        Ok(room)
    }

    /// Counts a refused token; once an address brought too many in a minute, says so instead of looking further.
    pub(crate) fn count_refused_token(&self, peer: IpAddr) -> Result<(), Problem> {
        let now = Instant::now();
        let mut refused = self.refused_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = Duration::from_secs(60);
        if refused.len() >= REFUSED_PEERS_MAX && !refused.contains_key(&peer) {
            refused.retain(|_, (since, _)| now.duration_since(*since) < minute);
            if refused.len() >= REFUSED_PEERS_MAX {
                refused.clear();
            }
        }
        let (since, count) = refused.entry(peer).or_insert((now, 0));
        if now.duration_since(*since) >= minute {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count <= REFUSED_TOKENS_MAX {
            return Ok(());
        }
        self.hub.count_limit(Limit::RefusedTokens);
        let left = minute.saturating_sub(now.duration_since(*since));
        Err(Problem::new(Code::TooManyRequests, "too many requests with a token that is not known")
            .with_hint("check the token: `hms-ess token list` shows which are valid")
            .with_retry_after(left))
    }
}

/// Room for body bytes.
pub(crate) struct Room<'a> {
    site: &'a Site,
    bytes: usize,
}

impl Room<'_> {
    /// Takes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes == 0 {
            return Ok(());
        }
        let before = self.site.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) <= BODIES_BYTES_MAX {
            return Ok(());
        }
        self.site.hub.count_limit(Limit::Bodies);
        Err(Problem::new(Code::Unavailable, "too many large bodies are on their way to the hub")
            .with_hint("nothing was recorded; send it again, in smaller pieces if you can")
            .with_retry_after(Duration::from_secs(2)))
    }

    /// How much it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.site.body_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Sixteen hex digits that no other run has; not a secret.
fn instance_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}
