//! From an event to the bytes for one partner: bridge, adapter, format, signature. Publishing, `--plan` and deliveries all come here.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ess_core::bridge::{Bridge, NoPath, Rule};
use ess_core::envelope::{self, Marks};
use ess_core::event::Event;
use ess_core::format::{self, Context};
use ess_core::id::{Digest, Subject, Version};
use ess_core::message::{Message, message_id};
use ess_core::signature::{Ed25519Key, sign_v1, sign_v1a};
use ess_core::time::Time;

use crate::cells::{Blocked, Body, Cell, Converted, Shape};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::registry::{Registered, Snapshot};
use crate::rules::Rules;
use crate::schemas::{identity_command, told};
use crate::scripts::{Evaluation, Scripts};
use crate::traces::Tracer;

/// What making messages needs.
#[derive(Clone)]
pub struct Workshop {
    /// Where scripts run.
    pub scripts: Scripts,
    /// The hub's own signing key.
    pub key: Arc<Ed25519Key>,
    /// Counts conversions.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// Takes spans.
    pub tracer: Tracer,
}

/// What a message carries beside its body.
#[derive(Debug, Clone, Copy)]
pub struct Marking {
    /// 1 and on for replays.
    pub round: u32,
    /// A replay's own.
    pub message_uuid: Option<uuid::Uuid>,
    /// The partner's counter.
    pub partner_seq: Option<u64>,
    /// From 1.
    pub attempt: u32,
}

impl Workshop {
    /// The payload in `version`, converted once per event and version.
    pub async fn payload(&self, cell: &Cell, snapshot: &Snapshot, version: Version) -> Result<Converted, Blocked> {
        let event = &cell.event;
        if let Some(gone) = &event.gone {
            // Nobody should come here with it; nothing may be made of it all the same.
            let mend = format!("hms-ess status {}", event.content.id);
            return Err(Blocked { reason: format!("the payload is gone: {}", gone.told()), mend });
        }
        if version == event.content.version {
            let payload = Arc::from(event.content.payload.get());
            return Ok(Converted { payload, scripts: [].into() });
        }
        let once = cell.payload(version, snapshot.rules.generation);
        once.get_or_init(|| self.convert(event, snapshot, version)).await.clone()
    }

    async fn convert(&self, event: &Event, snapshot: &Snapshot, version: Version) -> Result<Converted, Blocked> {
        let began = self.clock.now();
        let made = self.cross_all(event, snapshot, version).await;
        let ended = self.clock.now();
        self.tracer.converted(event, version, (began, ended), &made);
        tell_conversion(event, version, ended.since(began), &made);
        made
    }

    async fn cross_all(&self, event: &Event, snapshot: &Snapshot, version: Version) -> Result<Converted, Blocked> {
        let (content, rules) = (&event.content, &snapshot.rules);
        let path = match rules.bridges.path(&content.subject, content.version, version) {
            Ok(path) => path,
            Err(none) => return Err(self.no_path(event, rules, version, none).await),
        };
        let mut payload: Arc<str> = Arc::from(content.payload.get());
        let mut scripts = Vec::new();
        for bridge in path {
            if let Rule::Script { text, digest } = &bridge.rule {
                payload = self.cross(event, &bridge, text, payload).await?;
                scripts.push(*digest);
                scripts.extend(rules.looked_up(text));
            }
            self.judge(event, rules, &bridge, &payload).await?;
        }
        Ok(Converted { payload, scripts: scripts.into() })
    }

    /// One step of a conversion.
    async fn cross(
        &self,
        event: &Event,
        bridge: &Bridge,
        script: &str,
        payload: Arc<str>,
    ) -> Result<Arc<str>, Blocked> {
        self.metrics.conversions.inc();
        let evaluation = Evaluation {
            script: Arc::from(script),
            input: Some(payload),
            bindings: Arc::from([("event".to_owned(), event_binding(event))]),
            now: Some(event.recorded_at),
        };
        let blocked = |reason: String| Blocked { reason, mend: mend_bridge(&event.content.subject, &bridge.id) };
        let output = self.scripts.evaluate(evaluation).await;
        let output = output.map_err(|error| blocked(format!("bridge {}: {}", bridge.id, error.told(script))))?;
        output.map(Arc::from).ok_or_else(|| blocked(format!("bridge {} gave no result (undefined)", bridge.id)))
    }

    /// Holds back what a bridge gave when the schema of its version forbids it.
    async fn judge(&self, event: &Event, rules: &Rules, bridge: &Bridge, payload: &Arc<str>) -> Result<(), Blocked> {
        let subject = &event.content.subject;
        let Some(schema) = rules.schemas.of(subject, bridge.to) else { return Ok(()) };
        let reason = match self.scripts.validate(&schema.text, payload.clone()).await {
            Ok(violations) if violations.is_empty() => return Ok(()),
            Ok(violations) => {
                format!("bridge {}: its output does not fit schema {}: {}", bridge.id, schema.id, told(&violations))
            }
            Err(error) => format!("bridge {}: its output can't be checked by schema {}: {error}", bridge.id, schema.id),
        };
        Err(Blocked { reason, mend: mend_bridge(subject, &bridge.id) })
    }

