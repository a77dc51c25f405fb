//! Under which number each message is sent, so that a broker which has one already keeps it once.
//!
//! A sender has one message under way. Its number and the message's place in its sequence are noted before a byte is
//! written, and stay noted until it is certain what became of the message: the next attempt sends it as the same one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::batch::Stamp;
use crate::limits::{KAFKA_DOUBTS_MAX, KAFKA_TOPICS_MAX};

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
}

/// Who sends one message after another.
#[derive(Debug)]
pub(super) struct Sender {
    producer: i64,
    epoch: i16,
    /// The number of the next message for each partition.
    next: HashMap<Place, i32>,
}

/// A message that is under way, or of which nobody knows whether it arrived.
#[derive(Debug)]
struct Doubt {
    message: String,
    place: Place,
    sender: Sender,
}

/// The senders of one partner.
#[derive(Debug, Default)]
pub(super) struct Senders {
    /// Locked for a look or a change.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    idle: Vec<Sender>,
    doubts: VecDeque<Doubt>,
}

impl Sender {
    /// A sender whose number the cluster just gave.
    pub(super) fn new(producer: i64, epoch: i16) -> Sender {
        Sender { producer, epoch, next: HashMap::new() }
    }
}

impl Senders {
    /// Where an earlier attempt left this message.
    pub(super) fn place(&self, message: &str) -> Option<Place> {
        self.lock().doubts.iter().find(|doubt| doubt.message == message).map(|doubt| doubt.place.clone())
    }

    /// The stamp for this message: that of its earlier attempt, or the next one of an idle sender; `None` when there is
    /// none, so that a new one is to be added first.
    pub(super) fn begin(&self, message: &str, place: &Place) -> Option<Stamp> {
        let mut inner = self.lock();
        if let Some(doubt) = inner.doubts.iter().find(|doubt| doubt.message == message) {
            return Some(doubt.sender.stamp(&doubt.place));
        }
        let sender = inner.idle.pop()?;
        let stamp = sender.stamp(place);
        if inner.doubts.len() >= KAFKA_DOUBTS_MAX {
            inner.doubts.pop_front();
        }
        inner.doubts.push_back(Doubt { message: message.to_owned(), place: place.clone(), sender });
        Some(stamp)
    }

    /// Takes a sender that has nothing under way.
    pub(super) fn add(&self, sender: Sender) {
        self.lock().idle.push(sender);
    }

    /// Notes that the partition has the message.
    pub(super) fn arrived(&self, message: &str) {
        let mut inner = self.lock();
        let Some(at) = inner.doubts.iter().position(|doubt| doubt.message == message) else { return };
        let Some(Doubt { place, mut sender, .. }) = inner.doubts.remove(at) else { return };
        // Its numbers begin at 0 again after the last one, as the clients of Kafka have it.
        let next = sender.stamp(&place).sequence.checked_add(1).unwrap_or(0);
        if sender.next.len() < KAFKA_TOPICS_MAX {
            sender.next.insert(place, next);
            inner.idle.push(sender);
        }
    }

    /// Gives the message's sender up, since its sequence is not to be known any more.
    pub(super) fn give_up(&self, message: &str) {
        self.lock().doubts.retain(|doubt| doubt.message != message);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    fn stamp(&self, place: &Place) -> Stamp {
        let sequence = self.next.get(place).copied().unwrap_or(0);
        Stamp { producer: self.producer, epoch: self.epoch, sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        Place { topic: "rules".to_owned(), partition }
    }

    #[test]
    fn a_message_in_doubt_keeps_its_number_and_its_sender_to_itself() {
        let senders = Senders::default();
        assert_eq!(senders.begin("a", &place(0)), None);
        senders.add(Sender::new(7, 0));
        let first = senders.begin("a", &place(0)).unwrap();
        assert_eq!((first.producer, first.sequence), (7, 0));
        // The same message keeps to the partition that it was sent to; another needs another sender.
        assert_eq!(senders.begin("a", &place(3)), Some(first));
        assert_eq!((senders.place("a"), senders.begin("b", &place(0))), (Some(place(0)), None));
        senders.arrived("a");
        assert_eq!(senders.begin("b", &place(0)).map(|stamp| stamp.sequence), Some(1));
        senders.arrived("b");
        assert_eq!(senders.begin("c", &place(1)).map(|stamp| stamp.sequence), Some(0));
        senders.give_up("c");
        assert_eq!((senders.place("c"), senders.begin("c", &place(1))), (None, None));
    }

    #[test]
    fn doubts_have_a_ceiling() {
        let senders = Senders::default();
        for number in 0..=KAFKA_DOUBTS_MAX {
            senders.add(Sender::new(1, 0));
            senders.begin(&number.to_string(), &place(0)).unwrap();
        }
        assert_eq!((senders.place("0"), senders.place("1")), (None, Some(place(0))));
    }
}
