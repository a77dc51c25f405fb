//! Letters between nodes, by way of the database: no node has to reach another one, and none has to trust one that can't open it.
//!
//! A letter that is lost is not sent again: who asked gives up after a time and says so, and what is asked is such that it may be
//! asked twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_store::{NodeNo, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{ASK_WITHIN, Answer, Call, Cluster, is_passing};
use crate::hub::Hub;

/// Letters that are sent together.
const SENT_AT_ONCE: usize = 256;
/// Questions of others that are looked into at once; more wait for their turn.
const ANSWERED_AT_ONCE: usize = 256;
/// What was not told is looked for so often while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Letters that nobody took, and sessions that are over, are thrown away so often.
const CLEAR_EVERY: Duration = Duration::from_secs(60);

/// A letter.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    from: u64,
    /// Which question it is, or is the answer to.
    number: u64,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
enum Content {
    Call(Call),
    Answer(Answer),
}

/// What waits to be sent, and who waits for an answer.
pub(crate) struct Post {
    next: AtomicU64,
    /// Guards those who wait; held for a look or a change. Each waits for a bounded time.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    out: mpsc::UnboundedSender<(NodeNo, u64, Content)>,
    /// Guards the other end until the loop takes it.
    taken_out: Mutex<Option<mpsc::UnboundedReceiver<(NodeNo, u64, Content)>>>,
}

impl Default for Post {
    fn default() -> Self {
        let (out, taken_out) = mpsc::unbounded_channel();
        Self { next: AtomicU64::new(1), waiting: Mutex::default(), out, taken_out: Mutex::new(Some(taken_out)) }
    }
}

impl Post {
    /// Asks a node; `None` when it has not answered within the time.
    pub(super) async fn ask(&self, node: NodeNo, call: Call, within: Duration) -> Option<Answer> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { post: self, number };
        self.waiting().insert(number, reply);
        self.out.send((node, number, Content::Call(call))).ok()?;
        let answer = tokio::time::timeout(within, answer).await.ok()?.ok();
        drop(waiting);
        answer
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for an answer; gone, nobody does.
struct Waiting<'a> {
    post: &'a Post,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.post.waiting().remove(&self.number);
    }
}

/// Sends and receives for as long as the hub runs.
pub(super) async fn run(hub: Hub, cluster: Arc<Cluster>) {
    let taken = cluster.post.taken_out.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut out) = taken else { return };
    let mut answering: JoinSet<()> = JoinSet::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut clear = tokio::time::interval(CLEAR_EVERY);
    clear.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut going = Vec::with_capacity(SENT_AT_ONCE);
    loop {
        let done = tokio::select! {
            count = out.recv_many(&mut going, SENT_AT_ONCE) => {
                if count == 0 {
                    return;
                }
                send(&cluster, going.drain(..)).await
            }
            () = cluster.told.post.notified(), if answering.len() < ANSWERED_AT_ONCE => {
                receive(&hub, &cluster, &mut answering).await
            }
            _ = tick.tick(), if answering.len() < ANSWERED_AT_ONCE => {
                if cluster.post.waiting().is_empty() { Ok(()) } else { receive(&hub, &cluster, &mut answering).await }
            }
            _ = clear.tick(), if hub.leads() => clear_away(&cluster).await,
            Some(_) = answering.join_next() => Ok(()),
        };
        if let Err(error) = done {
            if !is_passing(&error) {
                return;
            }
            tracing::debug!(%error, "post between nodes had to wait");
        }
    }
}

/// What nobody took, and sessions that are over.
async fn clear_away(cluster: &Cluster) -> Result<(), StoreError> {
    cluster.nodes.clear_post(ASK_WITHIN).await?;
    cluster.sessions.clear().await
}

async fn send(cluster: &Cluster, going: impl Iterator<Item = (NodeNo, u64, Content)>) -> Result<(), StoreError> {
    let Some(me) = cluster.me() else { return Ok(()) };
    let mut letters = Vec::new();
    for (to, number, content) in going {
        let letter = Letter { from: me.0, number, content };
        match serde_json::to_vec(&letter) {
            Ok(body) => letters.push((to, body)),
            Err(error) => tracing::error!(%error, "a letter to another node can't be written"),
        }
    }
    cluster.nodes.send(letters, ASK_WITHIN).await
}

async fn receive(hub: &Hub, cluster: &Arc<Cluster>, answering: &mut JoinSet<()>) -> Result<(), StoreError> {
    let Some(me) = cluster.me() else { return Ok(()) };
    let letters = cluster.nodes.receive(me, ANSWERED_AT_ONCE, ASK_WITHIN).await?;
    if letters.len() == ANSWERED_AT_ONCE {
        cluster.told.post.notify_one();
    }
    for body in letters {
        let Letter { from, number, content } = match serde_json::from_slice(&body) {
            Ok(letter) => letter,
            Err(error) => {
                // Of a newer program, perhaps: it gives up waiting and says so.
                tracing::warn!(%error, "a letter of another node can't be read");
                continue;
            }
        };
        match content {
            Content::Answer(answer) => {
                let waiting = cluster.post.waiting().remove(&number);
                if let Some(reply) = waiting {
                    // Who asked may have gone.
                    drop(reply.send(answer));
                }
            }
            Content::Call(call) => {
                let (hub, cluster) = (hub.clone(), cluster.clone());
                answering.spawn(async move {
                    let answer = hub.answer(call).await;
                    // A hub that stops answers nothing more.
                    drop(cluster.post.out.send((NodeNo(from), number, Content::Answer(answer))));
                });
            }
        }
    }
    Ok(())
}
