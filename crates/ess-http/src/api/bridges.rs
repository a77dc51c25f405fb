//! Bridges between versions: add, list, remove, try, test.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::bridge::{Bridge, Example, FromVersion, Rule};
use ess_core::id::{Digest, Subject, Version};
use ess_core::limits::{ADMIN_BYTES_MAX, SCRIPT_BYTES_MAX};
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_hub::bridges::Trial;
use ess_hub::view::{ExampleResult, TriedPath};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, answer, ok, read_json};
use crate::body::Ignored;
use crate::caller::{Caller, Reason};
use crate::document;
use crate::limits::EXAMPLES_MAX;
use crate::query::Query;
use crate::site::Site;

/// A bridge to add: a script, or `identity: true`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBridge {
    /// Glob over subjects.
    #[schema(example = "RULE-COURT-DEADLINE")]
    subject: String,
    /// `3`, or `">=3"` for every version from 3 on.
    #[schema(value_type = serde_json::Value, example = 3)]
    from: Box<RawValue>,
    #[schema(example = 1, minimum = 1)]
    to: u32,
    /// JSONata; `$` is the payload, `$event` the event.
    script: Option<String>,
    /// Only the version label changes.
    identity: Option<bool>,
    /// Inputs with the outputs that they must give; a failing one refuses the bridge.
    #[serde(default)]
    examples: Vec<ExampleDocument>,
}

/// An input with the output that it must give.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Example)]
pub(crate) struct ExampleDocument {
    #[schema(value_type = serde_json::Value)]
    input: Box<RawValue>,
    #[schema(value_type = serde_json::Value)]
    output: Box<RawValue>,
}

/// A bridge as it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct BridgeView {
    /// `<subject glob>/<from>-to-<to>`.
    #[schema(example = "RULE-COURT-DEADLINE/3-to-1")]
    id: String,
    subject: String,
    /// `3` or `">=3"`.
    #[schema(value_type = serde_json::Value, example = 3)]
    from: serde_json::Value,
    to: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<bool>,
    /// SHA-256 of the script; deliveries name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    examples: Vec<ExampleView>,
}

/// An example as it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExampleView {
    #[schema(value_type = serde_json::Value)]
    input: Option<Box<RawValue>>,
    #[schema(value_type = serde_json::Value)]
    output: Option<Box<RawValue>>,
}

/// What adding a bridge did.
#[derive(Serialize, ToSchema)]
pub(crate) struct BridgeChange {
    id: String,
    /// False when it was the same already.
    changed: bool,
    /// Shortest chains of bridges that give different payloads for an example; the one that is taken is named first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing_paths: Vec<String>,
}

impl BridgeView {
    fn of(bridge: Bridge) -> Self {
        let from = match bridge.from {
            FromVersion::Exactly(version) => serde_json::Value::from(version.0),
            FromVersion::AtLeast(version) => serde_json::Value::from(format!(">={version}")),
        };
        let (script, identity, sha256) = match bridge.rule {
            Rule::Identity => (None, Some(true), None),
            Rule::Script { text, digest } => (Some(text), None, Some(digest.to_string())),
        };
        let raw = |text: String| RawValue::from_string(text).ok();
        let examples = bridge
            .examples
            .into_iter()
            .map(|Example { input, output }| ExampleView { input: raw(input), output: raw(output) });
        Self {
            id: bridge.id,
            subject: bridge.subject.as_str().to_owned(),
            from,
            to: bridge.to.0,
            script,
            identity,
            sha256,
            examples: examples.collect(),
        }
    }
}

impl NewBridge {
    fn parse(self) -> Result<Bridge, Problem> {
        let subject = Glob::parse(&self.subject).map_err(|wrong| invalid("subject", &wrong))?;
        let from = parse_from(&self.from)?;
        let to = parse_version(self.to, "to")?;
        let rule = match (self.script, self.identity.unwrap_or(false)) {
            (Some(_), true) => return Err(invalid("identity", "a bridge has a script or is an identity, not both")),
            (None, true) => Rule::Identity,
            (None, false) => {
                return Err(invalid("script", "a bridge needs a script")
                    .with_hint("give `script`, or `identity: true` when only the version label changes"));
            }
            (Some(text), false) => Rule::Script { digest: check_script(&text)?, text },
        };
        if self.examples.len() > EXAMPLES_MAX {
            return Err(invalid("examples", &format!("at most {EXAMPLES_MAX} examples are taken")));
        }
        let examples = self
            .examples
            .into_iter()
            .map(|example| Example { input: example.input.get().to_owned(), output: example.output.get().to_owned() });
        Ok(Bridge { id: Bridge::id_of(&subject, from, to), subject, from, to, rule, examples: examples.collect() })
    }
}

