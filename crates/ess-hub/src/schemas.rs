//! JSON Schemas: add, list, remove; checks payloads at publishing, and offers bridges where none is needed.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::event::{Content, Kind};
use ess_core::id::{Seq, Subject, Version};
use ess_core::problem::{Code, Problem};
use ess_core::schema::{Schema, Schemas, Violation};
use ess_core::script::{CODE_ENGINE, ScriptError};
use ess_store::RuleKind;

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::rules::{self, Rules};
use crate::view::{Offer, SchemaChange};

/// Recorded events that are looked through for payloads of a version.
const EVENTS_LOOKED_AT: u64 = 1_000;
const SAMPLES_READ: usize = EVENTS_LOOKED_AT as usize;
/// Payloads that an older schema must accept before an identity bridge is offered.
const SAMPLES_MAX: usize = 100;

impl Hub {
    /// Adds a schema, or puts it in the place of the one for its subject and version.
    ///
    /// # Errors
    /// It is no schema, or another one is there and `replace` is not set.
    pub async fn add_schema(
        &self,
        schema: Schema,
        replace: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<SchemaChange, Problem> {
        self.delivery.workshop.scripts.check_schema(&schema.text).await.map_err(|error| {
            Problem::new(Code::SchemaViolation, format!("this is no JSON Schema: {}", error.message))
                .with_field("schema")
                .with_hint("nothing was changed; see https://json-schema.org/draft/2020-12")
        })?;
        let changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        match snapshot.rules.schemas.find(&schema.id) {
            Some(known) if **known == schema => return Ok(SchemaChange { changed: false, offers: Vec::new() }),
            Some(_) if !replace => return Err(rules::is_there_already("schema", &schema.id)),
            _ => {}
        }
        let audit = self.audit(by, "schema.add", &schema.id, reason);
        let document = rules::write_schema(&schema);
        let stored = self.delivery.store.put_rule(RuleKind::Schema, schema.id.clone(), document, audit);
        stored.await.map_err(|error| unavailable(&error))?;
        let schema = Arc::new(schema);
        let others = snapshot.rules.schemas.iter().filter(|known| known.id != schema.id).cloned();
        self.swap_schemas(others.chain([schema.clone()]).collect());
        drop(changing);
        Ok(SchemaChange { changed: true, offers: self.offers(&schema).await })
    }

    /// All schemas, the most specific subjects first.
    #[must_use]
    pub fn schemas(&self) -> Vec<Arc<Schema>> {
        self.delivery.registry.snapshot().rules.schemas.iter().cloned().collect()
    }

    /// Removes a schema.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn remove_schema(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        let _changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        if snapshot.rules.schemas.find(id).is_none() {
            return Err(rules::is_not_there("schema", id));
        }
        let audit = self.audit(by, "schema.remove", id, reason);
        let removed = self.delivery.store.remove_rule(RuleKind::Schema, id.to_owned(), audit);
        removed.await.map_err(|error| unavailable(&error))?;
        self.swap_schemas(snapshot.rules.schemas.iter().filter(|known| known.id != id).cloned().collect());
        Ok(())
    }

    fn swap_schemas(&self, schemas: Vec<Arc<Schema>>) {
        let snapshot = self.delivery.registry.snapshot();
        self.swap_rules(Rules { schemas: Schemas::new(schemas), ..(*snapshot.rules).clone() });
    }

    /// Refuses a payload that its schema forbids. What is recorded already is not judged again: its publisher asks for the receipt.
    pub(crate) async fn check_payload(&self, snapshot: &Snapshot, content: &Content) -> Result<(), Problem> {
        let Some(schema) = snapshot.rules.schemas.of(&content.subject, content.version) else { return Ok(()) };
        if content.kind == Kind::Retraction {
            return Ok(());
        }
        let payload = Arc::from(content.payload.get());
        let problem = match self.delivery.workshop.scripts.validate(&schema.text, payload).await {
            Ok(violations) if violations.is_empty() => return Ok(()),
            Ok(violations) => refusal(schema, &violations),
            Err(error) => failure(schema, &error),
        };
        let known = self.delivery.store.event_by_id(content.id.as_str(), content.test).await;
        match known.map_err(|error| unavailable(&error))? {
            Some(_) => Ok(()),
            None => Err(problem),
        }
    }

    /// Versions between which payloads need no script: those that the schema of the other version accepts as they are.
    async fn offers(&self, added: &Schema) -> Vec<Offer> {
        let snapshot = self.delivery.registry.snapshot();
        let others = snapshot.rules.schemas.iter().filter(|other| other.subject == added.subject);
        let mut offers = Vec::new();
        for other in others.filter(|other| other.version != added.version) {
            let (newer, older) = if other.version > added.version { (&**other, added) } else { (added, &**other) };
            let subject = Subject::trusted(&newer.subject.as_str().replace('*', "X"));
            if snapshot.rules.bridges.path(&subject, newer.version, older.version).is_ok() {
                continue;
            }
            if self.accepts_all(older, &self.samples(newer).await).await {
                offers.push(Offer {
                    subject: newer.subject.as_str().to_owned(),
                    from: newer.version,
                    to: older.version,
                    command: identity_command(newer.subject.as_str(), newer.version, older.version),
                });
            }
        }
        offers
    }

    async fn accepts_all(&self, schema: &Schema, samples: &[Arc<str>]) -> bool {
        for sample in samples {
            let verdict = self.delivery.workshop.scripts.validate(&schema.text, sample.clone()).await;
            if !verdict.is_ok_and(|violations| violations.is_empty()) {
                return false;
            }
        }
        !samples.is_empty()
    }

    /// Payloads of a schema's version: its own examples, and what was published of late.
    async fn samples(&self, schema: &Schema) -> Vec<Arc<str>> {
        let document: serde_json::Value = serde_json::from_str(&schema.text).unwrap_or_default();
        let examples = document["examples"].as_array().into_iter().flatten();
        let mut samples: Vec<Arc<str>> = examples.map(|example| Arc::from(example.to_string())).collect();
        let store = &self.delivery.store;
        if let Ok(head) = store.head().await
            && let Ok(events) = store.events(None, Seq(head.0.saturating_sub(EVENTS_LOOKED_AT)), SAMPLES_READ).await
        {
            let fitting = events.iter().map(|recorded| &recorded.event.content).filter(|content| {
                content.version == schema.version && schema.subject.matches(content.subject.as_str())
            });
            samples.extend(fitting.map(|content| Arc::from(content.payload.get())));
        }
        samples.truncate(SAMPLES_MAX);
        samples
    }
}

