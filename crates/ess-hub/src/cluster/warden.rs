//! Keeps the lease, seats the partners that this node is to serve, and lets those go that belong elsewhere.
//!
//! A partner changes hands in one of two ways. Its node lets it go: nothing more is sent, and when nothing is under way and all is
//! written down, the seat is given to the next one. Or its node is not heard of for as long as its lease: the others give it up and
//! share its partners out, and nothing that it may still find out is written down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ess_core::id::{PartnerNo, Seq};
use ess_store::{NodeLine, NodeNo, Sight, StoreError, home_of};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Cluster, lease};
use crate::hub::Hub;
use crate::lanes::Input;
use crate::registry::Registered;

/// A lease is renewed so often within its length.
const RENEWALS: u32 = 5;
/// A node is given up this part of a lease after its own has lapsed: all lapse at once when the database was away.
const GRACE: u32 = 2;
/// Seats are looked at every so many renewals, whatever was told.
const LOOK_EVERY: u32 = 5;
/// Partners that are read from the store together when they are seated.
const SEATED_AT_ONCE: usize = 8;
/// Partners that are let go at once.
const RELEASED_AT_ONCE: usize = 1_024;
/// Partners that are given away together.
const GIVEN_AT_ONCE: usize = 1_024;

/// Runs for as long as the hub does.
pub(super) async fn run(hub: Hub, cluster: Arc<Cluster>, head: Seq) {
    let every = cluster.options.lease / RENEWALS;
    let mut warden = Warden {
        hub,
        cluster: cluster.clone(),
        head,
        me: None,
        staying: Vec::new(),
        terms: None,
        commits: 0,
        looks: 0,
        is_leaving: false,
        released: JoinSet::new(),
        releasing: BTreeSet::new(),
        homeless: Vec::new(),
        must_look_home: true,
        was_lost: false,
    };
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => warden.renew().await,
            () = cluster.told.seats.notified() => {
                warden.looks = 0;
                warden.renew().await;
            }
            () = cluster.told.leave.notified() => {
                warden.is_leaving = true;
                warden.renew().await;
            }
            Some(released) = warden.released.join_next() => warden.on_released(released.ok()).await,
        }
    }
}

struct Warden {
    hub: Hub,
    cluster: Arc<Cluster>,
    /// The log's head when the hub began.
    head: Seq,
    me: Option<NodeNo>,
    /// Who shares the partners.
    staying: Vec<NodeNo>,
    terms: Option<u64>,
    /// The mark of the commits that were heard of.
    commits: i64,
    looks: u32,
    is_leaving: bool,
    released: JoinSet<(PartnerNo, bool)>,
    /// Partners on their way elsewhere.
    releasing: BTreeSet<PartnerNo>,
    /// Partners that left their lanes and could not be given away yet.
    homeless: Vec<PartnerNo>,
    /// Whether every partner is where it belongs is to be looked at.
    must_look_home: bool,
    was_lost: bool,
}

impl Warden {
    async fn renew(&mut self) {
        let result = match self.me {
            None => self.join().await,
            Some(me) => self.renew_as(me).await,
        };
        match result {
            Ok(()) if self.was_lost => {
                self.was_lost = false;
                tracing::info!("the lease of this node is renewed again");
            }
            Ok(()) => {}
            Err(StoreError::Closed) => {}
            Err(error) => {
                if !self.was_lost {
                    self.was_lost = true;
                    tracing::warn!(%error, "could not renew the lease of this node; it sends nothing once it has run out");
                }
            }
        }
    }

    async fn join(&mut self) -> Result<(), StoreError> {
        if self.is_leaving {
            self.cluster.told.left.notify_one();
            return Ok(());
        }
        let options = &self.cluster.options;
        let asked = lease::now();
        let join = self.cluster.nodes.join(options.name.clone(), options.version.clone(), options.lease);
        let (joined, former) = join.await?;
        self.hub.delivery.store.set_node(Some(joined)).await;
        self.hub.delivery.lease.extend(asked, options.lease);
        (self.me, self.terms, self.looks) = (Some(joined), None, 0);
        self.cluster.note(self.me, None);
        tracing::info!(node.no = joined.0, node.name = options.name, "joined the other nodes as number {joined}");
        if let Some(former) = former {
            tracing::info!(
                node.no = former.0,
                "this hub was node {former} when it ended; what that served is shared out anew"
            );
        }
        self.renew_as(joined).await
    }

