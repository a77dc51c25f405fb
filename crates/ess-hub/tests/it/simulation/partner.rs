//! What a simulated partner does with a message: by the hour it is healthy, slow, dark, overloaded, or lies.

use std::time::Duration;

use bytes::Bytes;
use ess_core::id::{Digest, EventId};
use ess_core::partner::AckBy;
use ess_core::receipt::{Answer, Failure, Receipt, Stage};

use super::dice::Dice;

/// One attempt may take so long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a partner behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Healthy,
    Slow,
    /// Nobody answers the door.
    Dark,
    /// Takes the connection and says nothing.
    Hanging,
    /// Every other attempt fails.
    Flapping,
    /// 5xx.
    Broken,
    /// 429 with `Retry-After`.
    Overloaded,
    /// Takes the event, then the answer is lost.
    LosesAnswers,
    /// 2xx without an ACK.
    Silent,
    /// The ACK of another event.
    AcksAnother,
    /// The ACK for other bytes.
    AcksOtherBytes,
    NacksForNow,
    NacksForGood,
    /// 4xx.
    Refuses,
    /// 410.
    Gone,
}

const BAD_MOODS: [Mood; 16] = [
    Mood::Slow,
    Mood::Dark,
    Mood::Dark,
    Mood::Hanging,
    Mood::Flapping,
    Mood::Flapping,
    Mood::Broken,
    Mood::Overloaded,
    Mood::LosesAnswers,
    Mood::Silent,
    Mood::AcksAnother,
    Mood::AcksOtherBytes,
    Mood::NacksForNow,
    Mood::NacksForGood,
    Mood::Refuses,
    Mood::Gone,
];

/// What a partner does with one attempt.
pub struct Reaction {
    pub took: Duration,
    pub receipt: Receipt,
    /// Words that it says later, or before its answer has come.
    pub words: Vec<(Duration, SaidWord)>,
}

/// A word by callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidWord {
    Ack,
    Nack,
    /// For bytes that it was not sent: refused at the door.
    AckOfOtherBytes,
}

/// A partner's behaviour, all of it drawn beforehand: what it does at an hour does not depend on how often it is asked.
pub struct PartnerModel {
    dice: Dice,
    ack_by: AckBy,
    /// From when on, in which mood.
    moods: Vec<(Duration, Mood)>,
}

impl PartnerModel {
    pub fn new(mut dice: Dice, ack_by: AckBy, horizon: Duration) -> Self {
        let mut moods = Vec::new();
        let mut from = Duration::ZERO;
        let is_steady = dice.chance(15);
        while from < horizon && !is_steady {
            moods.push((from, Mood::Healthy));
            from += dice.span(Duration::from_secs(20), horizon / 4);
            moods.push((from, dice.pick(&BAD_MOODS)));
            from += dice.span(Duration::from_secs(5), horizon / 3);
        }
        moods.push((horizon, Mood::Healthy));
        Self { dice, ack_by, moods }
    }

    /// One that is in this mood until then, and healthy after.
    pub fn only(dice: Dice, ack_by: AckBy, moods: Vec<(Duration, Mood)>) -> Self {
        Self { dice, ack_by, moods }
    }

    pub fn mood_at(&self, at: Duration) -> Mood {
        self.moods.iter().rev().find(|(from, _)| *from <= at).map_or(Mood::Healthy, |(_, mood)| *mood)
    }

