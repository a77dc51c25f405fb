//! Bridges: add, list, remove, try. A bridge whose examples fail is refused.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::bridge::{Bridge, Bridges, Example, FromVersion, Rule};
use ess_core::event::{Content, Event, Kind, Priority, Trace};
use ess_core::id::{Digest, EventId, Seq, Subject, Version};
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::script::{ScriptError, Unresolved};
use ess_store::RuleKind;
use serde::{Deserialize, Serialize};

use crate::cells::Cell;
use crate::hub::Hub;
use crate::prepare::event_binding;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::rules::{self, Rules};
use crate::schemas::told;
use crate::scripts::Evaluation;
use crate::view::{BridgeChange, BridgeTests, ExampleResult, Tried, TriedPath};

/// Differing paths that are told at once.
const RIVALS_TOLD_MAX: usize = 10;

/// A bridge as it is stored.
#[derive(Serialize, Deserialize)]
struct Document {
    subject: String,
    from: String,
    to: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    script: Option<String>,
    examples: Vec<(String, String)>,
}

/// Reads a stored bridge.
///
/// # Errors
/// It is not one.
pub(crate) fn read(document: &str) -> Result<Bridge, String> {
    let document: Document = serde_json::from_str(document).map_err(|error| error.to_string())?;
    let subject = Glob::parse(&document.subject)?;
    let from = FromVersion::parse(&document.from).map_err(|error| error.to_string())?;
    let to = Version(document.to);
    let rule = match document.script {
        None => Rule::Identity,
        Some(text) => Rule::Script { digest: Digest::of(text.as_bytes()), text },
    };
    let examples = document.examples.into_iter().map(|(input, output)| Example { input, output }).collect();
    Ok(Bridge { id: Bridge::id_of(&subject, from, to), subject, from, to, rule, examples })
}

fn write(bridge: &Bridge) -> String {
    let document = Document {
        subject: bridge.subject.as_str().to_owned(),
        from: bridge.from.to_string(),
        to: bridge.to.0,
        script: match &bridge.rule {
            Rule::Identity => None,
            Rule::Script { text, .. } => Some(text.clone()),
        },
        examples: bridge.examples.iter().map(|example| (example.input.clone(), example.output.clone())).collect(),
    };
    // Invariant: strings and numbers always serialise.
    serde_json::to_string(&document).expect("a bridge serialises")
}

impl Hub {
    /// Adds a bridge after running its examples, and lets go what it mends.
    ///
    /// # Errors
    /// The script does not parse, an example fails, or another bridge stands in its place and `replace` is not set.
    pub async fn add_bridge(
        &self,
        bridge: Bridge,
        replace: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<BridgeChange, Problem> {
        self.check_bridge(&bridge).await?;
        let changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        match snapshot.rules.bridges.find(&bridge.id) {
            Some(known) if **known == bridge => return Ok(BridgeChange { changed: false, rivals: Vec::new() }),
            Some(_) if !replace => return Err(rules::is_there_already("bridge", &bridge.id)),
            _ => {}
        }
        let audit = self.audit(by, "bridge.add", &bridge.id, reason);
        let stored = self.delivery.store.put_rule(RuleKind::Bridge, bridge.id.clone(), write(&bridge), audit).await;
        stored.map_err(|error| unavailable(&error))?;
        let others = snapshot.rules.bridges.iter().filter(|known| known.id != bridge.id).cloned();
        self.swap_bridges(others.chain([Arc::new(bridge.clone())]).collect());
        drop(changing);
        Ok(BridgeChange { changed: true, rivals: self.rivals(Some(&bridge.id)).await })
    }

    /// All bridges, by id.
    #[must_use]
    pub fn bridges(&self) -> Vec<Bridge> {
        let snapshot = self.delivery.registry.snapshot();
        let mut bridges: Vec<Bridge> = snapshot.rules.bridges.iter().map(|bridge| (**bridge).clone()).collect();
        bridges.sort_by(|a, b| a.id.cmp(&b.id));
        bridges
    }

    /// Removes a bridge.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn remove_bridge(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        let _changing = self.begin_change().await?;
        let snapshot = self.delivery.registry.snapshot();
        if snapshot.rules.bridges.find(id).is_none() {
            return Err(rules::is_not_there("bridge", id));
        }
        let audit = self.audit(by, "bridge.remove", id, reason);
        let removed = self.delivery.store.remove_rule(RuleKind::Bridge, id.to_owned(), audit);
        removed.await.map_err(|error| unavailable(&error))?;
        self.swap_bridges(snapshot.rules.bridges.iter().filter(|known| known.id != id).cloned().collect());
        Ok(())
    }

