//! What comes to the writer, and what goes into one commit.

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::nodes::NodeNo;
use crate::retention::{Sweep, Swept};
use crate::sql::registry::Act;
use crate::types::{Change, NewEvent, Publication};

type Result<T> = std::result::Result<T, StoreError>;

/// Items of one commit at most: a bound on its time.
const COUNT_MAX: usize = 4_096;
/// Bytes of payloads in one commit at most, more by what came last.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the writer is asked for.
pub(crate) enum Item {
    Publish(Box<NewEvent>, oneshot::Sender<Result<Publication>>),
    PublishMany(Vec<NewEvent>, oneshot::Sender<Vec<Result<Publication>>>),
    Changes(Vec<Change>),
    Durable(Vec<Change>, oneshot::Sender<Result<()>>),
    Act(Box<Act>, oneshot::Sender<Result<u32>>),
    BytesMax(Option<u64>, oneshot::Sender<()>),
    Sweep(Box<Sweep>, oneshot::Sender<Result<Swept>>),
    WipeLog(oneshot::Sender<Result<bool>>),
    /// Outcomes from here on are this node's; those before were of who it was before.
    Node(Option<NodeNo>, oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// Somebody who waits until so many outcomes were dealt with.
pub(super) struct Durable {
    pub(super) after: u64,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// Somebody who published.
pub(super) enum Publisher {
    One(oneshot::Sender<Result<Publication>>),
    Many(usize, oneshot::Sender<Vec<Result<Publication>>>),
}

/// What came together for one commit.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) news: Vec<NewEvent>,
    pub(super) publishers: Vec<Publisher>,
    pub(super) acts: Vec<Act>,
    pub(super) act_replies: Vec<oneshot::Sender<Result<u32>>>,
    pub(super) has_durable: bool,
    pub(super) closing: Option<oneshot::Sender<()>>,
    /// Nobody is left who could ask.
    pub(super) is_abandoned: bool,
    pub(super) count: usize,
    bytes: usize,
}

impl Batch {
    /// Takes in what is not an outcome.
    pub(super) fn add(&mut self, item: Item) {
        match item {
            Item::Publish(new, reply) => {
                self.add_event(*new);
                self.publishers.push(Publisher::One(reply));
            }
            Item::PublishMany(news, reply) => {
                self.publishers.push(Publisher::Many(news.len(), reply));
                for new in news {
                    self.add_event(new);
                }
            }
            Item::Act(act, reply) => {
                self.count += 1;
                self.acts.push(*act);
                self.act_replies.push(reply);
            }
            Item::Close(reply) => self.closing = Some(reply),
            // The writer keeps these itself.
            Item::Changes(_)
            | Item::Durable(..)
            | Item::BytesMax(..)
            | Item::Sweep(..)
            | Item::WipeLog(_)
            | Item::Node(..) => {}
        }
    }

    fn add_event(&mut self, new: NewEvent) {
        self.count += 1;
        self.bytes += new.content.payload.get().len();
        self.news.push(new);
    }

    /// Nothing but outcomes, at most.
    pub(super) fn is_empty(&self) -> bool {
        self.news.is_empty() && self.acts.is_empty()
    }

    /// Somebody waits for the commit.
    pub(super) fn is_urgent(&self) -> bool {
        !self.publishers.is_empty() || !self.acts.is_empty() || self.has_durable || self.closing.is_some()
    }

    pub(super) fn has_room(&self) -> bool {
        self.count < COUNT_MAX && self.bytes < BYTES_MAX && self.closing.is_none()
    }

    /// What is kept of a commit of which it is not known whether it was made. Who published is told so: publishing it again tells.
    /// Who changed the registry waits: what the hub knows of it has to be what is stored.
    pub(super) fn keep_doubted(mut self, error: &StoreError) -> Self {
        let refusals = self.news.iter().map(|_| Err(error.clone())).collect();
        answer_publishers(std::mem::take(&mut self.publishers), refusals);
        self
    }

    /// Tells everybody that nothing of it was written.
    pub(super) fn refuse(self, error: &StoreError) {
        let refusals = self.news.iter().map(|_| Err(error.clone())).collect();
        answer_publishers(self.publishers, refusals);
        for reply in self.act_replies {
            drop(reply.send(Err(error.clone())));
        }
    }
}

/// Gives each publisher its part. One who has gone meanwhile finds the event in the log.
pub(super) fn answer_publishers(publishers: Vec<Publisher>, publications: Vec<Result<Publication>>) {
    let mut publications = publications.into_iter();
    for publisher in publishers {
        match publisher {
            Publisher::One(reply) => {
                if let Some(publication) = publications.next() {
                    drop(reply.send(publication));
                }
            }
            Publisher::Many(count, reply) => drop(reply.send(publications.by_ref().take(count).collect())),
        }
    }
}
