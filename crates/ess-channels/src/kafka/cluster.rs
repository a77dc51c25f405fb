//! What is known of a cluster: its brokers, each with its kept connections, and who leads which partition.
//!
//! A broker's address is the cluster's word, so it is dialled under the same guard as the address of the partner.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Line;
use super::protocol::Metadata;
use crate::channel::ChannelError;
use crate::kept::Kept;
use crate::limits::{KAFKA_ASKED_MAX, KAFKA_BROKERS_MAX, KAFKA_TOPICS_MAX, KAFKA_WHEREABOUTS_AGE};
use crate::pool::Pool;
use crate::target::{KAFKA, Target};

/// One broker, with connections of its own.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) target: Target,
    pub(super) pool: Pool<Kept<Line>>,
}

/// The cluster as it was described last.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The broker of the partner's address.
    home: Arc<Broker>,
    connections_max: usize,
    /// Which broker is asked first; the next one after each that does not answer.
    turn: AtomicUsize,
    /// Locked for a look or a change.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    brokers: HashMap<i32, Arc<Broker>>,
    topics: HashMap<String, Topic>,
}

#[derive(Debug, Clone)]
struct Topic {
    leaders: Arc<[i32]>,
    since: Instant,
}

/// A topic's partitions as far as they are known.
#[derive(Debug)]
pub(super) struct Partitions(Arc<[i32]>);

impl Partitions {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl Cluster {
    pub(super) fn new(home: Target, connections_max: usize) -> Cluster {
        let home = Arc::new(Broker { target: home, pool: Pool::new(connections_max, Kept::is_open) });
        Cluster { home, connections_max, turn: AtomicUsize::new(0), known: Mutex::default() }
    }

    /// The topic's partitions, unless they have to be asked for.
    pub(super) fn partitions(&self, topic: &str) -> Option<Partitions> {
        let known = self.lock();
        let topic = known.topics.get(topic).filter(|topic| topic.since.elapsed() < KAFKA_WHEREABOUTS_AGE)?;
        Some(Partitions(Arc::clone(&topic.leaders)))
    }

    /// The broker that leads this partition; `None` while nobody does.
    pub(super) fn leader(&self, partitions: &Partitions, partition: i32) -> Option<Arc<Broker>> {
        let leader = partitions.0.get(usize::try_from(partition).ok()?)?;
        self.lock().brokers.get(leader).cloned()
    }

    /// Forgets where the topic is, so that it is asked for again.
    pub(super) fn forget(&self, topic: &str) {
        self.lock().topics.remove(topic);
    }

    /// The brokers to ask in turn, a few of them.
    pub(super) fn to_ask(&self) -> Vec<Arc<Broker>> {
        let mut all = vec![Arc::clone(&self.home)];
        let mut others: Vec<(i32, Arc<Broker>)> =
            self.lock().brokers.iter().map(|(id, broker)| (*id, Arc::clone(broker))).collect();
        others.sort_unstable_by_key(|(id, _)| *id);
        all.extend(others.into_iter().map(|(_, broker)| broker).filter(|broker| !Arc::ptr_eq(broker, &self.home)));
        let first = self.turn.load(Ordering::Relaxed) % all.len();
        all.rotate_left(first);
        all.truncate(KAFKA_ASKED_MAX);
        all
    }

    /// Notes that the broker to be asked first does not answer.
    pub(super) fn ask_another(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what a broker said of the cluster.
    pub(super) fn learn(&self, topic: &str, metadata: &Metadata) -> Result<Partitions, ChannelError> {
        let mut brokers = HashMap::new();
        for node in metadata.brokers.iter().take(KAFKA_BROKERS_MAX) {
            brokers.insert(node.id, self.broker(node.id, &node.host, node.port)?);
        }
        let leaders: Arc<[i32]> = metadata.leaders.as_slice().into();
        let mut known = self.lock();
        // What is gone closes its connections when the last attempt leaves it.
        known.brokers = brokers;
        if known.topics.len() >= KAFKA_TOPICS_MAX {
            known.topics.clear();
        }
        let found = Topic { leaders: Arc::clone(&leaders), since: Instant::now() };
        known.topics.insert(topic.to_owned(), found);
        Ok(Partitions(leaders))
    }

    /// The broker as it is known, with its connections, or a new one.
    fn broker(&self, id: i32, host: &str, port: u16) -> Result<Arc<Broker>, ChannelError> {
        let is_there = |broker: &Arc<Broker>| broker.target.host == host && broker.target.port == port;
        if is_there(&self.home) {
            return Ok(Arc::clone(&self.home));
        }
        if let Some(broker) = self.lock().brokers.get(&id).filter(|broker| is_there(broker)) {
            return Ok(Arc::clone(broker));
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = Target::parse(&format!("{}://{host}:{port}/", self.home.target.scheme()), &KAFKA)?;
        Ok(Arc::new(Broker { target, pool: Pool::new(self.connections_max, Kept::is_open) }))
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self) {
        self.home.pool.sweep();
        let brokers: Vec<Arc<Broker>> = self.lock().brokers.values().cloned().collect();
        for broker in brokers {
            broker.pool.sweep();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
