//! Bridges: add, list, remove, try. A bridge whose examples fail is refused.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::bridge::{Bridge, Example, FromVersion, Rule};
use ess_core::event::{Content, Event, Kind, Priority, Trace};
use ess_core::id::{Digest, EventId, Seq, Subject, Version};
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use serde::{Deserialize, Serialize};

use crate::cells::Cell;
use crate::hub::Hub;
use crate::lanes::Input;
use crate::prepare::event_binding;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::scripts::Evaluation;

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
pub fn read(document: &str) -> Result<Bridge, String> {
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
    /// Adds a bridge after running its examples, and lets go what it mends. False when it was the same already.
    ///
    /// # Errors
    /// The script does not parse, an example fails, or another bridge stands in its place and `replace` is not set.
    pub async fn add_bridge(&self, bridge: Bridge, replace: bool, by: &Principal) -> Result<bool, Problem> {
        self.check_bridge(&bridge).await?;
        let _changing = self.delivery.registry.changing.lock().await;
        let snapshot = self.delivery.registry.snapshot();
        if let Some(known) = snapshot.bridges.find(&bridge.id) {
            if **known == bridge {
                return Ok(false);
            }
            if !replace {
                let detail = format!("bridge {} is there already with another script or other examples", bridge.id);
                return Err(Problem::new(Code::Conflict, detail).with_hint("add it with --replace (?replace=true)"));
            }
        }
        let audit = self.audit(by, "bridge.add", &bridge.id, None);
        let stored = self.delivery.store.put_bridge(bridge.id.clone(), write(&bridge), audit).await;
        stored.map_err(|error| unavailable(&error))?;
        let mut all: Vec<Arc<Bridge>> =
            snapshot.bridges.iter().filter(|known| known.id != bridge.id).cloned().collect();
        all.push(Arc::new(bridge));
        self.swap_bridges(all);
        Ok(true)
    }

    /// All bridges, by id.
    ///
    /// # Errors
    /// None today; the answer may come from a store one day.
    #[allow(clippy::unused_async)]
    pub async fn bridges(&self) -> Result<Vec<Bridge>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let mut bridges: Vec<Bridge> = snapshot.bridges.iter().map(|bridge| (**bridge).clone()).collect();
        bridges.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(bridges)
    }

    /// Removes a bridge.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn remove_bridge(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        let _changing = self.delivery.registry.changing.lock().await;
        let snapshot = self.delivery.registry.snapshot();
        if snapshot.bridges.find(id).is_none() {
            let problem = Problem::new(Code::NotFound, format!("there is no bridge {id}"));
            return Err(problem.with_hint("`hms-ess bridge list` shows the bridges"));
        }
        let audit = self.audit(by, "bridge.remove", id, reason);
        self.delivery.store.remove_bridge(id.to_owned(), audit).await.map_err(|error| unavailable(&error))?;
        self.swap_bridges(snapshot.bridges.iter().filter(|known| known.id != id).cloned().collect());
        Ok(())
    }

    /// Converts a payload as the bridges, or this one script, would; nothing is recorded.
    ///
    /// # Errors
    /// There is no way between the versions, or a script fails.
    pub async fn try_bridge(
        &self,
        subject: &Subject,
        from: Version,
        to: Version,
        script: Option<&str>,
        payload: &str,
    ) -> Result<String, Problem> {
        let event = Arc::new(self.example_event(subject, from, payload)?);
        if let Some(script) = script {
            return self.run(script, &event).await;
        }
        let cell = Cell::new(event);
        let snapshot: Arc<Snapshot> = self.delivery.registry.snapshot();
        match self.delivery.workshop.payload(&cell, &snapshot, to).await {
            Ok(converted) => Ok(converted.payload.to_string()),
            Err(blocked) => Err(Problem::new(Code::ScriptFailed, blocked.reason).with_hint(blocked.mend)),
        }
    }

    async fn check_bridge(&self, bridge: &Bridge) -> Result<(), Problem> {
        let Rule::Script { text, .. } = &bridge.rule else { return Ok(()) };
        let scripts = &self.delivery.workshop.scripts;
        scripts.check(text).await.map_err(|error| script_problem(&error, text))?;
        let from = match bridge.from {
            FromVersion::Exactly(version) | FromVersion::AtLeast(version) => version,
        };
        let subject = Subject::trusted(&bridge.subject.as_str().replace('*', "X"));
        for (number, example) in (1..).zip(&bridge.examples) {
            let event = self.example_event(&subject, from, &example.input)?;
            let output = self.run(text, &event).await?;
            let (mut found, mut wanted) = (String::new(), String::new());
            ess_core::json::write_canonical(&output, &mut found);
            ess_core::json::write_canonical(&example.output, &mut wanted);
            if found != wanted {
                let detail = format!("example {number} fails: it gave {found}, wanted was {wanted}");
                return Err(Problem::new(Code::ScriptFailed, detail)
                    .with_field(format!("examples.{number}"))
                    .with_hint("nothing was changed; mend the script or the example"));
            }
        }
        Ok(())
    }

    async fn run(&self, script: &str, event: &Event) -> Result<String, Problem> {
        let evaluation = Evaluation {
            script: Arc::from(script),
            input: Some(Arc::from(event.content.payload.get())),
            bindings: Arc::from([("event".to_owned(), event_binding(event))]),
            now: Some(event.recorded_at),
        };
        let output = self.delivery.workshop.scripts.evaluate(evaluation).await;
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
            trace: Trace::default(),
            content,
        })
    }

    /// The next set of bridges; what was blocked is tried again.
    fn swap_bridges(&self, bridges: Vec<Arc<Bridge>>) {
        self.delivery.registry.set_bridges(bridges);
        self.delivery.cells.forget_conversions();
        self.lanes.tell(Input::UnblockAll);
    }
}

fn script_problem(error: &ess_core::script::ScriptError, script: &str) -> Problem {
    let problem = Problem::new(Code::ScriptFailed, error.shown(script)).with_field("script");
    match error.place(script) {
        Some(place) => problem.with_position(place.line, place.column),
        None => problem,
    }
}
