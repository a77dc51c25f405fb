//! A value that many ask for at once and that is made once for all of them, then anew when it has aged.
//!
//! Two hundred open pages cost what one does: whoever comes while it is being made waits for the same one.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

type Slot<T> = Arc<(Instant, OnceCell<Arc<T>>)>;

/// A value and its age.
#[derive(Debug)]
pub struct Fresh<T> {
    age_max: Duration,
    /// Guards the slot; held to look at it or to put another in its place.
    slot: Mutex<Option<Slot<T>>>,
}

impl<T> Fresh<T> {
    /// Nothing yet; a value lives for `age_max` from the moment that it was asked for.
    #[must_use]
    pub fn new(age_max: Duration) -> Self {
        Self { age_max, slot: Mutex::default() }
    }

    /// The value that is there, or the one that `make` makes.
    ///
    /// # Errors
    /// Whatever `make` fails with; the next one who asks tries again.
    pub async fn get<E, F: Future<Output = Result<T, E>>>(&self, make: impl FnOnce() -> F) -> Result<Arc<T>, E> {
        let slot = self.take_slot(Instant::now());
        slot.1.get_or_try_init(|| async { make().await.map(Arc::new) }).await.cloned()
    }

    /// What is there is out of date: the next one who asks has it made anew.
    pub fn forget(&self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn take_slot(&self, now: Instant) -> Slot<T> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(known) if now.saturating_duration_since(known.0) < self.age_max => known.clone(),
            _ => slot.insert(Arc::new((now, OnceCell::new()))).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_value_and_a_failure_is_tried_again() {
        let fresh = Fresh::new(Duration::from_secs(3_600));
        let made = AtomicU32::new(0);
        let make = || async {
            tokio::task::yield_now().await;
            match made.fetch_add(1, Ordering::Relaxed) {
                0 => Err("the first one fails"),
                number => Ok(number),
            }
        };
        assert!(fresh.get(make).await.is_err());
        let (a, b) = tokio::join!(fresh.get(make), fresh.get(make));
        assert_eq!((*a.unwrap(), *b.unwrap()), (1, 1));
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_has_aged_is_made_anew() {
        let fresh: Fresh<u32> = Fresh::new(Duration::from_secs(1));
        let now = Instant::now();
        let first = fresh.take_slot(now);
        assert!(Arc::ptr_eq(&first, &fresh.take_slot(now + Duration::from_millis(999))));
        let second = fresh.take_slot(now + Duration::from_secs(1));
        assert!(!Arc::ptr_eq(&first, &second));
        fresh.forget();
        assert!(!Arc::ptr_eq(&second, &fresh.take_slot(now + Duration::from_secs(1))));
    }
}
