//! The pull channel: a partner behind a firewall fetches its events itself.
//!
//! An attempt takes a ticket and waits, for as long as it takes, until somebody asks for messages; only then is the message made,
//! so that its signature is fresh and a waiting attempt costs a ticket and no body. A ticket goes to one who asks: two never get
//! the same message at once. Nothing is dialled.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ess_core::id::EventId;
use ess_core::message::Message;
use ess_core::receipt::{Failure, Receipt, Stage};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long the making of a message may take before those that are made go without it.
const MAKING_MAX: Duration = Duration::from_secs(10);

/// What waits for one partner.
#[derive(Debug, Default)]
pub struct Pull {
    /// Guards the line; held to add or to take tickets.
    line: Mutex<Line>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Line {
    tickets: VecDeque<Ticket>,
    is_closed: bool,
}

#[derive(Debug)]
struct Ticket {
    event: EventId,
    test: bool,
    turn: oneshot::Sender<Slot>,
}

/// The right to hand one message to somebody who asked.
#[derive(Debug)]
pub struct Slot {
    number: usize,
    to: mpsc::Sender<(usize, Message)>,
}

impl Slot {
    /// Hands the message over; false when nobody waits for it any more.
    #[must_use]
    pub fn fill(self, message: Message) -> bool {
        self.to.try_send((self.number, message)).is_ok()
    }
}

impl Pull {
    /// Waits until somebody asks. `None` when the attempt is taken back. Dropping the future gives the place up.
    pub async fn turn(&self, event: &EventId, test: bool) -> Option<Slot> {
        let (turn, given) = oneshot::channel();
        {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if line.is_closed {
                return None;
            }
            line.tickets.retain(|ticket| !ticket.turn.is_closed());
            line.tickets.push_back(Ticket { event: event.clone(), test, turn });
        }
        self.arrived.notify_one();
        given.await.ok()
    }

    /// Sends outside of a lane, such as a test: somebody must ask by `deadline`.
    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let failed = |reason: &str| Receipt::Failed(Failure { stage: Stage::Connect, reason: reason.to_owned() });
        let turn = timeout_at(deadline, self.turn(&message.event_id, message.test)).await;
        let Ok(slot) = turn else { return failed("the partner did not ask for its inbox in time") };
        if slot.is_some_and(|slot| slot.fill(message.clone())) {
            Receipt::Taken
        } else {
            failed("the partner's inbox was closed, or who asked is gone")
        }
    }

    /// At most `most` messages, as soon as there are any; none when the time is over. `None` when the inbox is closed: there may
    /// be a new one.
    pub async fn take(&self, most: usize, deadline: Instant) -> Option<Vec<Message>> {
        loop {
            let (to, mut made) = mpsc::channel(most.max(1));
            let granted = self.grant(most, &to)?;
            drop(to);
            if granted > 0 {
                let messages = collect(&mut made).await;
                if !messages.is_empty() {
                    return Some(messages);
                }
                // All of them were blocked or taken back: what comes next may not be.
                continue;
            }
            if timeout_at(deadline, self.arrived.notified()).await.is_err() {
                return Some(Vec::new());
            }
        }
    }

    /// Gives turns to the first in the line; `None` when it is closed.
    fn grant(&self, most: usize, to: &mpsc::Sender<(usize, Message)>) -> Option<usize> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_closed {
            // The next one who waits is to see it, too.
            self.arrived.notify_one();
            return None;
        }
        let mut granted = 0;
        while granted < most
            && let Some(ticket) = line.tickets.pop_front()
        {
            // An attempt that was given up has left its ticket.
            if ticket.turn.send(Slot { number: granted, to: to.clone() }).is_ok() {
                granted += 1;
            }
        }
        if !line.tickets.is_empty() {
            self.arrived.notify_one();
        }
        Some(granted)
    }

    /// Takes waiting attempts of an event back: it was acknowledged meanwhile.
    pub fn recall(&self, event: &EventId, test: bool) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.tickets.retain(|ticket| (&ticket.event, ticket.test) != (event, test));
    }

    /// Takes every waiting attempt back.
    pub fn recall_all(&self) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).tickets.clear();
    }

    /// Takes every waiting attempt back and takes no more: the partner has another channel, or the hub stops.
    pub fn close(&self) {
        {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.is_closed = true;
            line.tickets.clear();
        }
        self.arrived.notify_one();
        self.arrived.notify_waiters();
    }
}

