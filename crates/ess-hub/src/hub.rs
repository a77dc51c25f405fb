//! The hub: what holds the parts together, and how it starts and stops.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_channels::Dialer;
use ess_core::access::{Principal, Role};
use ess_core::delivery::DeliveryKey;
use ess_core::id::{EventId, PartnerId, PartnerNo, Seq};
use ess_core::lane::OpenDelivery;
use ess_core::partner::Partner;
use ess_core::problem::{Code, Problem};
use ess_core::signature::{Ed25519Key, SigningSecret};
use ess_core::time::Time;
use ess_store::{Audit, Opened, Recorded, Store, StoreError, StoredPartner};

use crate::access::{Access, TokenMark};
use crate::clock::Clock;
use crate::cluster::{self, Cluster, Lease, NodeOptions};
use crate::deliver::Delivery;
use crate::elsewhere;
use crate::escalation::{self, EscalationOptions, Ops};
use crate::filters::Filters;
use crate::happenings::Happenings;
use crate::lanes::{Input, Lanes, LanesHandle, Retractions, Wish};
use crate::links::Links;
use crate::metrics::Metrics;
use crate::notary::{self, Notary, NotaryOptions};
use crate::overview::{SURVEY_AGE_MAX, Survey};
use crate::prepare::Workshop;
use crate::publish::{unanswered, unavailable};
use crate::redact;
use crate::registry::{FindSecret, Opener, Registered, Registry, Snapshot};
use crate::retention::{self, RetentionOptions};
use crate::rules::Rules;
use crate::scripts::Scripts;
use crate::traces::{Tracer, TracesOptions};
use crate::view::Happening;
use crate::watch::{self, Watches};
use tokio::sync::{Notify, mpsc, watch as watch_channel};

/// The setting that holds the seed of the key for messages.
const SIGNING_SEED: &str = "signing_seed";
/// The setting that holds the seed of the key for the ledger's checkpoints: another one, so that neither can pass for the other.
const LEDGER_SEED: &str = "ledger_seed";
/// The setting that holds the key for the links in mails.
const LINK_SEED: &str = "ack_link_seed";
/// How often free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for the last spans.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// A database that was asked and has said nothing to anybody for so long is taken to hang.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// What a hub is made of.
pub struct HubOptions {
    /// The open store.
    pub opened: Opened,
    /// Its directory, for free space.
    pub dir: PathBuf,
    /// The one that opens sockets.
    pub dialer: Dialer,
    /// Its address for those outside, for the links in mails.
    pub public_url: String,
    /// Where scripts run.
    pub scripts: Scripts,
    /// Where partners' secrets are.
    pub find_secret: FindSecret,
    /// Below this much free space publishes are refused.
    pub free_bytes_min: u64,
    /// When the ledger's checkpoints are made, and where they go.
    pub notary: NotaryOptions,
    /// What is kept for how long.
    pub retention: RetentionOptions,
    /// Whom to tell of trouble.
    pub escalation: EscalationOptions,
    /// Where spans go.
    pub traces: Option<TracesOptions>,
    /// How it is one of several, where the store is shared.
    pub node: NodeOptions,
}

/// The engine; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) happenings: Arc<Happenings>,
    pub(crate) access: Arc<Access>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) lanes: LanesHandle,
    pub(crate) filters: Arc<Filters>,
    pub(crate) retractions: Arc<Retractions>,
    pub(crate) notary: Arc<Notary>,
    pub(crate) survey: Arc<Survey>,
    /// A redaction left bytes in the write-ahead log, as somebody reads from it.
    pub(crate) unwiped: Arc<Notify>,
    pub(crate) ops: Arc<Ops>,
    /// When the certificate ends that is shown.
    pub(crate) certificate_ends: watch_channel::Sender<Option<Time>>,
    /// The other hubs on this store.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The hub is about to stop, and balancers are to look elsewhere.
    draining: Arc<AtomicBool>,
    space: Arc<Space>,
    /// Guards the loops' handles until they are joined.
    loops: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

/// Whether there is room for more.
struct Space {
    dir: PathBuf,
    free_bytes_min: u64,
    /// Guards the last word on it.
    shortage: Mutex<Option<String>>,
}

