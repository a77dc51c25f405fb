//! What happens in the hub, told to whoever listens.

use std::sync::atomic::{AtomicU64, Ordering};

use ess_core::id::{EventId, PartnerId};
use ess_core::time::Time;
use tokio::sync::broadcast;

use crate::view::Happening;

/// How many happenings a slow listener may lag behind before it misses some.
const HAPPENINGS_KEPT: usize = 4_096;

/// Tells listeners what happens.
#[derive(Debug)]
pub struct Happenings {
    sender: broadcast::Sender<Happening>,
    number: AtomicU64,
}

impl Default for Happenings {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(HAPPENINGS_KEPT), number: AtomicU64::new(0) }
    }
}

impl Happenings {
    /// Everything from now on.
    pub fn listen(&self) -> broadcast::Receiver<Happening> {
        self.sender.subscribe()
    }

    /// Whether anybody listens: nothing is put into words for nobody.
    pub fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells.
    pub fn tell(
        &self,
        at: Time,
        kind: &'static str,
        event_id: Option<EventId>,
        partner: Option<PartnerId>,
        detail: String,
    ) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        // Nobody listening is no failure.
        drop(self.sender.send(Happening { number, at, kind, event_id, partner, detail }));
    }
}