fn parse_from(value: &RawValue) -> Result<FromVersion, Problem> {
    let token = value.get();
    let text = match serde_json::from_str::<String>(token) {
        Ok(text) => text,
        Err(_) if token.bytes().all(|byte| byte.is_ascii_digit()) => token.to_owned(),
        Err(_) => return Err(invalid("from", "from must be a version such as 3, or \">=3\"")),
    };
    FromVersion::parse(&text).map_err(|wrong| invalid("from", &wrong.to_string()))
}

fn parse_version(number: u32, field: &str) -> Result<Version, Problem> {
    if number == 0 { Err(invalid(field, &format!("{field} must be 1 at least"))) } else { Ok(Version(number)) }
}

fn check_script(text: &str) -> Result<Digest, Problem> {
    if text.trim().is_empty() || text.len() > SCRIPT_BYTES_MAX {
        return Err(invalid("script", &format!("a script has 1 to {SCRIPT_BYTES_MAX} bytes")));
    }
    Ok(Digest::of(text.as_bytes()))
}

fn invalid(field: &str, detail: &str) -> Problem {
    Problem::new(Code::Invalid, detail).with_field(field)
}

/// Add a bridge
///
/// Its examples are run first: a failing one refuses it. Deliveries that it mends go out by themselves.
#[utoipa::path(
    post,
    path = "/v1/bridges",
    tag = "Bridges",
    operation_id = "add_bridge",
    params(
        ("replace" = Option<bool>, Query, description = "Take the place of another bridge with these ends."),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = NewBridge, example = json!({"subject": "RULE-COURT-DEADLINE", "from": 3, "to": 1, "script": "{\"cutoff\": deadline}", "examples": [{"input": {"deadline": "16:00"}, "output": {"cutoff": "16:00"}}]})),
    responses(
        (status = 201, description = "Added.", body = BridgeChange, example = json!({"id": "RULE-COURT-DEADLINE/3-to-1", "changed": true})),
        (status = 200, description = "It was the same already.", body = BridgeChange, example = json!({"id": "RULE-COURT-DEADLINE/3-to-1", "changed": false})),
    ),
)]
pub(crate) async fn add_bridge(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    let replace = query.only(&["replace"])?.flag("replace")?;
    let body = read_json(&site, request, ADMIN_BYTES_MAX).await?;
    let bridge = document::read::<NewBridge>(&body.bytes)?.parse()?;
    let id = bridge.id.clone();
    let change = site.hub.add_bridge(bridge, replace, reason, &caller.0).await?;
    let status = if change.changed { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, BridgeChange { id, changed: change.changed, differing_paths: change.rivals })
}

/// List the bridges
#[utoipa::path(
    get,
    path = "/v1/bridges",
    tag = "Bridges",
    operation_id = "list_bridges",
    responses((status = 200, description = "All bridges, by id.", body = List<BridgeView>)),
)]
pub(crate) async fn list_bridges(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    ok(List::whole(site.hub.bridges().into_iter().map(BridgeView::of).collect()))
}

