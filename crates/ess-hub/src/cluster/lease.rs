//! How long this node may send: until its lease runs out, counted from before it was asked for, by a clock that goes on while the
//! machine sleeps. The database counts from when it was asked, so it never gives the partners away before this node has stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// No end.
const ALONE: u64 = u64::MAX;

/// The right to send.
#[derive(Debug)]
pub struct Lease {
    /// Milliseconds of the machine's time since it was started.
    until: AtomicU64,
    /// How often it has ended for good: who gets one again serves partners anew.
    ends: AtomicU64,
    is_shared: bool,
    /// It does what one node does for all.
    leads: AtomicBool,
}

impl Lease {
    /// That of a hub that has its store for itself.
    #[must_use]
    pub fn alone() -> Self {
        Self { until: AtomicU64::new(ALONE), ends: AtomicU64::new(0), is_shared: false, leads: AtomicBool::new(true) }
    }

    /// That of a node among others, which has none yet.
    #[must_use]
    pub fn shared() -> Self {
        Self { until: AtomicU64::new(0), ends: AtomicU64::new(0), is_shared: true, leads: AtomicBool::new(false) }
    }

    /// Whether other nodes may serve partners as well.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether this node may send now.
    #[must_use]
    pub fn holds(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == ALONE || now() < until
    }

    /// Stands for the time until it ends for good.
    #[must_use]
    pub(crate) fn term(&self) -> u64 {
        self.ends.load(Ordering::Relaxed)
    }

    /// Whether this node may send now what it took up in this term. One that was given up meanwhile and came back may not: others
    /// have served its partners.
    #[must_use]
    pub(crate) fn still_holds(&self, term: u64) -> bool {
        self.holds() && self.term() == term
    }

    /// Whether this node does what one does for all: it signs the ledger and clears away.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed) && self.holds()
    }

    /// The lease was asked for at `asked` and granted for `span`.
    pub(super) fn extend(&self, asked: u64, span: Duration) {
        self.until.store(asked.saturating_add(millis(span)), Ordering::Relaxed);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
        self.ends.fetch_add(1, Ordering::Relaxed);
        self.set_leads(false);
    }

    pub(super) fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }
}

/// Milliseconds since the machine was started, those that it slept through included.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds * 1_000 + nanos / 1_000_000
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sends_while_its_lease_lasts_and_one_alone_always() {
        assert!(Lease::alone().holds() && Lease::alone().leads());
        let lease = Lease::shared();
        assert!(!lease.holds());
        lease.set_leads(true);
        lease.extend(now(), Duration::from_secs(60));
        assert!(lease.holds() && lease.leads());
        // Asked for a minute ago: what was granted then is over, however late the answer came.
        lease.extend(now().saturating_sub(60_000), Duration::from_secs(5));
        assert!(!lease.holds() && !lease.leads());
        lease.extend(now(), Duration::from_secs(60));
        let term = lease.term();
        assert!(lease.still_holds(term));
        lease.end();
        assert!(!lease.holds());
        // It comes back: what it took up before is not its to send.
        lease.extend(now(), Duration::from_secs(60));
        assert!(lease.holds() && !lease.still_holds(term) && lease.still_holds(lease.term()));
    }
}
