//! Several hubs on one store: each partner is served by one of them at a time.
//!
//! A node holds a lease in the database and renews it; `warden` seats the partners that it is to serve and lets go those that
//! belong elsewhere. `follow` brings every event of the log to the lanes, whoever recorded it; `catch_up` brings changes of partners,
//! rules and tokens. What is asked of one node and known to another goes by `post`.

mod calls;
mod catch_up;
mod follow;
mod lease;
mod post;
mod warden;
mod words;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ess_core::id::PartnerNo;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_store::{NodeLine, NodeNo, Nodes, Notice, Recorded, Sight, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::sessions::SharedSessions;

pub(crate) use self::calls::{Answer, Call};
pub use self::lease::Lease;
use self::post::Post;

/// A question to the database that somebody waits for is given up after this.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How often a first lease is looked for.
const LEASE_LOOK: Duration = Duration::from_millis(10);

/// How a hub is one of several.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// What it is called among them.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// How long it may go unheard before the others take its partners over.
    pub lease: Duration,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "hub".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), lease: Duration::from_secs(5) }
    }
}

/// One node, as people see it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Its number; never given again.
    pub no: u64,
    /// What it is called.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// When it came.
    pub began_at: Time,
    /// What is left of its lease; none when it has lapsed.
    pub lease_left: Option<Duration>,
    /// `live`, `leaving` or `lapsed`.
    pub state: &'static str,
    /// How many partners it serves.
    pub partners: u64,
    /// It does what one does for all: it signs the ledger and clears away.
    pub leads: bool,
    /// It is the one that answers.
    pub is_this: bool,
}

/// What this hub knows of the others, and how it tells them something.
pub(crate) struct Cluster {
    pub(super) nodes: Nodes,
    pub(crate) sessions: SharedSessions,
    options: NodeOptions,
    /// Guards what was seen at the last renewal, with this node's own number then.
    seen: Mutex<(Option<NodeNo>, Vec<NodeLine>)>,
    /// Guards the partners that are served here.
    served: RwLock<BTreeSet<PartnerNo>>,
    told: Told,
    /// Nodes that this one gave up.
    takeovers: AtomicU64,
    pub(super) post: Post,
}

/// What was heard and is to be looked at.
#[derive(Debug, Default)]
struct Told {
    log: Notify,
    registry: Notify,
    seats: Notify,
    post: Notify,
    /// This node is to go.
    leave: Notify,
    /// Nothing is served here any more.
    left: Notify,
}

impl Cluster {
    pub(crate) fn new(nodes: Nodes, options: NodeOptions) -> Self {
        Self {
            sessions: SharedSessions::new(&nodes),
            nodes,
            options,
            seen: Mutex::default(),
            served: RwLock::default(),
            told: Told::default(),
            takeovers: AtomicU64::new(0),
            post: Post::default(),
        }
    }

    /// Whether this node serves the partner.
    pub(crate) fn serves(&self, no: PartnerNo) -> bool {
        self.served.read().unwrap_or_else(PoisonError::into_inner).contains(&no)
    }

    /// Somebody was added or removed: who serves whom is looked at now, and changes of the registry too.
    pub(crate) fn look_again(&self) {
        self.told.registry.notify_one();
        self.told.seats.notify_one();
    }

    fn me(&self) -> Option<NodeNo> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The others that answer, as of the last renewal.
    fn others(&self) -> Vec<NodeNo> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = |node: &&NodeLine| node.lease_left.is_some() && Some(node.no) != seen.0;
        seen.1.iter().filter(is_other).map(|node| node.no).collect()
    }

    /// How many nodes hold their leases, this one included, as of the last renewal.
    pub(crate) fn live_count(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1.iter().filter(|node| node.lease_left.is_some()).count()
    }

    /// How many partners are served here.
    pub(crate) fn served_count(&self) -> usize {
        self.served.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many nodes this one gave up since it began.
    pub(crate) fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    fn note(&self, me: Option<NodeNo>, sight: Option<&Sight>) {
        let nodes = sight.map(|sight| sight.nodes.clone()).unwrap_or_default();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = (me, nodes);
    }

    fn served(&self) -> BTreeSet<PartnerNo> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_served(&self, no: PartnerNo, is_served: bool) {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if is_served {
            served.insert(no);
        } else {
            served.remove(&no);
        }
    }

    /// Passes on what is told to all.
    async fn hear(&self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Log => self.told.log.notify_one(),
                Notice::Registry => self.told.registry.notify_one(),
                Notice::Seats => self.told.seats.notify_one(),
                Notice::Post(to) if Some(to) == self.me() => self.told.post.notify_one(),
                Notice::Post(_) => {}
                Notice::Lost => {
                    self.told.log.notify_one();
                    self.look_again();
                    self.told.post.notify_one();
                }
            }
        }
    }
}