impl Hub {
    /// Starts the engine: every open delivery goes on where it was.
    ///
    /// # Errors
    /// What is stored can't be read.
    pub async fn start(options: HubOptions) -> Result<Self, StoreError> {
        let HubOptions { opened, dir, dialer, scripts, find_secret, free_bytes_min, .. } = options;
        let Opened { store, recorded, start, nodes } = opened;
        let cluster = nodes.map(|nodes| Arc::new(Cluster::new(nodes, options.node)));
        let metrics = Arc::new(Metrics::default());
        let key = Arc::new(signing_key(&store, SIGNING_SEED).await?);
        let notary = Arc::new(Notary::new(signing_key(&store, LEDGER_SEED).await?, options.notary));
        let opener = Arc::new(Opener { dialer, find_secret });
        let ops = Arc::new(Ops::open(options.escalation, notary.name(), &opener));
        let registry = Registry::default();
        let rules = Rules::read(&start.rules).map_err(StoreError::Damaged)?;
        scripts.set_tables(rules.tables.clone());
        registry.swap(first_snapshot(&opener, &start.partners, rules)?);
        registry.set_number(start.registry);
        let (tracer, way_out) = Tracer::open(options.traces, &metrics);
        let workshop = Workshop { scripts, key, metrics: metrics.clone(), clock: Clock::start(), tracer };
        let (watches, orders) = Watches::new();
        let links = Links::new(seed_of(&store, LINK_SEED).await?, &options.public_url);
        let lease = if cluster.is_some() { Lease::shared() } else { Lease::alone() };
        let delivery = Arc::new(Delivery::new(store, registry, workshop, links, watches, lease));
        let happenings = Arc::new(Happenings::default());
        let (wisher, wishes) = mpsc::unbounded_channel();
        let retractions = Arc::new(Retractions::default());
        let (feed, fed) = mpsc::unbounded_channel();
        let (recorded, followed) = if cluster.is_some() { (fed, Some(recorded)) } else { (recorded, None) };
        let (loop_, lanes) =
            Lanes::new(delivery.clone(), happenings.clone(), recorded, wisher, retractions.clone(), seed_of_dice()?);
        let hub = Self {
            delivery,
            happenings,
            access: Arc::new(Access::new(start.tokens)),
            opener,
            lanes,
            filters: Arc::default(),
            retractions,
            notary,
            survey: Arc::new(Survey::new(SURVEY_AGE_MAX)),
            unwiped: Arc::default(),
            ops,
            certificate_ends: watch_channel::Sender::new(None),
            cluster: cluster.clone(),
            draining: Arc::default(),
            space: Arc::new(Space { dir, free_bytes_min, shortage: Mutex::default() }),
            loops: Arc::default(),
        };
        if cluster.is_none() {
            hub.seat_all(start.head).await?;
        }
        hub.take_back_again().await.map_err(|problem| StoreError::Damaged(problem.detail))?;
        let mut loops = vec![
            tokio::spawn(watch_space(hub.space.clone())),
            tokio::spawn(notary::run(hub.clone())),
            tokio::spawn(elsewhere::run(hub.clone())),
            tokio::spawn(retention::run(hub.clone(), options.retention)),
            tokio::spawn(redact::run(hub.clone())),
            tokio::spawn(escalation::run(hub.clone(), if cluster.is_some() { Vec::new() } else { start.escalations })),
            tokio::spawn(grant(hub.clone(), wishes)),
            tokio::spawn(watch::run(hub.clone(), orders)),
            tokio::spawn(loop_.run()),
        ];
        if let (Some(cluster), Some(followed)) = (&cluster, followed) {
            loops.extend(cluster::start(&hub, cluster, followed, feed, start.head));
        }
        loops.extend(way_out.map(|way_out| tokio::spawn(way_out.run())));
        *hub.loops.lock().unwrap_or_else(PoisonError::into_inner) = loops;
        cluster::wait_for_lease(&hub.delivery.lease).await;
        Ok(hub)
    }

    /// Gives all partners their lanes. Among several nodes, each is seated by the one that it is given to.
    async fn seat_all(&self, head: Seq) -> Result<(), StoreError> {
        for registered in self.delivery.registry.snapshot().partners.values() {
            self.seat(registered.clone(), head).await?;
            self.delivery.watches.watch(registered);
        }
        Ok(())
    }

    /// Gives a partner its lane, with what the store remembers of it.
    pub(crate) async fn seat(&self, registered: Arc<Registered>, head: Seq) -> Result<(), StoreError> {
        let start = self.delivery.store.lane_start(registered.no).await?;
        let left = self.left_in_store(registered.no, &start.open).await?;
        self.lanes.tell(Input::Seat(registered, Box::new(start), left, head));
        Ok(())
    }