/// The command that adds a bridge for payloads that fit as they are.
pub(crate) fn identity_command(subject: &str, from: Version, to: Version) -> String {
    format!("hms-ess bridge add --identity --subject '{subject}' --from {from} --to {to}")
}

/// What is wrong, in one line.
pub(crate) fn told(violations: &[Violation]) -> String {
    let told = violations.iter().map(|Violation { path, message }| match path.as_str() {
        "" => message.clone(),
        path => format!("{path}: {message}"),
    });
    told.collect::<Vec<_>>().join("; ")
}

fn refusal(schema: &Schema, violations: &[Violation]) -> Problem {
    let path = violations.first().map_or("", |violation| violation.path.as_str());
    let field = if path.is_empty() { "payload".to_owned() } else { format!("payload.{path}") };
    Problem::new(Code::SchemaViolation, format!("the payload does not fit schema {}: {}", schema.id, told(violations)))
        .with_field(field)
        .with_hint("nothing was recorded; mend the payload, or publish it under its own version")
}

fn failure(schema: &Schema, error: &ScriptError) -> Problem {
    if error.code == CODE_ENGINE {
        return Problem::new(Code::Unavailable, "the payload can't be checked by its schema now");
    }
    Problem::new(Code::SchemaViolation, format!("the payload can't be checked by schema {}: {error}", schema.id))
        .with_field("payload")
        .with_hint(
            "nothing was recorded; the schema is at fault: an operator mends it with `hms-ess schema add --replace`",
        )
}
