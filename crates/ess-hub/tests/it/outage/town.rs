//! A hub with two partners: the one whose server goes away, and a witness that is always well; for a channel within this
//! machine also a witness by the same channel. Its clock is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Dialer, DialerOptions};
use ess_core::access::{Principal, Role};
use ess_core::event::{Content, Trace};
use ess_core::id::PartnerId;
use ess_core::partner::{AllowDir, AllowNet, Partner, SecretRef};
use ess_core::retention::Keep;
use ess_hub::scripts::Scripts;
use ess_hub::view::PartnerView;
use ess_hub::{EscalationOptions, Hub, HubOptions, NodeOptions, NotaryOptions, RetentionOptions};
use serde_json::{Value, json};

use super::places::Place;
use super::wire::Receiver;
use super::{IN_FLIGHT, SUBJECTS};

/// How far the clock moves at once: less than any time limit of an attempt.
const STEP: Duration = Duration::from_secs(5);
/// Nothing takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Town {
    pub(crate) hub: Hub,
    pub(crate) place: Place,
    witness: Receiver,
    admin: Principal,
    published: usize,
    /// Attempts go on until their time is over.
    pub(crate) is_hanging: bool,
    _dir: tempfile::TempDir,
}

impl Town {
    pub(crate) async fn with(place: Place) -> Town {
        let dir = tempfile::tempdir().unwrap();
        let hub = open(dir.path(), place.dirs()).await;
        let admin = Principal { token_id: "test".to_owned(), role: Role::Admin, expires_at: None };
        let witness = Receiver::start().await;
        let url = format!("http://{}/hook", witness.address);
        let beside = json!({"id": "WITNESS", "channel": "webhook", "url": url, "ack": {"by": "status"}});
        let mut document = json!({"id": "P", "limits": {"in_flight": IN_FLIGHT}, "retry": {"max": "5m"}});
        let theirs = place.document.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(theirs);
        let sibling = place.sibling().map(|mut sibling| {
            sibling["id"] = json!("SIBLING");
            sibling
        });
        for document in [Some(beside), sibling, Some(document)].into_iter().flatten() {
            let partner = Partner::from_json(&document).unwrap();
            hub.add_partner(partner, false, None, &admin).await.unwrap();
        }
        let mut town = Town { hub, place, witness, admin, published: 0, is_hanging: false, _dir: dir };
        town.place.open_doors(&town.hub);
        town
    }

    /// Publishes the next events.
    pub(crate) async fn publish(&mut self, count: usize) {
        for number in self.published..self.published + count {
            let event = json!({
                "id": format!("E-{number}"),
                "version": 1,
                "subject": format!("S-{}", number % SUBJECTS),
                "payload": {"number": number},
            });
            let content = Content::from_json(event.to_string().as_bytes(), false).unwrap();
            self.hub.publish(content, Trace::default(), &self.admin).await.unwrap();
        }
        self.published += count;
    }

    /// How many were published so far.
    pub(crate) fn published(&self) -> usize {
        self.published
    }

    /// How the lane fares whose server goes away.
    pub(crate) async fn lane(&self) -> PartnerView {
        self.hub.partner(&PartnerId::trusted("P")).await.unwrap()
    }

    /// Lets so much time pass for the hub; what a step sets going ends before the next, as far as it can.
    pub(crate) async fn pass(&self, span: Duration) {
        let mut passed = Duration::ZERO;
        while passed < span {
            passed += STEP;
            self.step().await;
            self.until("attempts end", async |town| town.is_hanging || town.is_quiet().await).await;
        }
    }

    /// Whether no attempt is under way, but for those that wait for their partner to ask.
    pub(crate) async fn is_quiet(&self) -> bool {
        self.place.is_asked() || self.lane().await.in_flight == 0
    }

    /// Whether the partner has everything, after some looks: who fetches needs a moment, and what it forgot to acknowledge the
    /// hub's time.
    async fn is_done_soon(&self) -> bool {
        for _ in 0..50 {
            if self.lane().await.backlog == 0 {
                return true;
            }
            // Between two looks, of which there are so many and no more: no clock of the hub's moves meanwhile.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    async fn step(&self) {
        tokio::time::pause();
        tokio::time::advance(STEP).await;
        tokio::time::resume();
    }

    /// Waits in real time, within a bound, while the hub's clock is let be.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn(&Town) -> bool) {
        let began = std::time::Instant::now();
        while !is_so(self).await {
            assert!(began.elapsed() < PATIENCE, "waited too long until {what}: {:?}", self.lane().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The partner that is well has all that was published.
    pub(crate) async fn witness_has_everything(&self) {
        self.until("the witness has everything", async |town| town.witness.taken().len() >= town.published).await;
        super::check_order(&self.witness.taken(), self.published);
        self.until("the one beside has everything", async |town| {
            town.place.arrived_beside().is_none_or(|arrived| arrived.len() >= town.published)
        })
        .await;
    }

    /// The partner gets everything within so much of the hub's time, by itself.
    pub(crate) async fn recovers(&self, bound: Duration) {
        let mut passed = Duration::ZERO;
        loop {
            self.until("attempts end", async |town| town.is_quiet().await).await;
            if self.is_done_soon().await {
                break;
            }
            assert!(passed < bound, "it did not recover: {:?}", self.lane().await);
            passed += STEP;
            self.step().await;
        }
        self.until("it has everything", async |town| {
            let mut arrived = town.place.arrived();
            arrived.sort_unstable();
            arrived.dedup();
            arrived.len() >= town.published
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop(Duration::from_secs(1)).await;
    }
}

async fn open(dir: &std::path::Path, shares: Vec<std::path::PathBuf>) -> Hub {
    let store =
        ess_store::Options { outcome_window: Duration::from_millis(2), ..ess_store::Options::embedded(dir.to_owned()) };
    let opened = ess_store::Store::open(&store).unwrap();
    let dialer = Dialer::new(DialerOptions {
        allow: AllowNet(vec!["127.0.0.0/8".parse().unwrap()]),
        allow_dir: AllowDir(shares),
        extra_roots_pem: Vec::new(),
        system_roots: true,
        user_agent: "hms-ess/test".to_owned(),
        proxy: None,
    });
    let find_secret: ess_hub::FindSecret = Arc::new(|secret| match secret {
        SecretRef::Inline(text) => Ok(text.clone()),
        SecretRef::Env(_) | SecretRef::File(_) => Err("there are no such secrets in tests".to_owned()),
    });
    let span = Duration::from_secs(86_400);
    let options = HubOptions {
        opened,
        dir: dir.to_owned(),
        dialer: dialer.unwrap(),
        public_url: "https://hub.example".to_owned(),
        scripts: Scripts::start(crate::scripts::options()),
        find_secret,
        free_bytes_min: 0,
        notary: NotaryOptions { every: span, places: Vec::new() },
        retention: RetentionOptions {
            keep: Keep { events: span, tests: span, attempts: span, audit: span },
            every: span,
        },
        escalation: EscalationOptions::default(),
        traces: None,
        node: NodeOptions::default(),
    };
    Hub::start(options).await.unwrap()
}

/// The event's number in its body or its name, such as `E-17` or `E-17.v1.json`.
pub(crate) fn number_of(text: &str) -> usize {
    let digits = text.split_once("E-").unwrap().1;
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// The same of a JSON body.
pub(crate) fn number_in(body: &[u8]) -> usize {
    let body: Value = serde_json::from_slice(body).unwrap();
    number_of(body["id"].as_str().unwrap())
}