    /// Open deliveries that did not fit into the lane's start; their lines are held until they are read.
    async fn left_in_store(&self, no: PartnerNo, loaded: &[OpenDelivery]) -> Result<Vec<OpenDelivery>, StoreError> {
        let mut left = Vec::new();
        let mut after = match loaded.last() {
            Some(last) if loaded.len() >= ess_core::lane::WINDOW => (last.key.seq, last.key.round),
            _ => return Ok(left),
        };
        loop {
            let page = self.delivery.store.open_deliveries(no, after, 4_096).await?;
            let Some(last) = page.last() else { return Ok(left) };
            after = (last.key.seq, last.key.round);
            left.extend(page);
        }
    }

    /// Lets balancers know that the hub is about to stop: it is not ready from now on, and yet takes and answers everything.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the hub is about to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Stops: nothing new is sent, what is under way may end within `bound`, everything is written down.
    pub async fn stop(&self, bound: Duration) {
        self.hand_over(bound / 2).await;
        self.delivery.watches.stop().await;
        if tokio::time::timeout(bound, self.lanes.drain()).await.is_err() {
            tracing::warn!("some attempts did not end in time; they are made again at the next start");
        }
        // What is not away by then is let go: it tells of deliveries, it is none.
        drop(tokio::time::timeout(FLUSH_MAX, self.delivery.workshop.tracer.flush()).await);
        let loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in loops {
            handle.abort();
        }
        self.delivery.workshop.scripts.clone().close().await;
        // All that was recorded is written down first.
        drop(self.delivery.store.record_durably(Vec::new()).await);
        self.depart().await;
        self.delivery.store.close().await;
    }

    /// Who bears this token; `None` when it is unknown, expired or revoked. Never waits.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Principal> {
        self.access.principal(token, self.now())
    }

    /// Who bears this token, and what stands for the token from now on. Never waits.
    #[must_use]
    pub fn mark_token(&self, token: &str) -> Option<(TokenMark, Principal)> {
        let mark = TokenMark::of(token);
        Some((mark, self.access.principal_of(&mark, self.now())?))
    }

    /// Who bore the token that this stands for; `None` once it has expired or was revoked. Never waits.
    #[must_use]
    pub fn still_bears(&self, mark: &TokenMark) -> Option<Principal> {
        self.access.principal_of(mark, self.now())
    }

    /// Why the hub can't serve now, if so.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        if self.delivery.store.failing().is_some() {
            return Some("the hub's store can't write now".to_owned());
        }
        // Others serve its partners; who asks it would wait for a database that does not answer.
        if !self.delivery.lease.holds() || self.unanswered().is_some() {
            return Some("this hub does not reach its database now".to_owned());
        }
        self.space.shortage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to say to who waits while the database takes what it is asked and answers nobody.
    #[must_use]
    pub fn unanswered(&self) -> Option<Problem> {
        (self.delivery.store.silence() >= SILENCE_MAX).then(unanswered)
    }

    /// Public keys for `v1a`, newest first.
    #[must_use]
    pub fn public_keys(&self) -> Vec<String> {
        vec![self.delivery.workshop.key.public()]
    }

    /// Everything that happens from now on; a slow reader misses some and is told how many.
    #[must_use]
    pub fn happenings(&self) -> tokio::sync::broadcast::Receiver<Happening> {
        self.happenings.listen()
    }

    /// Free space on the disk of the data directory.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.space.free_bytes()
    }

    /// The hub's time: what ages are told by.
    #[must_use]
    pub fn time(&self) -> Time {
        self.now()
    }

    pub(crate) fn now(&self) -> Time {
        self.delivery.clock.now()
    }

    pub(crate) fn audit(
        &self,
        by: &Principal,
        act: &'static str,
        object: impl Into<String>,
        reason: Option<String>,
    ) -> Audit {
        Audit { at: self.now(), actor: by.token_id.clone(), act, object: object.into(), reason }
    }

    /// The event of this id, or the problem that says it is not there.
    pub(crate) async fn recorded(&self, id: &EventId, test: bool) -> Result<Recorded, Problem> {
        let found = self.delivery.store.event_by_id(id.as_str(), test).await.map_err(|error| unavailable(&error))?;
        found.ok_or_else(|| {
            let what = if test { "dry run" } else { "event" };
            Problem::new(Code::NotFound, format!("there is no {what} {id}"))
                .with_hint("ids are case-sensitive; `GET /v1/events` lists them")
        })
    }
}