    /// Where no bridge leads, one without a script is offered if the payload fits the schema of the other version as it is.
    async fn no_path(&self, event: &Event, rules: &Rules, version: Version, none: NoPath) -> Blocked {
        let content = &event.content;
        let schemas = [content.version, version].map(|version| rules.schemas.of(&content.subject, version));
        if let [Some(_), Some(schema)] = schemas {
            let verdict = self.scripts.validate(&schema.text, Arc::from(content.payload.get())).await;
            if verdict.is_ok_and(|violations| violations.is_empty()) {
                let reason = format!("{}; the payload fits schema {} as it is", none.reason, schema.id);
                let subject = content.subject.as_str();
                return Blocked { reason, mend: identity_command(subject, content.version, version) };
            }
        }
        Blocked { reason: none.reason, mend: none.mend }
    }

    /// The body for a partner, made once per shape.
    pub async fn body(
        &self,
        cell: &Cell,
        snapshot: &Snapshot,
        registered: &Registered,
        replay: bool,
    ) -> Result<(Version, Arc<Body>), Blocked> {
        let content = &cell.event.content;
        let version = registered.version_of(&content.subject, content.version);
        let shape = Shape {
            version,
            generation: snapshot.rules.generation,
            adapter: registered.adapter,
            format: registered.partner.format,
            partner: registered.is_own_shape.then_some(registered.no),
            replay,
        };
        let once = cell.body(&shape);
        if let Some(made) = once.get() {
            return Ok((version, made.clone()?));
        }
        // In a place of its own: making is rare and its future large, and each attempt under way would hold the room for it.
        let made = Box::pin(once.get_or_init(|| self.make_body(cell, snapshot, registered, version, replay))).await;
        Ok((version, made.clone()?))
    }

    async fn make_body(
        &self,
        cell: &Cell,
        snapshot: &Snapshot,
        registered: &Registered,
        version: Version,
        replay: bool,
    ) -> Result<Arc<Body>, Blocked> {
        let event = &cell.event;
        let converted = self.payload(cell, snapshot, version).await?;
        let envelope = envelope::envelope(event, version, &converted.payload, Marks { replay });
        let mut scripts = converted.scripts.to_vec();
        let value = match &registered.partner.adapter {
            None => envelope,
            Some(adapter) => {
                scripts.extend(registered.adapter);
                scripts.extend(snapshot.rules.looked_up(adapter));
                self.adapt(event, registered, adapter, envelope).await?
            }
        };
        let context =
            Context { event, version, payload: &converted.payload, has_adapter: registered.adapter.is_some() };
        let written = format::write(registered.partner.format, value, &context).map_err(|error| Blocked {
            reason: format!("format {}: {error}", registered.partner.format.word()),
            mend: mend_adapter(registered),
        })?;
        let bytes = bytes::Bytes::from(written.body);
        Ok(Arc::new(Body {
            digest: Digest::of(&bytes),
            bytes,
            content_type: written.content_type,
            extension: written.extension,
            headers: written.headers,
            scripts: scripts.into(),
            signature: std::sync::Mutex::default(),
        }))
    }

    async fn adapt(
        &self,
        event: &Event,
        registered: &Registered,
        adapter: &str,
        envelope: String,
    ) -> Result<String, Blocked> {
        let bindings =
            [("event".to_owned(), event_binding(event)), ("partner".to_owned(), partner_binding(registered))];
        let evaluation = Evaluation {
            script: Arc::from(adapter),
            input: Some(Arc::from(envelope)),
            bindings: Arc::from(bindings),
            now: Some(event.recorded_at),
        };
        let output = self.scripts.evaluate(evaluation).await.map_err(|error| Blocked {
            reason: format!("adapter: {}", error.told(adapter)),
            mend: mend_adapter(registered),
        })?;
        output.ok_or_else(|| Blocked {
            reason: "adapter gave no result (undefined)".to_owned(),
            mend: mend_adapter(registered),
        })
    }