/// Remove a bridge
#[utoipa::path(
    delete,
    path = "/v1/bridges/{id}",
    tag = "Bridges",
    operation_id = "remove_bridge",
    params(
        ("id" = String, Path, description = "The bridge's id, URL-encoded.", example = "RULE-COURT-DEADLINE%2F3-to-1"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 204, description = "Removed.")),
)]
pub(crate) async fn remove_bridge(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Named(id): Named,
    query: Query,
    Reason(reason): Reason,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    site.hub.remove_bridge(&id, reason, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A conversion to try.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BridgeTry {
    #[schema(example = "RULE-COURT-DEADLINE")]
    subject: String,
    #[schema(minimum = 1)]
    from: u32,
    #[schema(minimum = 1)]
    to: u32,
    /// Instead of the bridges that are there.
    script: Option<String>,
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Name every path of the scripts that gives nothing.
    #[serde(default)]
    strict: bool,
}

/// What a conversion gave.
#[derive(Serialize, ToSchema)]
pub(crate) struct BridgeTried {
    #[schema(value_type = serde_json::Value)]
    output: Box<RawValue>,
    /// The paths that give nothing, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<Vec<UnresolvedPath>>,
}

/// A path of a script that gives nothing: as a rule a misspelt name.
#[derive(Serialize, ToSchema)]
pub(crate) struct UnresolvedPath {
    /// The bridge; absent for a script that was tried by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[schema(example = "deadlin")]
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    /// How often it gave nothing.
    times: u32,
    /// How often it was looked at.
    of: u32,
}

/// What the examples of all bridges gave.
#[derive(Serialize, ToSchema)]
pub(crate) struct BridgeTests {
    results: Vec<ExampleTest>,
    passed: usize,
    failed: usize,
    /// Shortest chains of bridges that give different payloads for an example.
    differing_paths: Vec<String>,
}

/// What one example gave.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExampleTest {
    bridge: String,
    /// From 1.
    example: usize,
    passed: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// Try a conversion
///
/// As the bridges, or the given script, would do it; nothing is recorded.
#[utoipa::path(
    post,
    path = "/v1/bridges/try",
    tag = "Bridges",
    operation_id = "try_bridge",
    request_body(content = BridgeTry, example = json!({"subject": "RULE-COURT-DEADLINE", "from": 3, "to": 1, "payload": {"deadline": "16:00", "timezone": "local"}})),
    responses((status = 200, description = "The converted payload.", body = BridgeTried, example = json!({"output": {"cutoff": "16:00"}}))),
)]
pub(crate) async fn try_bridge(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    request: Request,
) -> Answer {
    // It runs a script of the caller's: for those who may add one.
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let body = read_json(&site, request, ADMIN_BYTES_MAX).await?;
    let BridgeTry { subject, from, to, script, payload, strict } = document::read(&body.bytes)?;
    let (from, to) = (parse_version(from, "from")?, parse_version(to, "to")?);
    if let Some(script) = &script {
        check_script(script)?;
    }
    let subject = Subject::parse(&subject)?;
    let trial = Trial { subject: &subject, from, to, script: script.as_deref(), payload: payload.get(), strict };
    let tried = site.hub.try_bridge(trial).await?;
    let output = RawValue::from_string(tried.output)
        .map_err(|_| Problem::new(Code::ScriptFailed, "the conversion did not give JSON"))?;
    let unresolved = tried.unresolved.into_iter().map(|TriedPath { bridge, path, place, times, of }| UnresolvedPath {
        bridge,
        path,
        line: place.map(|(line, _)| line),
        column: place.map(|(_, column)| column),
        times,
        of,
    });
    ok(BridgeTried { output, unresolved: strict.then(|| unresolved.collect()) })
}

/// Test all bridges
///
/// Runs every bridge's examples, and compares the shortest chains where there are several.
#[utoipa::path(
    post,
    path = "/v1/bridges/test",
    tag = "Bridges",
    operation_id = "test_bridges",
    responses((status = 200, description = "What they gave; `failed` is 0 when all is well.", body = BridgeTests)),
)]
pub(crate) async fn test_bridges(State(site): State<Arc<Site>>, caller: Caller, query: Query, _: Ignored) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let tests = site.hub.test_bridges().await;
    let results: Vec<ExampleTest> = tests
        .results
        .into_iter()
        .map(|ExampleResult { bridge, example, failure }| {
            let passed = failure.is_none();
            ExampleTest { bridge, example, passed, failure }
        })
        .collect();
    let passed = results.iter().filter(|result| result.passed).count();
    ok(BridgeTests { passed, failed: results.len() - passed, results, differing_paths: tests.rivals })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Bridge, Problem> {
        document::read::<NewBridge>(body.as_bytes())?.parse()
    }

    #[test]
    fn a_bridge_is_read_with_either_kind_of_source_version() {
        let bridge = parse(r#"{"subject": "RULE-*", "from": 3, "to": 1, "script": "$", "examples": [{"input": 9007199254740993, "output": {}}]}"#).unwrap();
        assert_eq!((bridge.id.as_str(), bridge.examples[0].input.as_str()), ("RULE-*/3-to-1", "9007199254740993"));
        let bridge = parse(r#"{"subject": "RULE-*", "from": ">=3", "to": 2, "identity": true}"#).unwrap();
        assert_eq!((bridge.from, &bridge.rule), (FromVersion::AtLeast(Version(3)), &Rule::Identity));
    }

    #[test]
    fn what_is_wrong_with_a_bridge_is_named() {
        for (body, field) in [
            (r#"{"subject": "A", "from": 3, "to": 1}"#, "script"),
            (r#"{"subject": "A", "from": 3, "to": 1, "script": "$", "identity": true}"#, "identity"),
            (r#"{"subject": "A", "from": 0, "to": 1, "script": "$"}"#, "from"),
            (r#"{"subject": "A", "from": {}, "to": 1, "script": "$"}"#, "from"),
            (r#"{"subject": "A", "from": 1, "to": 0, "script": "$"}"#, "to"),
            (r#"{"subject": "A", "from": 1, "to": -1, "script": "$"}"#, "to"),
            (r#"{"subject": "", "from": 1, "to": 2, "script": "$"}"#, "subject"),
            (r#"{"from": 1, "to": 2, "script": "$"}"#, "subject"),
            (r#"{"subject": "A", "from": 1, "to": 2, "script": " "}"#, "script"),
        ] {
            assert_eq!(parse(body).unwrap_err().field.as_deref(), Some(field), "{body}");
        }
    }
}
