//! Partners: add, change, pause, test, remove.

use std::sync::Arc;
use std::time::Duration;

use ess_core::access::Principal;
use ess_core::delivery::DeliveryKey;
use ess_core::duration;
use ess_core::event::{Content, Event, Kind, Priority, Trace};
use ess_core::id::{Digest, EventId, PartnerId, PartnerNo, Seq, Subject};
use ess_core::partner::{AckBy, AckPolicy, Partner, Secrets, differences};
use ess_core::problem::{Code, Problem};
use ess_core::receipt::{Said, Verdict};
use ess_core::signature::SigningSecret;
use ess_store::NewPartner;

use crate::cells::Cell;
use crate::cluster::Call;
use crate::deliver::status_of;
use crate::hub::{Hub, write_secrets};
use crate::lanes::{Input, LaneReport};
use crate::prepare::Marking;
use crate::publish::unavailable;
use crate::registry::Registered;
use crate::view::{Page, PartnerChange, PartnerTest, PartnerView, SecretView};

/// A backlog is counted up to here.
const BACKLOG_COUNTED: u64 = 1_000_000;
/// Backlogs that are counted in one question to the store.
const COUNTED_AT_ONCE: usize = 64;

impl Hub {
    /// Adds a partner, or changes it when `replace` is set. The same content again is no change.
    ///
    /// # Errors
    /// Its scripts don't parse, or it is there with other content and `replace` is not set.
    pub async fn add_partner(
        &self,
        mut partner: Partner,
        replace: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerChange, Problem> {
        let changing = self.begin_change().await?;
        let known = self.delivery.registry.snapshot().partners.get(&partner.id).cloned();
        if let Some(known) = &known {
            keep_sealed(&mut partner, &known.partner);
        }
        if known.as_ref().is_none_or(|known| known.partner.escalate != partner.escalate) {
            self.ops.check(&partner)?;
        }
        self.check_scripts(&partner).await?;
        let (registered, secret, changed) = match known {
            Some(known) if *known.partner == partner => (known, None, false),
            Some(known) if !replace => {
                let lines = differences(&known.partner, &partner).join("\n");
                let detail = format!("partner {} is there already with other content:\n{lines}", partner.id);
                return Err(Problem::new(Code::Conflict, detail)
                    .with_hint("to change it, add it with --replace (?replace=true)"));
            }
            Some(known) => (self.change_partner(&known, partner, reason, by).await?, None, true),
            None => {
                let (registered, secret) = self.new_partner(partner, reason, by).await?;
                (registered, Some(secret), true)
            }
        };
        // Who serves it is looked for until it is seated, and seating may need the right to change the registry.
        drop(changing);
        Ok(PartnerChange { partner: self.partner_view(&registered).await?, secret, changed })
    }

    /// Answers its signing secret too.
    async fn new_partner(
        &self,
        partner: Partner,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<(Arc<Registered>, String), Problem> {
        let secret = new_secret()?;
        let text = secret.reveal();
        let added_at = self.now();
        let secrets = vec![(secret, None)];
        let new = NewPartner {
            no: None,
            id: partner.id.to_string(),
            document: partner.to_json(Secrets::Shown).to_string(),
            secrets: write_secrets(&secrets),
            added_at,
        };
        let audit = self.audit(by, "partner.add", partner.id.as_str(), reason);
        let no = self.delivery.store.put_partner(new, audit).await.map_err(|error| unavailable(&error))?;
        let registered = Arc::new(self.opener.register(no, Arc::new(partner), added_at, None, secrets));
        match &self.cluster {
            None => {
                // The lane is there before the first event for it can be recorded.
                self.seat(registered.clone(), Seq(0)).await.map_err(|error| unavailable(&error))?;
                self.delivery.registry.put(registered.clone());
                self.delivery.watches.watch(&registered);
            }
            // Its seat is in the store, and the lane reads what came before it.
            Some(cluster) => {
                self.delivery.registry.put(registered.clone());
                cluster.look_again();
            }
        }
        Ok((registered, text))
    }

    async fn change_partner(
        &self,
        known: &Registered,
        partner: Partner,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<Arc<Registered>, Problem> {
        let new = NewPartner {
            no: Some(known.no),
            id: partner.id.to_string(),
            document: partner.to_json(Secrets::Shown).to_string(),
            secrets: write_secrets(&known.secrets),
            added_at: known.added_at,
        };
        let changed = differences(&known.partner, &partner).join("; ");
        let audit = self.audit(by, "partner.change", format!("{}: {changed}", partner.id), reason);
        self.delivery.store.put_partner(new, audit).await.map_err(|error| unavailable(&error))?;
        let secrets = known.secrets.clone();
        let registered =
            Arc::new(self.opener.register(known.no, Arc::new(partner), known.added_at, known.paused_since, secrets));
        self.delivery.registry.put(registered.clone());
        self.lanes.tell(Input::Reseat(registered.clone()));
        if self.serves(registered.no) {
            self.delivery.watches.watch(&registered);
        }
        Ok(registered)
    }

    async fn check_scripts(&self, partner: &Partner) -> Result<(), Problem> {
        for (field, script) in [("adapter", &partner.adapter), ("where", &partner.filter)] {
            let Some(script) = script else { continue };
            if let Err(error) = self.delivery.workshop.scripts.check(script).await {
                let detail = format!("{field}: {}", error.shown(script));
                let problem = Problem::new(Code::ScriptFailed, detail).with_field(field);
                return Err(match error.place(script) {
                    Some(place) => problem.with_position(place.line, place.column),
                    None => problem,
                });
            }
        }
        Ok(())
    }

    /// A page of partners, by id.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn partners_page(&self, after: Option<&str>, limit: u32) -> Result<Page<PartnerView>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let rest = snapshot.partners.iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        let page: Vec<&Arc<Registered>> = rest.take(limit as usize).map(|(_, registered)| registered).collect();
        let is_full = page.len() == limit as usize;
        let next = page.last().filter(|_| is_full).map(|last| last.partner.id.to_string());
        let numbers: Vec<PartnerNo> = page.iter().map(|registered| registered.no).collect();
        let mut lanes = self.inspect_lanes(&numbers).await;
        let mut items = Vec::with_capacity(page.len());
        for some in page.chunks(COUNTED_AT_ONCE) {
            let numbers = some.iter().map(|registered| registered.no).collect();
            let backlogs = self.delivery.store.backlog_counts(numbers, BACKLOG_COUNTED).await;
            for (registered, backlog) in some.iter().zip(backlogs.map_err(|error| unavailable(&error))?) {
                let lane = lanes.remove(&registered.no).unwrap_or_default();
                items.push(self.view_of(registered, backlog, lane));
            }
        }
        Ok(Page { items, next })
    }

    /// One partner.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn partner(&self, id: &PartnerId) -> Result<PartnerView, Problem> {
        let registered = self.delivery.registry.snapshot().partner(id)?.clone();
        self.partner_view(&registered).await
    }

    /// Removes a partner; its open deliveries are cancelled, what it was sent stays on record.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn remove_partner(&self, id: &PartnerId, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        let _changing = self.begin_change().await?;
        let registered = self.delivery.registry.snapshot().partner(id)?.clone();
        let audit = self.audit(by, "partner.remove", id.as_str(), reason);
        let removed = self.delivery.store.remove_partner(registered.no, self.now(), audit).await;
        removed.map_err(|error| unavailable(&error))?;
        self.delivery.registry.remove(id);
        self.lanes.tell(Input::Unseat(registered.no));
        self.delivery.attention.mark(registered.no);
        self.delivery.watches.leave(registered.no);
        Ok(())
    }

