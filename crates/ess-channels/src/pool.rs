//! The idle connections of one channel, the last used on top.
//!
//! It belongs to one partner alone and never holds more than its ceiling.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::limits::IDLE_MAX;
use crate::wire::Wire;

/// Connections that wait for their next use.
pub(crate) struct Pool {
    idle_max: usize,
    /// Locked for a push or a pop only; the longest idle lie at the bottom.
    idle: Mutex<Vec<Wire>>,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(idle_max: usize) -> Pool {
        Pool { idle_max, idle: Mutex::new(Vec::new()) }
    }

    /// Takes the connection last used that is still open.
    pub(crate) fn take(&self) -> Option<Wire> {
        loop {
            // The lock is gone before the connection is looked at, or dropped.
            let popped = self.lock().pop();
            let mut wire = popped?;
            if wire.is_open() {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection for its next use, if there is room.
    pub(crate) fn keep(&self, wire: Wire) {
        let mut idle = self.lock();
        if idle.len() < self.idle_max {
            idle.push(wire);
        }
    }

    /// Closes what has been idle for too long and what the partner has closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let is_useless = |wire: &mut Wire| now.saturating_duration_since(wire.used_at) > IDLE_MAX || !wire.is_open();
        // They are dropped after the lock.
        let _useless: Vec<Wire> = {
            let mut idle = self.lock();
            idle.extract_if(.., is_useless).collect()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