/// The messages in the order of their turns; those that are not made in time come with a later question.
async fn collect(made: &mut mpsc::Receiver<(usize, Message)>) -> Vec<Message> {
    let deadline = Instant::now() + MAKING_MAX;
    let mut messages = Vec::new();
    while let Ok(Some(message)) = timeout_at(deadline, made.recv()).await {
        messages.push(message);
    }
    // What was filled before the end is not lost: after this nothing more can be.
    made.close();
    while let Ok(message) = made.try_recv() {
        messages.push(message);
    }
    messages.sort_by_key(|(number, _)| *number);
    messages.into_iter().map(|(_, message)| message).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use ess_core::id::{Digest, Subject, Version};

    use super::*;

    fn message(id: &str) -> Message {
        Message {
            id: format!("msg_{id}"),
            event_id: EventId::trusted(id),
            subject: Subject::trusted("A"),
            version: Version(1),
            extension: "json",
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            body: Bytes::from_static(b"{}"),
            body_digest: Digest::of(b"{}"),
            test: false,
            replay: false,
            attempt: 1,
            partner_seq: None,
        }
    }

    fn attempt(pull: &Arc<Pull>, id: &'static str) -> tokio::task::JoinHandle<bool> {
        let pull = pull.clone();
        tokio::spawn(async move {
            match pull.turn(&EventId::trusted(id), false).await {
                Some(slot) => slot.fill(message(id)),
                None => false,
            }
        })
    }

    /// Until so many attempts wait.
    async fn lined_up(pull: &Pull, count: usize) {
        while pull.line.lock().unwrap().tickets.len() < count {
            tokio::task::yield_now().await;
        }
    }

    /// Until every task of this thread waits for something.
    async fn settled() {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    async fn ids(pull: &Pull, most: usize, wait: u64) -> Option<Vec<String>> {
        let taken = pull.take(most, Instant::now() + Duration::from_secs(wait)).await?;
        Some(taken.into_iter().map(|message| message.event_id.to_string()).collect())
    }

    #[tokio::test]
    async fn messages_wait_for_one_who_asks_and_come_in_their_order() {
        let pull = Arc::new(Pull::default());
        let attempts = ["A", "B", "C"].map(|id| attempt(&pull, id));
        lined_up(&pull, 3).await;
        assert!(attempts.iter().all(|attempt| !attempt.is_finished()));
        assert_eq!(ids(&pull, 2, 0).await.unwrap(), ["A", "B"]);
        assert_eq!(ids(&pull, 2, 0).await.unwrap(), ["C"]);
        assert_eq!(ids(&pull, 2, 0).await.unwrap(), [""; 0]);
        for attempt in attempts {
            assert!(attempt.await.unwrap());
        }
    }

    #[tokio::test]
    async fn two_who_ask_never_get_the_same_and_neither_is_forgotten() {
        let pull = Arc::new(Pull::default());
        let askers = [(), ()].map(|()| {
            let pull = pull.clone();
            tokio::spawn(async move { ids(&pull, 1, 60).await.unwrap() })
        });
        settled().await;
        let _attempts = ["A", "B"].map(|id| attempt(&pull, id));
        let mut got = Vec::new();
        for asker in askers {
            got.extend(asker.await.unwrap());
        }
        got.sort();
        assert_eq!(got, ["A", "B"]);
    }

    #[tokio::test]
    async fn one_who_went_away_takes_nothing_along() {
        let pull = Arc::new(Pull::default());
        let gone = {
            let pull = pull.clone();
            tokio::spawn(async move { ids(&pull, 9, 60).await })
        };
        settled().await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        let _attempt = attempt(&pull, "A");
        assert_eq!(ids(&pull, 9, 60).await.unwrap(), ["A"]);
    }

    #[tokio::test]
    async fn what_is_recalled_or_closed_ends_its_attempts() {
        let pull = Arc::new(Pull::default());
        let [first, second] = ["A", "B"].map(|id| attempt(&pull, id));
        lined_up(&pull, 2).await;
        pull.recall(&EventId::trusted("A"), true);
        pull.recall(&EventId::trusted("A"), false);
        assert!(!first.await.unwrap() && !second.is_finished());
        let asker = {
            let pull = pull.clone();
            tokio::spawn(async move { ids(&pull, 1, 60).await })
        };
        assert_eq!(asker.await.unwrap().unwrap(), ["B"]);
        let askers = [(), ()].map(|()| {
            let pull = pull.clone();
            tokio::spawn(async move { ids(&pull, 1, 60).await })
        });
        settled().await;
        pull.close();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), None);
        }
        assert!(!attempt(&pull, "C").await.unwrap());
    }
}