    /// What it does with an attempt that reaches it at `at`.
    pub fn react(&mut self, at: Duration, event: &EventId, body: &Digest) -> Reaction {
        let quick = self.dice.span(Duration::from_millis(2), Duration::from_millis(120));
        let mood = match self.mood_at(at) {
            Mood::Flapping if self.dice.chance(50) => Mood::Dark,
            Mood::Flapping => Mood::Healthy,
            mood => mood,
        };
        match mood {
            Mood::Healthy | Mood::Flapping => self.take(quick, event, body),
            Mood::Slow => {
                let took = self.dice.span(Duration::from_secs(1), TIMEOUT - Duration::from_secs(1));
                self.take(took, event, body)
            }
            Mood::Dark => failed(quick, Stage::Connect, "connection refused"),
            Mood::Hanging => failed(TIMEOUT, Stage::Await, "no answer in time"),
            Mood::LosesAnswers => {
                let words = self.late_words();
                Reaction { words, ..failed(quick, Stage::Read, "connection reset") }
            }
            Mood::Broken => {
                let status = self.dice.pick(&[500, 502, 503, 504]);
                answered(quick, status, String::new(), None)
            }
            Mood::Overloaded => {
                let wait = self.dice.span(Duration::from_secs(1), Duration::from_secs(1_800));
                answered(quick, 429, String::new(), Some(wait))
            }
            Mood::Silent => {
                let words = self.late_words();
                Reaction { words, ..answered(quick, 200, "thanks".to_owned(), None) }
            }
            Mood::AcksAnother => answered(quick, 200, r#"{"ack":"ANOTHER-V1"}"#.to_owned(), None),
            Mood::AcksOtherBytes => {
                let other = Digest::of(b"other bytes");
                let body = format!(r#"{{"ack":"{event}","digest":"sha-256={other}"}}"#);
                Reaction { words: vec![(quick, SaidWord::AckOfOtherBytes)], ..answered(quick, 200, body, None) }
            }
            Mood::NacksForNow => {
                let body = format!(r#"{{"nack":"{event}","reason":"busy","retryable":true}}"#);
                answered(quick, 200, body, None)
            }
            Mood::NacksForGood => {
                let body = format!(r#"{{"nack":"{event}","reason":"unknown county"}}"#);
                answered(quick, 422 - 222 * u16::from(self.dice.chance(80)), body, None)
            }
            Mood::Refuses => {
                let status = self.dice.pick(&[400, 401, 403, 404, 302]);
                answered(quick, status, String::new(), None)
            }
            Mood::Gone => answered(quick, 410, String::new(), None),
        }
    }

    fn take(&mut self, took: Duration, event: &EventId, body: &Digest) -> Reaction {
        match self.ack_by {
            AckBy::Body => {
                let said = if self.dice.chance(50) {
                    format!(r#"{{"ack":"{event}"}}"#)
                } else {
                    format!(r#"{{"ack":"{event}","digest":"sha-256={body}"}}"#)
                };
                let words = if self.dice.chance(5) { self.late_words() } else { Vec::new() };
                Reaction { words, ..answered(took, 200, said, None) }
            }
            AckBy::Status => answered(took, 204, String::new(), None),
            AckBy::Callback | AckBy::File | AckBy::Topic => {
                let mut words = if self.dice.chance(95) { self.late_words() } else { Vec::new() };
                if self.dice.chance(10) {
                    // The word overtakes the answer.
                    words.push((took / 2, SaidWord::Ack));
                }
                if self.dice.chance(2) {
                    words = vec![(took * 2, SaidWord::Nack)];
                }
                Reaction { words, ..answered(took, 202, String::new(), None) }
            }
        }
    }

    /// An ACK after seconds or hours, perhaps twice.
    fn late_words(&mut self) -> Vec<(Duration, SaidWord)> {
        let most = self.dice.pick(&[10, 10, 60, 600, 7_200, 100_000]);
        let delay = self.dice.span(Duration::from_millis(50), Duration::from_secs(most));
        let mut words = vec![(delay, SaidWord::Ack)];
        if self.dice.chance(30) {
            words.push((delay + self.dice.span(Duration::ZERO, Duration::from_secs(most)), SaidWord::Ack));
        }
        words
    }
}

fn answered(took: Duration, status: u16, body: String, retry_after: Option<Duration>) -> Reaction {
    let receipt = Receipt::Answer(Answer { status, body: Bytes::from(body), retry_after });
    Reaction { took, receipt, words: Vec::new() }
}

fn failed(took: Duration, stage: Stage, reason: &str) -> Reaction {
    Reaction { took, receipt: Receipt::Failed(Failure { stage, reason: reason.to_owned() }), words: Vec::new() }
}