/// Of all nodes that stay, the one that came first does what one does for all.
fn leader(nodes: &[NodeLine]) -> Option<NodeNo> {
    let stays = |node: &&NodeLine| node.lease_left.is_some() && !node.is_leaving;
    nodes.iter().filter(stays).map(|node| node.no).min()
}

/// Starts what a node among others does beside its lanes.
pub(crate) fn start(
    hub: &Hub,
    cluster: &Arc<Cluster>,
    recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    fed: mpsc::UnboundedSender<Vec<Recorded>>,
    head: ess_core::id::Seq,
) -> Vec<JoinHandle<()>> {
    let (ear, notices) = mpsc::unbounded_channel();
    let (listening, hearing) = (cluster.nodes.clone(), cluster.clone());
    vec![
        tokio::spawn(listening.listen(ear)),
        tokio::spawn(async move { hearing.hear(notices).await }),
        tokio::spawn(follow::run(hub.clone(), cluster.clone(), recorded, fed, head)),
        tokio::spawn(catch_up::run(hub.clone(), cluster.clone())),
        tokio::spawn(post::run(hub.clone(), cluster.clone())),
        tokio::spawn(warden::run(hub.clone(), cluster.clone(), head)),
    ]
}

/// Waits, within a bound, until this node may send: who asks it right after its start is not refused.
pub(crate) async fn wait_for_lease(lease: &Lease) {
    let held = async {
        while !lease.holds() {
            // Nothing tells of a lease: it is looked for, within the bound below.
            tokio::time::sleep(LEASE_LOOK).await;
        }
    };
    // One that can't be had yet is sought on.
    drop(tokio::time::timeout(ASK_WITHIN, held).await);
}

impl Hub {
    /// Whether this node does what one does for all.
    pub(crate) fn leads(&self) -> bool {
        self.delivery.lease.leads()
    }

    /// Waits until this node does what one does for all; at once for a hub that is alone.
    pub(crate) async fn wait_to_lead(&self, look_every: Duration) {
        while !self.leads() {
            // Looked at, for it is no event: a word of the warden's and a lease that ends by the clock. A look reads two numbers in
            // memory. Of a node that never leads there is no end; the hub's own ends it.
            tokio::time::sleep(look_every).await;
        }
    }

    /// Whether other hubs may share its store.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether this node serves the partner.
    pub(crate) fn serves(&self, no: PartnerNo) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.serves(no))
    }

    /// All nodes on this store; none where a hub has its store for itself.
    ///
    /// # Errors
    /// The database can't be asked.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Problem> {
        let Some(cluster) = &self.cluster else { return Ok(Vec::new()) };
        let listed = cluster.nodes.list(ASK_WITHIN).await.map_err(|error| unavailable(&error))?;
        let lines: Vec<NodeLine> = listed.iter().map(|(node, _)| node.clone()).collect();
        let (me, leads) = (cluster.me(), leader(&lines));
        let view = |(node, partners): (NodeLine, u64)| NodeView {
            no: node.no.0,
            state: match (node.lease_left, node.is_leaving) {
                (None, _) => "lapsed",
                (Some(_), true) => "leaving",
                (Some(_), false) => "live",
            },
            name: node.name,
            version: node.version,
            began_at: node.began_at,
            lease_left: node.lease_left,
            partners,
            leads: Some(node.no) == leads,
            is_this: Some(node.no) == me,
        };
        Ok(listed.into_iter().map(view).collect())
    }

    /// Hands all partners over to the other nodes, as far as they come to an end with them in this time.
    pub(crate) async fn hand_over(&self, bound: Duration) {
        let Some(cluster) = &self.cluster else { return };
        cluster.told.leave.notify_one();
        if tokio::time::timeout(bound, cluster.told.left.notified()).await.is_err() {
            tracing::warn!("some partners could not be handed over in time; the other nodes take them");
        }
    }
}

impl Hub {
    /// Goes from among the nodes: partners that it still has are the others' to take, at once.
    pub(crate) async fn depart(&self) {
        let Some(cluster) = &self.cluster else { return };
        self.delivery.lease.end();
        let Some(me) = cluster.me() else { return };
        if let Err(error) = cluster.nodes.leave(me, ASK_WITHIN).await {
            tracing::warn!(%error, "could not tell the other nodes of the stop; they take over when the lease has run out");
        }
    }
}

/// What to say when the one that serves a partner can't be asked now.
fn nobody_serves() -> Problem {
    Problem::new(Code::Unavailable, "the node that serves this partner is being replaced")
        .with_hint("nothing was done; try again")
        .with_retry_after(Duration::from_secs(1))
}

/// A failure of the store that others may know nothing of.
fn is_passing(error: &StoreError) -> bool {
    !matches!(error, StoreError::Closed)
}
