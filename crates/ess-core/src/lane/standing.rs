//! How a lane stands, for people who look: what is open, what is oldest, what it waits for. Changes nothing.

use super::Lane;
use super::entry::{Entry, Phase};
use crate::event::Priority;
use crate::id::Seq;
use crate::time::Time;

/// How a lane stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Deliveries in memory that have not ended; dry runs are left out.
    pub open: u32,
    /// More lies in the store, or beyond what was looked at.
    pub has_more: bool,
    /// Of these: another attempt is due.
    pub retrying: u32,
    /// Of these: delivered, receipt outstanding.
    pub awaiting_ack: u32,
    /// Of these: no bridge or script result.
    pub blocked: u32,
    /// Of these: urgent.
    pub urgent: u32,
    /// The oldest.
    pub oldest: Option<Seq>,
    /// The one that says most about why the lane does not move.
    pub speaker: Option<Speaker>,
    /// Attempts under way.
    pub in_flight: u32,
    /// Since when the partner is offline.
    pub offline_since: Option<Time>,
    /// The patience with it is over: what waits for it counts as dead letters until it answers.
    pub is_given_up: bool,
}

/// A delivery that speaks for its lane.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Speaker {
    /// The event.
    pub seq: Seq,
    /// Where it stands.
    pub wait: Wait,
    /// Attempts made.
    pub attempts: u32,
    /// Why it is not done.
    pub reason: Option<String>,
    /// The command that mends it.
    pub mend: Option<String>,
}

/// What an open delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Wait {
    /// Its turn.
    Turn,
    /// The answer to an attempt under way.
    Answer,
    /// Its next attempt.
    Retry(Time),
    /// The ACK; sent again then.
    AckUntil(Time),
    /// The ACK; it is not sent again.
    Ack,
    /// A bridge or a script that works.
    Bridge,
}

impl Wait {
    fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Waiting | Phase::Ready => Self::Turn,
            Phase::Sending => Self::Answer,
            Phase::Retrying { due } => Self::Retry(*due),
            Phase::AwaitingAck { due } => Self::AckUntil(*due),
            Phase::Outstanding => Self::Ack,
            Phase::Blocked => Self::Bridge,
        }
    }

    /// What says more about why a lane does not move stands higher.
    fn weight(self) -> u8 {
        match self {
            Self::Turn => 0,
            Self::Answer => 1,
            Self::AckUntil(_) => 2,
            Self::Retry(_) => 3,
            Self::Ack => 4,
            Self::Bridge => 5,
        }
    }
}

impl Lane {
    /// How the lane stands, looking at its `look` oldest deliveries.
    #[must_use]
    pub fn standing(&self, look: usize) -> Standing {
        let mut standing = Standing {
            in_flight: self.in_flight,
            offline_since: self.health.offline_since(),
            is_given_up: self.health.has_given_up(),
            has_more: !self.supply.has_all() || self.open_scan.after.is_some(),
            ..Standing::default()
        };
        if self.entries.is_empty() {
            return standing;
        }
        standing.has_more |= self.entries.len() > look || self.lines.values().take(look).any(|line| line.stored);
        let mut speaker: Option<(u8, Seq, &Entry)> = None;
        for ((seq, _), entry) in self.entries.iter().take(look).filter(|(_, entry)| !entry.test) {
            standing.open += 1;
            standing.oldest.get_or_insert(*seq);
            standing.urgent += u32::from(entry.priority == Priority::Urgent);
            let wait = Wait::of(&entry.phase);
            match wait {
                Wait::Retry(_) => standing.retrying += 1,
                Wait::AckUntil(_) | Wait::Ack => standing.awaiting_ack += 1,
                Wait::Bridge => standing.blocked += 1,
                Wait::Turn | Wait::Answer => {}
            }
            // A failed delivery whose next attempt is under way still says why it failed.
            let weight = wait.weight().max(if entry.reason.is_some() { 3 } else { 0 });
            if speaker.is_none_or(|(known, _, _)| weight > known) {
                speaker = Some((weight, *seq, entry));
            }
        }
        standing.speaker = speaker.map(|(_, seq, entry)| Speaker {
            seq,
            wait: Wait::of(&entry.phase),
            attempts: entry.attempts,
            reason: entry.reason.clone(),
            mend: entry.mend.clone(),
        });
        standing
    }
}