    /// Sends it nothing until it is resumed; its events queue up.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn pause_partner(
        &self,
        id: &PartnerId,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerView, Problem> {
        self.set_paused(id, true, reason, by).await
    }

    /// Lets a paused partner go on, at once.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn resume_partner(
        &self,
        id: &PartnerId,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerView, Problem> {
        self.set_paused(id, false, reason, by).await
    }

    async fn set_paused(
        &self,
        id: &PartnerId,
        paused: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerView, Problem> {
        let changing = self.begin_change().await?;
        let known = self.delivery.registry.snapshot().partner(id)?.clone();
        if known.paused_since.is_some() == paused {
            drop(changing);
            return self.partner_view(&known).await;
        }
        let since = paused.then(|| self.now());
        let audit = self.audit(by, if paused { "partner.pause" } else { "partner.resume" }, id.as_str(), reason);
        self.delivery.store.set_paused(known.no, since, audit).await.map_err(|error| unavailable(&error))?;
        let registered = Arc::new(known.with(since, known.secrets.clone()));
        self.delivery.registry.put(registered.clone());
        self.lanes.tell(Input::Reseat(registered.clone()));
        // Whoever looks next sees it, and not what a survey found before.
        self.survey.forget();
        self.delivery.attention.mark(known.no);
        drop(changing);
        self.partner_view(&registered).await
    }

    /// A new signing secret; the old ones sign too for `overlap`.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn rotate_secret(
        &self,
        id: &PartnerId,
        overlap: Duration,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<String, Problem> {
        let _changing = self.begin_change().await?;
        let known = self.delivery.registry.snapshot().partner(id)?.clone();
        let now = self.now();
        let secret = new_secret()?;
        let text = secret.reveal();
        let end = now.after(overlap);
        let mut secrets = vec![(secret, None)];
        let older = known.secrets.iter().map(|(secret, ends)| (secret.clone(), Some(ends.unwrap_or(end).min(end))));
        secrets.extend(older.filter(|(_, ends)| ends.is_some_and(|ends| ends > now)).take(3));
        let audit = self.audit(by, "partner.rotate_secret", id.as_str(), reason);
        let stored = self.delivery.store.put_secrets(known.no, &write_secrets(&secrets), audit).await;
        stored.map_err(|error| unavailable(&error))?;
        let registered = Arc::new(known.with(known.paused_since, secrets));
        self.delivery.registry.put(registered.clone());
        self.lanes.tell(Input::Reseat(registered));
        Ok(text)
    }

    /// A partner's signing secrets, newest first, and how many deliveries wait for it, counted up to `count_max`.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn secrets_and_backlog(&self, id: &PartnerId, count_max: u64) -> Result<(Vec<SecretView>, u64), Problem> {
        let known = self.delivery.registry.snapshot().partner(id)?.clone();
        let now = self.now();
        let ends = known.secrets.iter().map(|(_, ends_at)| SecretView { ends_at: *ends_at });
        let secrets = ends.filter(|secret| secret.ends_at.is_none_or(|end| end > now)).collect();
        let backlog = self.delivery.store.backlog_count(known.no, count_max).await;
        Ok((secrets, backlog.map_err(|error| unavailable(&error))?))
    }