    /// Converts a payload as the bridges, or this one script, would; nothing is recorded. With `strict`, the paths of the
    /// scripts that give nothing are named.
    ///
    /// # Errors
    /// There is no way between the versions, or a script fails.
    pub async fn try_bridge(&self, trial: Trial<'_>) -> Result<Tried, Problem> {
        let Trial { subject, from, to, script, payload, strict } = trial;
        let event = Arc::new(self.example_event(subject, from, payload)?);
        let mut unresolved = Vec::new();
        if let Some(script) = script {
            let output = self.run(script, &event, payload).await?;
            if strict {
                unresolved = self.unresolved(None, script, &event, payload).await?;
            }
            return Ok(Tried { output, unresolved });
        }
        let cell = Cell::new(event.clone());
        let snapshot: Arc<Snapshot> = self.delivery.registry.snapshot();
        let converted = self.delivery.workshop.payload(&cell, &snapshot, to).await;
        let converted =
            converted.map_err(|blocked| Problem::new(Code::ScriptFailed, blocked.reason).with_hint(blocked.mend))?;
        if strict {
            let mut at = payload.to_owned();
            for bridge in snapshot.rules.bridges.path(subject, from, to).unwrap_or_default() {
                let Rule::Script { text, .. } = &bridge.rule else { continue };
                unresolved.extend(self.unresolved(Some(&bridge.id), text, &event, &at).await?);
                at = self.run(text, &event, &at).await?;
            }
        }
        Ok(Tried { output: converted.payload.to_string(), unresolved })
    }

    async fn unresolved(
        &self,
        bridge: Option<&str>,
        script: &str,
        event: &Event,
        payload: &str,
    ) -> Result<Vec<TriedPath>, Problem> {
        let found = self.delivery.workshop.scripts.unresolved(evaluation(script, event, payload)).await;
        let found = found.map_err(|error| script_problem(&error, script))?;
        let told = found.into_iter().map(|Unresolved { path, position, times, of }| {
            let place = ScriptError { position, ..ScriptError::new("", "") }.place(script);
            let place = place.map(|place| (place.line, place.column));
            TriedPath { bridge: bridge.map(str::to_owned), path, place, times, of }
        });
        Ok(told.collect())
    }

    /// Runs every bridge's examples, and compares shortest paths.
    pub async fn test_bridges(&self) -> BridgeTests {
        let snapshot = self.delivery.registry.snapshot();
        let mut results = Vec::new();
        for bridge in self.bridges() {
            for (number, example) in (1..).zip(&bridge.examples) {
                let failure = self.check_example(&snapshot.rules, &bridge, example).await.err();
                results.push(ExampleResult { bridge: bridge.id.clone(), example: number, failure });
            }
        }
        BridgeTests { results, rivals: self.rivals(None).await }
    }

    /// Shortest paths that give different payloads for an example: those over one bridge, or all.
    async fn rivals(&self, about: Option<&str>) -> Vec<String> {
        let rules = self.delivery.registry.snapshot().rules.clone();
        let mut told = Vec::new();
        for bridge in rules.bridges.iter() {
            let (subject, from) = stand_in(bridge);
            let mut ends: Vec<Version> = rules.bridges.iter().map(|other| other.to).collect();
            ends.sort_unstable();
            ends.dedup();
            for to in ends {
                let Ok(path) = rules.bridges.path(&subject, from, to) else { continue };
                let rivals = rules.bridges.rival_paths(&subject, from, to);
                let concerns = |path: &[Arc<Bridge>]| about.is_none_or(|id| path.iter().any(|step| step.id == id));
                for rival in rivals.iter().filter(|rival| concerns(&path) || concerns(rival)) {
                    for (number, example) in (1..).zip(&bridge.examples) {
                        let outputs = [
                            self.walk(&path, &subject, from, &example.input).await,
                            self.walk(rival, &subject, from, &example.input).await,
                        ];
                        if told.len() < RIVALS_TOLD_MAX && outputs[0] != outputs[1] {
                            let [taken, other] = outputs;
                            told.push(format!(
                                "from {from} to {to} of {}, example {number} of {}: {} is taken and gives {taken}; {} gives {other}",
                                bridge.subject.as_str(), bridge.id, named(&path), named(rival),
                            ));
                        }
                    }
                }
            }
        }
        told
    }

    /// What a chain of bridges gives, in canonical form, or its error.
    async fn walk(&self, path: &[Arc<Bridge>], subject: &Subject, from: Version, input: &str) -> String {
        let mut payload = input.to_owned();
        for bridge in path {
            let Rule::Script { text, .. } = &bridge.rule else { continue };
            let event = self.example_event(subject, from, &payload);
            let output = match event {
                Ok(event) => self.run(text, &event, &payload).await,
                Err(problem) => Err(problem),
            };
            match output {
                Ok(output) => payload = output,
                Err(problem) => return format!("an error ({})", problem.detail),
            }
        }
        canonical(&payload)
    }

