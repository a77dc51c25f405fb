//! The idle connections of one channel, the last used on top.
//!
//! It belongs to one partner alone and never holds more than its ceiling.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::limits::IDLE_MAX;

/// Connections that wait for their next use.
pub(crate) struct Pool<C> {
    idle_max: usize,
    /// Whether the partner has kept a connection open, by all that is known here and now.
    is_open: fn(&mut C) -> bool,
    /// With the time since which each is idle. Locked for a push or a pop only; the longest idle lie at the bottom.
    idle: Mutex<Vec<(C, Instant)>>,
}

impl<C> Pool<C> {
    /// An empty pool.
    pub(crate) fn new(idle_max: usize, is_open: fn(&mut C) -> bool) -> Pool<C> {
        Pool { idle_max, is_open, idle: Mutex::new(Vec::new()) }
    }

    /// Takes the connection last used that is still open.
    pub(crate) fn take(&self) -> Option<C> {
        loop {
            // The lock is gone before the connection is looked at, or dropped.
            let popped = self.lock().pop();
            let (mut connection, _) = popped?;
            if (self.is_open)(&mut connection) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for its next use, if there is room.
    pub(crate) fn keep(&self, connection: C) {
        let now = Instant::now();
        let mut idle = self.lock();
        if idle.len() < self.idle_max {
            idle.push((connection, now));
        }
    }

    /// Closes what has been idle for too long and what the partner has closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let is_useless = |(connection, since): &mut (C, Instant)| {
            now.saturating_duration_since(*since) > IDLE_MAX || !(self.is_open)(connection)
        };
        // They are dropped after the lock.
        let _useless: Vec<(C, Instant)> = {
            let mut idle = self.lock();
            idle.extract_if(.., is_useless).collect()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("idle_max", &self.idle_max).finish_non_exhaustive()
    }
}