    /// Sends one marked message, outside of the lane, and says what came back.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn test_partner(&self, id: &PartnerId, by: &Principal) -> Result<PartnerTest, Problem> {
        let registered = self.delivery.registry.snapshot().partner(id)?.clone();
        let no = registered.no;
        if let Some(answer) = self.ask_server(no, || Call::Test { partner: no, by: by.token_id.clone() }).await? {
            return answer.tested();
        }
        let audit = self.audit(by, "partner.test", id.as_str(), None);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))?;
        let event = Arc::new(self.test_event(&registered));
        let cell = Cell::new(event.clone());
        let snapshot = self.delivery.registry.snapshot();
        let began = self.now();
        let made = self.delivery.workshop.body(&cell, &snapshot, &registered, false).await;
        let (version, body) =
            made.map_err(|blocked| Problem::new(Code::ScriptFailed, blocked.reason).with_hint(blocked.mend))?;
        let channel =
            registered.channel_for(true).as_ref().map_err(|reason| Problem::new(Code::Conflict, reason.clone()))?;
        let marking = Marking { round: 0, message_uuid: None, partner_seq: None, attempt: 1 };
        let mut message = self.delivery.workshop.message(&event, &registered, version, &body, marking, began);
        let key = DeliveryKey { seq: event.seq, partner: registered.no, round: 0 };
        self.delivery.link(&mut message, channel, &registered.partner.ack, key);
        let timeout = registered.partner.timeout;
        let deadline = tokio::time::Instant::now() + timeout;
        let ack = registered.partner.ack.of_partner(id);
        let mut awaited = (ack.by == AckBy::Topic).then(|| self.delivery.watches.await_test(&event.content.id));
        let receipt = channel.send(&message, deadline).await;
        let verdict = Verdict::of(&receipt, &registered.partner.ack, &event.content.id, &body.digest);
        let status = status_of(&receipt);
        let (acked, reason) = match verdict {
            Verdict::Acked(_) => (true, "acknowledged".to_owned()),
            Verdict::Received => match &mut awaited {
                None => (false, format!("delivered; {}", ack.awaited())),
                Some(awaited) => answered(awaited.said(deadline).await, &ack, timeout),
            },
            Verdict::Unacknowledged { reason }
            | Verdict::Nack { reason }
            | Verdict::Retry { reason, .. }
            | Verdict::Refused { reason }
            | Verdict::Gone { reason } => (false, reason),
        };
        let took = self.now().since(began);
        Ok(PartnerTest { message_id: message.id, status, acked, took, reason })
    }

    /// In the version that the partner pinned, so that no bridge is needed to see whether it answers.
    fn test_event(&self, registered: &Registered) -> Event {
        let subject = Subject::trusted("HMS-ESS-TEST");
        let version = registered.partner.pinned_version(&subject).unwrap_or(ess_core::id::Version(1));
        let payload = serde_json::value::to_raw_value(&serde_json::json!({"test": "is this address reached?"}));
        let content = Content {
            id: EventId::trusted(&format!("HMS-ESS-TEST-{}", uuid::Uuid::now_v7().simple())),
            version,
            subject,
            // Invariant: a literal serialises.
            payload: Arc::from(payload.expect("a literal serialises")),
            source: None,
            time: None,
            effective: None,
            expires: None,
            priority: Priority::default(),
            references: Vec::new(),
            kind: Kind::default(),
            test: true,
        };
        Event {
            seq: Seq(0),
            recorded_at: self.now(),
            content_digest: Digest([0; 32]),
            message_uuid: uuid::Uuid::now_v7(),
            gone: None,
            trace: Trace::default(),
            content,
        }
    }

    pub(crate) async fn partner_view(&self, registered: &Registered) -> Result<PartnerView, Problem> {
        let backlog = self.delivery.store.backlog_count(registered.no, BACKLOG_COUNTED).await;
        let lane = self.inspect_lane(registered.no).await;
        Ok(self.view_of(registered, backlog.map_err(|error| unavailable(&error))?, lane))
    }

    fn view_of(&self, registered: &Registered, backlog: u64, lane: LaneReport) -> PartnerView {
        PartnerView {
            partner: registered.partner.clone(),
            added_at: registered.added_at,
            paused_since: registered.paused_since,
            offline_since: lane.offline_since,
            backlog,
            in_flight: lane.in_flight,
            last_error: lane.last_error.or_else(|| registered.channel.as_ref().err().cloned()),
            filter: registered.partner.filter.as_ref().map(|_| self.filters.of(registered.no)),
        }
    }

    /// Writes a consistent copy of the store to `file` on the hub's machine; answers its bytes.
    ///
    /// # Errors
    /// The file exists or can't be written.
    pub async fn backup(&self, file: &std::path::Path, by: &Principal) -> Result<u64, Problem> {
        let audit = self.audit(by, "store.backup", file.display().to_string(), None);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))?;
        self.delivery.store.backup(file).await.map_err(|error| {
            tracing::warn!(%error, "a back-up failed");
            Problem::new(Code::Conflict, format!("could not write {}: {error}", file.display()))
                .with_field("file")
                .with_hint("name a new file in a directory that the hub may write")
        })
    }
}

