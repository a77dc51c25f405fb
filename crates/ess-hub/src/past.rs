//! A partner's last day: what it acknowledged and what failed in each quarter of an hour, and when it was offline. In memory only.
//!
//! Each lane keeps its own; quarters in which nothing happened take no room.

use std::collections::VecDeque;
use std::time::Duration;

use ess_core::id::PartnerId;
use ess_core::lane::{Action, Record};
use ess_core::problem::Problem;
use ess_core::time::Time;
use serde::{Deserialize, Serialize};

use crate::cluster::{Answer, Call};
use crate::hub::Hub;

/// Quarters of an hour that are kept.
pub const QUARTERS: usize = 96;
const QUARTER_US: i64 = 900_000_000;
/// Spans offline that are remembered; a partner that comes and goes more often than this lost the older ones.
const SPANS_MAX: usize = 64;

/// A quarter of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarter {
    /// When it began.
    pub at: Time,
    /// Deliveries acknowledged.
    pub acked: u32,
    /// Attempts that failed.
    pub failed: u32,
}

/// A partner's last day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// `QUARTERS` of them, oldest first; the last one runs.
    pub quarters: Vec<Quarter>,
    /// Spans offline within them, oldest first; the one that lasts ends now.
    pub offline: Vec<(Time, Time)>,
}

/// What a lane remembers of its partner.
#[derive(Debug, Default)]
pub struct Past {
    quarters: VecDeque<(i64, u32, u32)>,
    offline: VecDeque<(Time, Option<Time>)>,
}

impl Past {
    /// The past of a lane that starts, offline or not.
    #[must_use]
    pub fn since(offline_since: Option<Time>) -> Self {
        Self { quarters: VecDeque::new(), offline: offline_since.map(|since| (since, None)).into_iter().collect() }
    }

    /// Takes note of what a lane asks for.
    pub fn hear(&mut self, action: &Action, now: Time) {
        match action {
            Action::Record(record) => match &**record {
                Record::Acked { .. } => self.quarter(now).1 += 1,
                Record::Failed { tried, .. } if tried.outcome != "received" => self.quarter(now).2 += 1,
                Record::Ended { .. } | Record::Failed { .. } | Record::Opened(_) => {}
                Record::Cursor { .. } | Record::Health(_) => {}
            },
            Action::WentOffline => {
                if self.offline.len() == SPANS_MAX {
                    self.offline.pop_front();
                }
                self.offline.push_back((now, None));
            }
            Action::Recovered { .. } => {
                if let Some((_, end)) = self.offline.back_mut().filter(|(_, end)| end.is_none()) {
                    *end = Some(now);
                }
            }
            _ => {}
        }
    }

    /// The last day.
    #[must_use]
    pub fn day(&self, now: Time) -> Day {
        let last = number_of(now);
        let first = last - (QUARTERS as i64 - 1);
        let quarters = (first..=last).map(|number| {
            let known = self.quarters.iter().find(|(known, ..)| *known == number);
            let (acked, failed) = known.map_or((0, 0), |(_, acked, failed)| (*acked, *failed));
            Quarter { at: begin_of(number), acked, failed }
        });
        let begin = begin_of(first);
        let spans = self.offline.iter().map(|(from, to)| ((*from).max(begin), to.unwrap_or(now)));
        Day { quarters: quarters.collect(), offline: spans.filter(|(from, to)| from < to).collect() }
    }

    fn quarter(&mut self, now: Time) -> &mut (i64, u32, u32) {
        let number = number_of(now);
        while self.quarters.front().is_some_and(|(known, ..)| *known <= number - QUARTERS as i64) {
            self.quarters.pop_front();
        }
        if self.quarters.back().is_none_or(|(known, ..)| *known < number) {
            self.quarters.push_back((number, 0, 0));
        }
        // A count that comes a moment late goes to the newest quarter.
        let last = self.quarters.len() - 1;
        &mut self.quarters[last]
    }
}

impl Day {
    /// How long it was offline in all.
    #[must_use]
    pub fn offline_for(&self) -> Duration {
        self.offline.iter().map(|(from, to)| to.since(*from)).sum()
    }
}

impl Hub {
    /// A partner's last day, as far as this hub runs.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn partner_day(&self, id: &PartnerId) -> Result<Day, Problem> {
        let no = self.delivery.registry.snapshot().partner(id)?.no;
        if self.serves(no) {
            return Ok(self.lanes.day(no).await);
        }
        Ok(self.ask_server(no, || Call::Day(no)).await?.map(Answer::day).unwrap_or_default())
    }
}

fn number_of(time: Time) -> i64 {
    time.as_micros().div_euclid(QUARTER_US)
}

fn begin_of(number: i64) -> Time {
    Time::from_micros(number * QUARTER_US)
}

#[cfg(test)]
mod tests {
    use ess_core::lane::Health;

    use super::*;

    fn at(quarter: i64) -> Time {
        Time::from_micros((1_000 + quarter) * QUARTER_US + 1)
    }

    #[test]
    fn a_day_has_all_its_quarters_and_forgets_the_day_before() {
        let mut past = Past::since(None);
        for quarter in 0..200 {
            past.quarter(at(quarter)).1 += 1;
        }
        past.quarter(at(199)).2 += 3;
        assert_eq!(past.quarters.len(), QUARTERS);
        let day = past.day(at(200));
        assert_eq!((day.quarters.len(), day.quarters[0].acked, day.quarters[95].acked), (96, 1, 0));
        assert_eq!((day.quarters[94].acked, day.quarters[94].failed), (1, 3));
        assert_eq!(day.quarters[95].at, begin_of(1_200));
    }

    #[test]
    fn spans_offline_are_cut_at_the_day_and_the_last_one_lasts() {
        let mut past = Past::since(Some(at(-500)));
        past.hear(&Action::Recovered { before: Health::default() }, at(-90));
        past.hear(&Action::WentOffline, at(-2));
        let day = past.day(at(0));
        assert_eq!(day.offline, [(begin_of(1_000 - 95), at(-90)), (at(-2), at(0))]);
        assert_eq!(day.offline_for(), at(-90).since(begin_of(905)) + at(0).since(at(-2)));
        assert!(past.day(at(300)).offline.len() == 1, "it still lasts");
        assert_eq!(Past::since(None).day(at(0)).offline, []);
    }
}