    /// The message for one attempt: headers and signatures around the body.
    #[must_use]
    pub fn message(
        &self,
        event: &Event,
        registered: &Registered,
        version: Version,
        body: &Body,
        marking: Marking,
        now: Time,
    ) -> Message {
        let content = &event.content;
        let id = message_id(marking.message_uuid.unwrap_or(event.message_uuid), content.test);
        let timestamp = now.as_micros() / 1_000_000;
        let mut headers = Vec::with_capacity(12 + body.headers.len() + registered.partner.headers.len());
        let mut put = |name: &str, value: String| headers.push((name.to_owned(), value));
        put("webhook-id", id.clone());
        put("webhook-timestamp", timestamp.to_string());
        put("webhook-signature", self.signatures(registered, &id, timestamp, body, now));
        put("x-hms-event-id", content.id.to_string());
        put("x-hms-sequence", event.seq.to_string());
        put("x-hms-attempt", marking.attempt.to_string());
        if let Some(partner_seq) = marking.partner_seq {
            put("x-hms-partner-seq", partner_seq.to_string());
        }
        if content.test {
            put("x-hms-test", "true".to_owned());
        }
        if marking.round > 0 {
            put("x-hms-replay", "true".to_owned());
        }
        let trace = &event.trace;
        for (name, value) in [
            ("traceparent", &trace.traceparent),
            ("x-hms-trace-id", &trace.trace_id),
            ("x-hms-docket-id", &trace.docket_id),
        ] {
            if let Some(value) = value {
                put(name, value.clone());
            }
        }
        headers.extend(body.headers.iter().cloned());
        headers.extend(registered.partner.headers.iter().cloned());
        Message {
            id,
            event_id: content.id.clone(),
            subject: content.subject.clone(),
            version,
            extension: body.extension,
            content_type: body.content_type.clone(),
            headers,
            body: body.bytes.clone(),
            body_digest: body.digest,
            test: content.test,
            replay: marking.round > 0,
            partner_seq: marking.partner_seq,
            attempt: marking.attempt,
        }
    }

    pub(crate) fn signatures(
        &self,
        registered: &Registered,
        id: &str,
        timestamp: i64,
        body: &Body,
        now: Time,
    ) -> String {
        let mut signatures = String::with_capacity(192);
        for (secret, ends) in &registered.secrets {
            if ends.is_none_or(|ends| ends > now) {
                signatures.push_str(&sign_v1(secret, id, timestamp, &body.bytes));
                signatures.push(' ');
            }
        }
        let mut shared = body.signature.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some((known_id, second, signature)) if known_id == id && *second == timestamp => {
                signatures.push_str(signature);
            }
            _ => {
                let signature = sign_v1a(&self.key, id, timestamp, &body.bytes);
                signatures.push_str(&signature);
                *shared = Some((id.to_owned(), timestamp, Arc::from(signature)));
            }
        }
        signatures
    }
}

/// `$event` in scripts: the event without its payload.
#[must_use]
pub fn event_binding(event: &Event) -> String {
    let content = &event.content;
    serde_json::json!({
        "id": content.id.as_str(),
        "version": content.version.0,
        "subject": content.subject.as_str(),
        "sequence": event.seq.0,
        "recorded_at": event.recorded_at.to_string(),
        "time": content.time.clone().unwrap_or_else(|| event.recorded_at.to_string()),
        "kind": content.kind.word(),
        "priority": content.priority.word(),
        "source": content.source,
        "effective": content.effective,
        "expires": content.expires,
        "references": content.references.iter().map(ess_core::id::EventId::as_str).collect::<Vec<_>>(),
        "test": content.test,
    })
    .to_string()
}

/// `$partner` in adapters.
#[must_use]
pub fn partner_binding(registered: &Registered) -> String {
    let partner = &registered.partner;
    serde_json::json!({
        "id": partner.id.as_str(),
        "zone": partner.zone,
        "format": partner.format.word(),
    })
    .to_string()
}

/// The one line of a conversion. A plan is no conversion of anything that was recorded.
fn tell_conversion(event: &Event, to: Version, took: Duration, made: &Result<Converted, Blocked>) {
    let (content, seq) = (&event.content, event.seq.0);
    if event.message_uuid.is_nil() {
        return;
    }
    tracing::info!(
        event.id = %content.id,
        event.seq = seq,
        bridge.from = content.version.0,
        bridge.to = to.0,
        duration_ms = took.as_secs_f64() * 1e3,
        trace.id = event.trace.trace_id,
        traceparent = event.trace.traceparent,
        docket.id = event.trace.docket_id,
        reason = made.as_ref().err().map(|blocked| blocked.reason.as_str()),
        "converted {} from version {} to {to}: {}",
        content.id,
        content.version,
        if made.is_ok() { "done" } else { "blocked" }
    );
}

fn mend_bridge(subject: &Subject, bridge_id: &str) -> String {
    let name = bridge_id.rsplit('/').next().unwrap_or(bridge_id);
    let (from, to) = name.split_once("-to-").unwrap_or((name, ""));
    let from = from.strip_suffix('+').map_or_else(|| from.to_owned(), |least| format!("'>={least}'"));
    let glob = bridge_id.rsplit_once('/').map_or(subject.as_str(), |(glob, _)| glob);
    format!("hms-ess bridge add bridges/{subject}/{name}.jsonata --subject '{glob}' --from {from} --to {to} --replace")
}

fn mend_adapter(registered: &Registered) -> String {
    format!("hms-ess partner add partners/{}.yaml --replace", registered.partner.id)
}