    async fn check_bridge(&self, bridge: &Bridge) -> Result<(), Problem> {
        let Rule::Script { text, .. } = &bridge.rule else { return Ok(()) };
        let scripts = &self.delivery.workshop.scripts;
        scripts.check(text).await.map_err(|error| script_problem(&error, text))?;
        let snapshot = self.delivery.registry.snapshot();
        for (number, example) in (1..).zip(&bridge.examples) {
            if let Err(why) = self.check_example(&snapshot.rules, bridge, example).await {
                return Err(Problem::new(Code::ScriptFailed, format!("example {number} fails: {why}"))
                    .with_field(format!("examples.{number}"))
                    .with_hint("nothing was changed; mend the script or the example"));
            }
        }
        Ok(())
    }

    /// Runs an example; why it fails, if it does.
    async fn check_example(&self, rules: &Rules, bridge: &Bridge, example: &Example) -> Result<(), String> {
        let (subject, from) = stand_in(bridge);
        let output = match &bridge.rule {
            Rule::Identity => example.input.clone(),
            Rule::Script { text, .. } => {
                let event = self.example_event(&subject, from, &example.input).map_err(|problem| problem.detail)?;
                self.run(text, &event, &example.input).await.map_err(|problem| problem.detail)?
            }
        };
        let (found, wanted) = (canonical(&output), canonical(&example.output));
        if found != wanted {
            return Err(format!("it gave {found}, wanted was {wanted}"));
        }
        let Some(schema) = rules.schemas.of(&subject, bridge.to) else { return Ok(()) };
        match self.delivery.workshop.scripts.validate(&schema.text, Arc::from(output)).await {
            Ok(violations) if violations.is_empty() => Ok(()),
            Ok(violations) => Err(format!("its output does not fit schema {}: {}", schema.id, told(&violations))),
            Err(error) => Err(format!("its output can't be checked by schema {}: {error}", schema.id)),
        }
    }

    async fn run(&self, script: &str, event: &Event, payload: &str) -> Result<String, Problem> {
        let output = self.delivery.workshop.scripts.evaluate(evaluation(script, event, payload)).await;
        let output = output.map_err(|error| script_problem(&error, script))?;
        output.ok_or_else(|| Problem::new(Code::ScriptFailed, "the script gave no result (undefined)"))
    }

    fn example_event(&self, subject: &Subject, version: Version, payload: &str) -> Result<Event, Problem> {
        let raw = serde_json::value::RawValue::from_string(payload.to_owned())
            .map_err(|error| Problem::new(Code::Invalid, format!("not JSON: {error}")).with_field("payload"))?;
        ess_core::json::check_nesting(payload)?;
        let content = Content {
            id: EventId::trusted("EXAMPLE"),
            version,
            subject: subject.clone(),
            payload: Arc::from(raw),
            source: None,
            time: None,
            effective: None,
            expires: None,
            priority: Priority::default(),
            references: Vec::new(),
            kind: Kind::default(),
            test: true,
        };
        Ok(Event {
            seq: Seq(0),
            recorded_at: self.now(),
            content_digest: Digest([0; 32]),
            message_uuid: uuid::Uuid::nil(),
            gone: None,
            trace: Trace::default(),
            content,
        })
    }

    fn swap_bridges(&self, bridges: Vec<Arc<Bridge>>) {
        let snapshot = self.delivery.registry.snapshot();
        self.swap_rules(Rules { bridges: Bridges::new(bridges), ..(*snapshot.rules).clone() });
    }
}

/// A conversion to try.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// Of which subject.
    pub subject: &'a Subject,
    /// The payload's version.
    pub from: Version,
    /// The wanted one.
    pub to: Version,
    /// Instead of the bridges that are there.
    pub script: Option<&'a str>,
    /// The payload, JSON.
    pub payload: &'a str,
    /// Whether paths that give nothing are named.
    pub strict: bool,
}

/// A subject and a version that a bridge takes: any will do for its examples.
fn stand_in(bridge: &Bridge) -> (Subject, Version) {
    let from = match bridge.from {
        FromVersion::Exactly(version) | FromVersion::AtLeast(version) => version,
    };
    (Subject::trusted(&bridge.subject.as_str().replace('*', "X")), from)
}

fn evaluation(script: &str, event: &Event, payload: &str) -> Evaluation {
    Evaluation {
        script: Arc::from(script),
        input: Some(Arc::from(payload)),
        bindings: Arc::from([("event".to_owned(), event_binding(event))]),
        now: Some(event.recorded_at),
    }
}

fn canonical(text: &str) -> String {
    let mut canonical = String::new();
    ess_core::json::write_canonical(text, &mut canonical);
    canonical
}

fn named(path: &[Arc<Bridge>]) -> String {
    path.iter().map(|bridge| bridge.id.as_str()).collect::<Vec<_>>().join(", ")
}

fn script_problem(error: &ess_core::script::ScriptError, script: &str) -> Problem {
    let problem = Problem::new(Code::ScriptFailed, error.shown(script)).with_field("script");
    match error.place(script) {
        Some(place) => problem.with_position(place.line, place.column),
        None => problem,
    }
}
