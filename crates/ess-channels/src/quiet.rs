//! A waker that does not wake the task which is just polling.
//!
//! hyper's connection and the attempt that uses it talk through channels that wake one another. As both are polled by
//! one task, these wakes would only cost a second poll: they are remembered here and answered in place. A wake-up from
//! outside (the socket) is passed on to the task. It never loses one.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::limits::POLLS_IN_A_ROW_MAX;

/// Remembers wakes while its owner polls, passes them on while its owner waits.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// Guards both fields; held for a few instructions only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Woken since the last poll began.
    notified: bool,
    /// Whom to wake; `None` while the owner polls or the connection is idle.
    waiting: Option<Waker>,
}

impl Quiet {
    /// Forgets whom to wake: what is idle wakes nobody.
    pub(crate) fn rest(&self) {
        self.lock().waiting = None;
    }

    /// Polls until there is an outcome or nothing more happens by itself.
    pub(crate) fn poll<T>(
        self: &Arc<Self>,
        quiet: &Waker,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut inner = Context::from_waker(quiet);
        for _ in 0..POLLS_IN_A_ROW_MAX {
            {
                let mut state = self.lock();
                state.notified = false;
                state.waiting = None;
            }
            if let Poll::Ready(outcome) = poll(&mut inner) {
                return Poll::Ready(outcome);
            }
            let mut state = self.lock();
            if !state.notified {
                state.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waiting = {
            let mut state = self.lock();
            state.notified = true;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}