impl Space {
    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn note(&self, shortage: Option<String>) {
        let mut known = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() && shortage.is_some() {
            tracing::error!("free disk space is below the configured minimum; publishes are refused");
        }
        *known = shortage;
    }
}

/// The key that a setting holds the seed of; made when it is first asked for.
async fn signing_key(store: &Store, setting: &'static str) -> Result<Ed25519Key, StoreError> {
    seed_of(store, setting).await.map(Ed25519Key::from_seed)
}

/// A secret of the hub's own; made when it is first asked for.
async fn seed_of(store: &Store, setting: &'static str) -> Result<[u8; 32], StoreError> {
    if let Some(seed) = store.secret_setting(setting).await? {
        return seed.try_into().map_err(|_| StoreError::Damaged(setting.to_owned()));
    }
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| StoreError::Open(error.to_string()))?;
    store.put_secret_setting(setting, &seed).await?;
    // Another node may have chosen at the same moment: what was first stays.
    let kept = store.secret_setting(setting).await?.and_then(|kept| kept.try_into().ok());
    kept.ok_or_else(|| StoreError::Damaged(setting.to_owned()))
}

/// What makes the jitter of this run.
fn seed_of_dice() -> Result<u64, StoreError> {
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).map_err(|error| StoreError::Open(error.to_string()))?;
    Ok(u64::from_le_bytes(seed))
}

fn first_snapshot(opener: &Opener, partners: &[StoredPartner], rules: Rules) -> Result<Snapshot, StoreError> {
    let mut registered = BTreeMap::new();
    for stored in partners.iter().filter(|stored| stored.removed_at.is_none()) {
        let partner = read_partner(stored)?;
        let secrets = read_secrets(&stored.secrets);
        let one = opener.register(stored.no, Arc::new(partner), stored.added_at, stored.paused_since, secrets);
        registered.insert(one.partner.id.clone(), Arc::new(one));
    }
    let former = partners.iter().filter(|stored| stored.removed_at.is_some());
    let former = former.map(|stored| (stored.no, PartnerId::trusted(&stored.id))).collect();
    Ok(Snapshot::new(registered, Arc::new(former), Arc::new(rules)))
}

pub(crate) fn read_partner(stored: &StoredPartner) -> Result<Partner, StoreError> {
    let damaged = |why: String| StoreError::Damaged(format!("partner {}: {why}", stored.id));
    let document = serde_json::from_str(&stored.document).map_err(|error| damaged(error.to_string()))?;
    let partner = Partner::from_json(&document).map_err(|problem| damaged(problem.detail))?;
    if partner.id.as_str() != stored.id {
        return Err(damaged(format!("its sealed document is of {}", partner.id)));
    }
    Ok(partner)
}

/// Signing secrets as they are used.
pub(crate) fn read_secrets(stored: &[(String, Option<Time>)]) -> Vec<(SigningSecret, Option<Time>)> {
    stored.iter().filter_map(|(text, end)| Some((SigningSecret::parse(text).ok()?, *end))).collect()
}

/// Signing secrets as they are stored.
pub(crate) fn write_secrets(secrets: &[(SigningSecret, Option<Time>)]) -> Vec<(String, Option<Time>)> {
    secrets.iter().map(|(secret, end)| (secret.reveal(), *end)).collect()
}

/// A place before every delivery.
pub(crate) const FIRST: DeliveryKey = DeliveryKey { seq: Seq(0), partner: PartnerNo(0), round: 0 };

/// Does what lanes ask of the registry.
async fn grant(hub: Hub, mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let by = Principal { token_id: "hub".to_owned(), role: Role::Admin, expires_at: None };
    while let Some(Wish::Pause(no, reason)) = wishes.recv().await {
        let id = hub.delivery.registry.snapshot().by_no.get(&no).map(|registered| registered.partner.id.clone());
        let Some(id) = id else { continue };
        if let Err(problem) = hub.pause_partner(&id, Some(reason), &by).await {
            tracing::error!(partner.id = %id, %problem, "could not record that a partner is paused");
        }
    }
}

async fn watch_space(space: Arc<Space>) {
    loop {
        let shortage = space.free_bytes().filter(|free| *free < space.free_bytes_min);
        let shortage =
            shortage.map(|free| format!("the hub's disk has {} MiB left, too little to go on", free / (1024 * 1024)));
        space.note(shortage);
        tokio::time::sleep(SPACE_EVERY).await;
    }
}