/// A document that was read back has `(sealed)` in the place of a secret: that means "as it was".
fn keep_sealed(partner: &mut Partner, known: &Partner) {
    if partner.to_json(Secrets::Masked)["auth"] == known.to_json(Secrets::Masked)["auth"]
        && partner.to_json(Secrets::Shown)["auth"].to_string().contains("\"(sealed)\"")
    {
        partner.auth.clone_from(&known.auth);
    }
    if let (Some(fallback), Some(known)) = (&mut partner.fallback, &known.fallback) {
        keep_sealed(&mut fallback.partner, &known.partner);
    }
}

fn new_secret() -> Result<SigningSecret, Problem> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|_| Problem::new(Code::Internal, "the system gives no random bytes"))?;
    Ok(SigningSecret::from_random(random))
}

/// Whether a test message was acknowledged apart from its attempt, and in which words.
fn answered(said: Option<Said>, ack: &AckPolicy, timeout: Duration) -> (bool, String) {
    match said {
        Some(Said::Ack) => (true, "acknowledged".to_owned()),
        Some(Said::Nack { reason } | Said::Retry { reason }) => (false, reason),
        None => {
            let span = duration::format(timeout);
            (false, format!("delivered; {}, and none came within {span}", ack.awaited()))
        }
    }
}