    async fn renew_as(&mut self, me: NodeNo) -> Result<(), StoreError> {
        let span = self.cluster.options.lease;
        let asked = lease::now();
        let sight = self.cluster.nodes.renew(me, span).await?;
        if !sight.is_in || self.hub.delivery.store.is_out() {
            self.give_up(me).await;
            return Ok(());
        }
        self.hub.delivery.lease.extend(asked, span);
        self.cluster.note(self.me, Some(&sight));
        if self.is_leaving && !is_leaving(&sight, me) {
            self.cluster.nodes.begin_to_leave(me, span).await?;
            self.looks = 0;
        }
        let is_staying = |node: &&NodeLine| node.lease_left.is_some() && !node.is_leaving;
        let mut staying: Vec<NodeNo> = sight.nodes.iter().filter(is_staying).map(|node| node.no).collect();
        staying.retain(|node| !self.is_leaving || *node != me);
        self.hub.delivery.lease.set_leads(super::leader(&sight.nodes) == Some(me) && !self.is_leaving);
        let has_lapsed = sight.nodes.iter().any(|node| node.lease_left.is_none());
        let is_news = self.terms != Some(sight.terms) || self.staying != staying;
        self.must_look_home |= self.staying != staying;
        if std::mem::replace(&mut self.commits, sight.commits) != sight.commits || is_news {
            // Open pages show what other nodes did, and who comes and goes.
            self.hub.delivery.store.hear_of_commits();
        }
        self.staying = staying;
        if (has_lapsed || is_news) && !self.is_leaving {
            for lost in self.cluster.nodes.settle(me, span / GRACE, span).await? {
                self.cluster.takeovers.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(node.no = lost.0, "node {lost} was not heard of; its partners are served by others now");
            }
        }
        if has_lapsed || is_news || self.looks == 0 {
            self.take_seats(me).await?;
        }
        self.terms = Some(sight.terms);
        self.looks = (self.looks + 1) % LOOK_EVERY;
        self.let_go(me);
        self.give(me).await?;
        if self.is_leaving && (self.staying.is_empty() || self.is_empty()) {
            self.cluster.told.left.notify_one();
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.cluster.served().is_empty() && self.releasing.is_empty() && self.homeless.is_empty()
    }

    /// This node was given up: what it serves is served by others. It comes back as another one.
    async fn give_up(&mut self, me: NodeNo) {
        tracing::warn!(node.no = me.0, "this node was given up by the others; it begins anew");
        self.hub.delivery.lease.end();
        self.cluster.note(None, None);
        let served: Vec<PartnerNo> = self.cluster.served().into_iter().collect();
        self.unseat(&served).await;
        self.releasing.clear();
        self.homeless.clear();
        self.released.abort_all();
        // What lanes had recorded waits in the store under the old number, and so does what comes late: it is never written.
        self.hub.lanes.settle().await;
        self.hub.delivery.store.set_node(Some(me)).await;
        (self.me, self.terms) = (None, None);
        // At once: the next tick may be a second away.
        self.cluster.told.seats.notify_one();
    }

    async fn unseat(&self, partners: &[PartnerNo]) {
        if partners.is_empty() {
            // Whoever changes the registry may be waiting for a partner to be seated.
            return;
        }
        for no in partners {
            self.cluster.set_served(*no, false);
            self.hub.lanes.tell(Input::Unseat(*no));
            self.hub.delivery.watches.leave(*no);
            self.hub.delivery.attention.leave(*no);
        }
        self.hub.renew_channels(partners).await;
    }

    /// Seats what is this node's to serve and not seated yet, and lets go what is another's.
    async fn take_seats(&mut self, me: NodeNo) -> Result<(), StoreError> {
        let seats: BTreeSet<PartnerNo> =
            self.cluster.nodes.seats(me, self.cluster.options.lease).await?.into_iter().collect();
        let served = self.cluster.served();
        let gone: Vec<PartnerNo> = served.difference(&seats).copied().collect();
        self.unseat(&gone).await;
        let is_new = |no: &&PartnerNo| !self.releasing.contains(no) && !self.homeless.contains(no);
        let new: Vec<PartnerNo> = seats.difference(&served).filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let snapshot = self.hub.delivery.registry.snapshot();
        if new.iter().any(|no| !snapshot.by_no.contains_key(no)) {
            self.hub.catch_up().await?;
        }
        let seated = self.seat_all(&new).await;
        self.must_look_home = true;
        if let Ok(count) = seated {
            tracing::info!(count, "partners are served here now");
        }
        seated?;
        if let Err(problem) = self.hub.take_back_again().await {
            tracing::warn!(%problem, "could not look at the last retractions");
        }
        Ok(())
    }

    /// Seats as many as the lease has time for; the others come next time. Answers how many.
    async fn seat_all(&mut self, partners: &[PartnerNo]) -> Result<usize, StoreError> {
        let until = Instant::now() + self.cluster.options.lease / RENEWALS;
        let mut seating = JoinSet::new();
        let (mut rest, mut count, mut failed) = (partners.iter().copied(), 0, None);
        loop {
            while seating.len() < SEATED_AT_ONCE
                && failed.is_none()
                && Instant::now() < until
                && let Some(no) = rest.next()
            {
                let (hub, head) = (self.hub.clone(), self.head);
                seating.spawn(async move { (no, hub.seat_here(no, head).await) });
            }
            match seating.join_next().await {
                None => break,
                Some(Ok((no, Ok(true)))) => {
                    self.cluster.set_served(no, true);
                    count += 1;
                }
                // Removed a moment ago.
                Some(Ok((_, Ok(false))) | Err(_)) => {}
                Some(Ok((_, Err(error)))) => failed = Some(error),
            }
        }
        if rest.next().is_some() {
            self.cluster.told.seats.notify_one();
        }
        failed.map_or(Ok(count), Err)
    }

    /// Begins to let partners go that belong elsewhere.
    fn let_go(&mut self, me: NodeNo) {
        if !std::mem::take(&mut self.must_look_home) {
            return;
        }
        for no in self.cluster.served() {
            if self.releasing.len() >= RELEASED_AT_ONCE {
                self.must_look_home = true;
                break;
            }
            if home_of(no, &self.staying).is_none_or(|home| home == me) || !self.releasing.insert(no) {
                continue;
            }
            let hub = self.hub.clone();
            self.released.spawn(async move {
                let (reply, answer) = oneshot::channel();
                hub.lanes.tell(Input::Release(no, reply));
                (no, answer.await.unwrap_or(false))
            });
        }
    }

    async fn on_released(&mut self, first: Option<(PartnerNo, bool)>) {
        let mut released: Vec<(PartnerNo, bool)> = first.into_iter().collect();
        while released.len() < GIVEN_AT_ONCE
            && let Some(Ok(next)) = self.released.try_join_next()
        {
            released.push(next);
        }
        // Others were begun before this node was given up.
        released.retain(|(no, _)| self.releasing.remove(no));
        let gone: Vec<PartnerNo> = released.iter().map(|(no, _)| *no).collect();
        self.unseat(&gone).await;
        self.homeless.extend(released.into_iter().filter(|(_, was_here)| *was_here).map(|(no, _)| no));
        if let Some(me) = self.me
            && let Err(error) = self.give(me).await
        {
            tracing::warn!(%error, "could not hand partners over; trying again");
        }
        if self.is_leaving && self.is_empty() {
            self.cluster.told.left.notify_one();
        }
        if let Some(me) = self.me {
            self.let_go(me);
        }
    }

    /// Gives partners that left their lanes to those who are to serve them.
    async fn give(&mut self, me: NodeNo) -> Result<(), StoreError> {
        if self.homeless.is_empty() {
            return Ok(());
        }
        // All that their lanes knew is written down before another one reads it.
        self.hub.delivery.store.record_durably(Vec::new()).await?;
        let home = |no: &PartnerNo| home_of(*no, &self.staying).map(|home| (*no, home));
        let given: Vec<_> = self.homeless.iter().filter_map(home).collect();
        self.cluster.nodes.give(me, given, self.cluster.options.lease).await?;
        tracing::info!(count = self.homeless.len(), "partners are handed over");
        self.homeless.clear();
        // Of one whose new node is gone nothing was changed: it is found among the seats and seated again.
        self.looks = 0;
        Ok(())
    }
}

fn is_leaving(sight: &Sight, me: NodeNo) -> bool {
    sight.nodes.iter().any(|node| node.no == me && node.is_leaving)
}

impl Hub {
    /// Gives the partner a lane of this node's, with what the store remembers; false when it is not there any more.
    async fn seat_here(&self, no: PartnerNo, head: Seq) -> Result<bool, StoreError> {
        let snapshot = self.delivery.registry.snapshot();
        let Some(registered) = snapshot.by_no.get(&no) else { return Ok(false) };
        self.seat(registered.clone(), head).await?;
        self.delivery.watches.watch(registered);
        self.delivery.attention.adopt(no);
        Ok(true)
    }

    /// Channels that were closed with their lanes are opened anew, for when the partners come back; their connections go.
    async fn renew_channels(&self, partners: &[PartnerNo]) {
        let registry = &self.delivery.registry;
        let _changing = registry.changing.lock().await;
        let snapshot = registry.snapshot();
        let renew = |known: &Arc<Registered>| {
            let (partner, secrets) = (known.partner.clone(), known.secrets.clone());
            Arc::new(self.opener.register(known.no, partner, known.added_at, known.paused_since, secrets))
        };
        let known = partners.iter().filter_map(|no| snapshot.by_no.get(no));
        registry.put_all(known.map(renew).collect());
    }
}
