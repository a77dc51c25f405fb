//! Inboxes of partners that fetch: when what waits there is taken back. Its attempts come back as ones that did not take place.

use std::sync::Arc;

use super::Seat;
use crate::registry::Registered;

/// What waits for the partner to ask is taken back; what is still wanted takes its turn anew.
pub(super) fn recall_all(registered: &Registered) {
    if let Ok(channel) = &registered.channel
        && let Some(pull) = channel.pull()
    {
        pull.recall_all();
    }
}

/// The same for a seat, if it is there.
pub(super) fn recall_waiting(seat: Option<&Seat>) {
    if let Some(seat) = seat {
        recall_all(&seat.registered);
    }
}

/// The partner is gone, or the hub stops.
pub(super) fn close(registered: &Registered) {
    if let Ok(channel) = &registered.channel
        && let Some(pull) = channel.pull()
    {
        pull.close();
    }
}

/// The partner was changed: an inbox that it does not have any more is closed.
pub(super) fn change(old: &Registered, new: &Registered) {
    let is_kept = matches!((&old.channel, &new.channel), (Ok(old), Ok(new)) if Arc::ptr_eq(old, new));
    if !is_kept {
        close(old);
    }
}
