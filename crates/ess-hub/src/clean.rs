//! Cleaning up of old drops: files of the hub's naming go from a partner's directory once they are old enough and what they
//! belong to has ended.
//!
//! A file is never taken away by its name alone: the log must have the event, the partner must have been sent it in that
//! version, and every round of the delivery must have ended, its receipt included. It goes in steps of bounded length, each
//! after a pause, and a directory that cannot be reached is asked again later.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ess_channels::{Channel, Left, Search};
use ess_core::message::Named;
use ess_core::problem::Problem;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Registered;

/// The longest and the shortest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Between two steps of a round.
const STEP_PAUSE: Duration = Duration::from_millis(100);

/// Cleans up for one partner, for as long as it is watched.
pub async fn run(hub: Hub, registered: Arc<Registered>, after: Duration) {
    let pause = (after / 24).clamp(PAUSE_MIN, PAUSE_MAX);
    let mut was_failing = false;
    loop {
        // Also first of all: a hub that starts has other things to do.
        tokio::time::sleep(pause).await;
        let own = registered.channel.as_ref().ok();
        let tests = registered.test_channel.as_ref().and_then(|channel| channel.as_ref().ok());
        for channel in own.into_iter().chain(tests) {
            let (partner, failed) = match hub.clean(&registered, channel, after).await {
                Ok(0) => continue,
                Ok(gone) => {
                    let partner = &registered.partner.id;
                    tracing::info!(partner.id = %partner, gone, "took old drops of {partner} away");
                    was_failing = false;
                    continue;
                }
                Err(reason) => (&registered.partner.id, reason),
            };
            if !was_failing {
                tracing::warn!(partner.id = %partner, reason = failed, "could not clean up the drops of {partner}");
            }
            was_failing = true;
        }
    }
}

impl Hub {
    /// One round over a partner's directory; gives how many files are gone.
    async fn clean(&self, registered: &Registered, channel: &Channel, after: Duration) -> Result<usize, String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(self.now().as_micros().try_into().unwrap_or(0));
        let before = now.checked_sub(after).ok_or("the time is before 1970")?;
        let mut search = Search { before, after: String::new() };
        let mut gone = 0;
        loop {
            let deadline = || Instant::now() + registered.partner.timeout;
            let left = channel.left(search.clone(), deadline()).await.map_err(|failure| failure.reason)?;
            let Some(last) = left.last() else { return Ok(gone) };
            search.after.clone_from(&last.name);
            let mut names = Vec::new();
            for Left { name, meanings } in left {
                if self.has_ended(registered, &meanings).await.map_err(|problem| problem.detail)? {
                    names.push(name);
                }
            }
            if !names.is_empty() {
                let cleaned = channel.clean(names, search.clone(), deadline()).await;
                gone += cleaned.map_err(|failure| failure.reason)?;
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }

    /// Whether this partner was given what the name means, and nothing of it is open. Where the name can mean two things,
    /// neither may be.
    async fn has_ended(&self, registered: &Registered, meanings: &[Named]) -> Result<bool, Problem> {
        let mut was_given = false;
        for Named { event, version, test } in meanings {
            let found =
                self.delivery.store.event_by_id(event.as_str(), *test).await.map_err(|error| unavailable(&error))?;
            let Some(recorded) = found else { continue };
            let deliveries = self.delivery.store.deliveries_to(recorded.event.seq, registered.no).await;
            for delivery in deliveries.map_err(|error| unavailable(&error))? {
                // What waits for a partner that is given up goes out when it is back.
                if !delivery.state.is_end() || delivery.waits {
                    return Ok(false);
                }
                was_given |= version.is_none() || delivery.version == *version;
            }
        }
        Ok(was_given)
    }
}
