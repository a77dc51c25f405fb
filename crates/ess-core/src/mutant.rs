//! Deliberately broken variants of the lane, for the test that shows that the simulation would notice each of them.
//!
//! One may be active in a thread, and only where the feature `mutants` is on: tests ask for it, nothing that is shipped does, and
//! without it `is_active` is the constant `false`.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A failed delivery is tried again at once.
    BackOffIgnored,
    /// `Retry-After` is not looked at.
    RetryAfterIgnored,
    /// The cursor passes deliveries that have neither ended nor a row.
    CursorPassesOpen,
    /// The next of a subject goes while the one before is not done.
    LineLetsTwoGo,
    /// Under `latest` the older one stays.
    OlderNotSuperseded,
    /// An ACK by callback is written down twice.
    LateAckEndsTwice,
    /// Without an ACK it is sent again and again.
    ResendUnbounded,
    /// An offline partner gets as many attempts as a healthy one.
    OfflineStorm,
    /// An offline partner is probed without a pause.
    ProbeWithoutGate,
    /// A blocked delivery has no record.
    BlockedNotRecorded,
    /// A start forgets what waits for a retry.
    RecoveryForgetsOpen,
    /// `limits.per_second` is not kept.
    RateIgnored,
    /// What is counted when an event is taken is lost at a restart.
    CounterForgotten,
    /// A page that was read before a delivery ended brings it back.
    StalePageTaken,
}

/// All of them.
pub const ALL: [Mutant; 14] = [
    Mutant::BackOffIgnored,
    Mutant::RetryAfterIgnored,
    Mutant::CursorPassesOpen,
    Mutant::LineLetsTwoGo,
    Mutant::OlderNotSuperseded,
    Mutant::LateAckEndsTwice,
    Mutant::ResendUnbounded,
    Mutant::OfflineStorm,
    Mutant::ProbeWithoutGate,
    Mutant::BlockedNotRecorded,
    Mutant::RecoveryForgetsOpen,
    Mutant::RateIgnored,
    Mutant::CounterForgotten,
    Mutant::StalePageTaken,
];

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks the lanes of this thread from now on, or mends them.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

#[cfg(feature = "mutants")]
pub(crate) fn is_active(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

#[cfg(not(feature = "mutants"))]
pub(crate) const fn is_active(_: Mutant) -> bool {
    false
}
