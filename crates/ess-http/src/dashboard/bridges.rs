//! `/dashboard/bridges`: the bridges of each subject as a graph, with their examples, and a place to try a conversion.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::bridge::{Bridge, FromVersion, Rule};
use ess_core::id::{Subject, Version};
use ess_core::problem::{Code, Problem};
use ess_hub::bridges::Trial;

use super::Screen;
use super::form::Form;
use super::frame::{Content, Tab, page, permit, render};
use super::visitor::{Posted, Visitor};
use crate::query::Query;
use crate::site::Site;

const PATH: &str = "/dashboard/bridges";
/// Bytes of one example that the page shows.
const EXAMPLE_BYTES_SHOWN: usize = 2_000;
/// Examples of one bridge that the page shows.
const EXAMPLES_SHOWN: usize = 5;
/// Bytes of a script that the page shows.
const SCRIPT_BYTES_SHOWN: usize = 8_000;
/// Subjects on the page; a filter finds the others.
const SUBJECTS_SHOWN: usize = 20;

/// Units between two versions, and from the top to the middle of a graph.
const STEP: usize = 150;
const MIDDLE: usize = 90;

#[derive(Template)]
#[template(path = "dashboard/bridges.html")]
struct Live {
    text: String,
    subjects: Vec<Group>,
    hidden: usize,
}

struct Group {
    subject: String,
    graph: Graph,
    bridges: Vec<Row>,
}

struct Row {
    id: String,
    kind: &'static str,
    digest: String,
    script: Option<String>,
    examples: Vec<(usize, String, String)>,
    examples_all: usize,
}

/// The bridges of one subject: versions in a row, an arc for each bridge.
#[derive(Debug, PartialEq, Eq)]
struct Graph {
    width: usize,
    height: usize,
    words: String,
    nodes: Vec<(usize, String)>,
    edges: Vec<Edge>,
}

#[derive(Debug, PartialEq, Eq)]
struct Edge {
    path: String,
    tip: String,
    label_x: usize,
    label_y: usize,
    label: &'static str,
}

#[derive(Template)]
#[template(path = "dashboard/bridge_try.html")]
struct Try<'a> {
    csrf: &'a str,
    subject: &'a str,
    from: &'a str,
    to: &'a str,
    script: &'a str,
    payload: &'a str,
    output: Option<String>,
    unresolved: Vec<String>,
    refused: Option<Refused>,
}

struct Refused {
    detail: String,
    hint: Option<String>,
    place: Option<(u32, u32)>,
}

/// All bridges.
pub(crate) async fn list_bridges(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["text"])?;
    let blank = Try {
        csrf: &visitor.csrf,
        subject: "",
        from: "",
        to: "",
        script: "",
        payload: "",
        output: None,
        unresolved: Vec::new(),
        refused: None,
    };
    show(&site, &visitor, query.text("text").unwrap_or_default(), &blank).await
}

/// Converts what was filled in; nothing is recorded, so the answer is the page itself.
pub(crate) async fn try_bridge(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { mut visitor, form } = posted;
    // The answer is the page itself: what leads back to it leads to its own path.
    visitor.path = PATH.to_owned();
    // It runs a script of the caller's: for those who may add one.
    permit(&visitor, &Act::Operate)?;
    let tried = tried(&site, &form).await;
    let text = |name: &str| form.text(name).unwrap_or_default();
    let mut shown = Try {
        csrf: &visitor.csrf,
        subject: text("subject"),
        from: text("from"),
        to: text("to"),
        script: text("script"),
        payload: text("payload"),
        output: None,
        unresolved: Vec::new(),
        refused: None,
    };
    match tried {
        Ok((output, unresolved)) => (shown.output, shown.unresolved) = (Some(output), unresolved),
        Err(problem) => {
            shown.refused = Some(Refused { detail: problem.detail, hint: problem.hint, place: problem.position });
        }
    }
    show(&site, &visitor, "", &shown).await
}

async fn show(site: &Site, visitor: &Visitor, text: &str, attempt: &Try<'_>) -> Screen {
    let (subjects, hidden) = groups(&site.hub.bridges(), text);
    let live = render(&Live { text: text.to_owned(), subjects, hidden })?;
    let fixed = if visitor.may(&Act::Operate) { render(attempt)? } else { String::new() };
    page(site, visitor, &Content { title: "Bridges".to_owned(), tab: Tab::Bridges, live: &live, fixed: &fixed }).await
}

async fn tried(site: &Site, form: &Form) -> Result<(String, Vec<String>), Problem> {
    let version = |name: &str| {
        let number = form.needed(name)?.parse::<u32>().ok().filter(|number| *number > 0);
        number.map(Version).ok_or_else(|| Problem::new(Code::Invalid, format!("{name} must be a version, 1 or more")))
    };
    let subject = Subject::parse(form.needed("subject")?)?;
    let (from, to) = (version("from")?, version("to")?);
    let script = form.text("script").filter(|script| !script.trim().is_empty());
    let payload = form.needed("payload")?;
    serde_json::from_str::<serde_json::Value>(payload)
        .map_err(|error| Problem::new(Code::Malformed, format!("the payload is not JSON: {error}")))?;
    let trial = Trial { subject: &subject, from, to, script, payload, strict: true };
    let tried = site.hub.try_bridge(trial).await?;
    let unresolved = tried.unresolved.into_iter().map(|path| match path.place {
        Some((line, column)) => format!("{} (line {line}, column {column})", path.path),
        None => path.path,
    });
    Ok((pretty(&tried.output), unresolved.collect()))
}

fn groups(bridges: &[Bridge], text: &str) -> (Vec<Group>, usize) {
    let mut by_subject: BTreeMap<&str, Vec<&Bridge>> = BTreeMap::new();
    for bridge in bridges.iter().filter(|bridge| bridge.subject.as_str().contains(text)) {
        by_subject.entry(bridge.subject.as_str()).or_default().push(bridge);
    }
    let hidden = by_subject.len().saturating_sub(SUBJECTS_SHOWN);
    let shown = by_subject.into_iter().take(SUBJECTS_SHOWN).map(|(subject, bridges)| Group {
        subject: subject.to_owned(),
        graph: graph(&bridges),
        bridges: bridges.into_iter().map(row).collect(),
    });
    (shown.collect(), hidden)
}

fn row(bridge: &Bridge) -> Row {
    let script = match &bridge.rule {
        Rule::Identity => None,
        Rule::Script { text, .. } => Some(cut(text, SCRIPT_BYTES_SHOWN)),
    };
    let examples = (1..).zip(&bridge.examples).take(EXAMPLES_SHOWN).map(|(number, example)| {
        let shown = |json: &str| cut(&pretty(json), EXAMPLE_BYTES_SHOWN);
        (number, shown(&example.input), shown(&example.output))
    });
    Row {
        id: bridge.id.clone(),
        kind: kind(bridge),
        digest: bridge.digest().map_or_else(|| "-".to_owned(), |digest| digest.to_string()),
        script,
        examples: examples.collect(),
        examples_all: bridge.examples.len(),
    }
}

fn kind(bridge: &Bridge) -> &'static str {
    match bridge.rule {
        Rule::Identity => "label only",
        Rule::Script { .. } => "script",
    }
}

fn graph(bridges: &[&Bridge]) -> Graph {
    let source = |bridge: &Bridge| match bridge.from {
        FromVersion::Exactly(version) => (version.0, false),
        FromVersion::AtLeast(version) => (version.0, true),
    };
    let mut versions: Vec<(u32, bool)> =
        bridges.iter().flat_map(|bridge| [source(bridge), (bridge.to.0, false)]).collect();
    versions.sort_unstable();
    versions.dedup();
    let x = |version: &(u32, bool)| 50 + STEP * versions.iter().position(|known| known == version).unwrap_or(0);
    let edges = bridges.iter().map(|bridge| {
        let (from, to) = (x(&source(bridge)), x(&(bridge.to.0, false)));
        // To an older version over the row, to a newer one beneath it.
        let (start, lift) = if to < from { (MIDDLE - 20, MIDDLE - 85) } else { (MIDDLE + 20, MIDDLE + 85) };
        let way = if to < from { -8 } else { 8 };
        Edge {
            path: format!("M{from} {start}C{from} {lift} {to} {lift} {to} {start}"),
            tip: format!(
                "M{} {}l4 {}l4 {}z",
                to - 4,
                start as i64 - i64::from(way < 0) * 8 + i64::from(way > 0) * 8,
                -way,
                way
            ),
            label_x: from.min(to) + from.abs_diff(to) / 2,
            label_y: if to < from { MIDDLE - 74 } else { MIDDLE + 82 },
            label: kind(bridge),
        }
    });
    let said = bridges.iter().map(|bridge| format!("{} to {} by {}", bridge.from, bridge.to, kind(bridge)));
    let has_up = bridges.iter().any(|bridge| source(bridge).0 < bridge.to.0);
    Graph {
        height: if has_up { MIDDLE * 2 } else { MIDDLE + 24 },
        width: 100 + STEP * versions.len().saturating_sub(1),
        words: said.collect::<Vec<_>>().join("; "),
        edges: edges.collect(),
        nodes: versions
            .iter()
            .map(|known| (x(known), format!("v{}{}", known.0, if known.1 { "+" } else { "" })))
            .collect(),
    }
}

fn pretty(json: &str) -> String {
    // Numbers stay as they were written: only what has none that would change is laid out anew.
    let value = serde_json::from_str::<serde_json::Value>(json).ok();
    let laid = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    match laid {
        Some(laid) if squeezed(&laid) == squeezed(json) => laid,
        _ => json.to_owned(),
    }
}

fn squeezed(json: &str) -> String {
    json.chars().filter(|character| !character.is_whitespace()).collect()
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}\n… (cut here)", &text[..end])
}

#[cfg(test)]
mod tests {
    use ess_core::partner::Glob;

    use super::*;

    #[test]
    fn a_graph_has_each_version_once_and_an_arc_for_each_bridge() {
        let bridge = |from: FromVersion, to: u32| {
            let subject = Glob::trusted("A");
            let id = Bridge::id_of(&subject, from, Version(to));
            Bridge { id, subject, from, to: Version(to), rule: Rule::Identity, examples: Vec::new() }
        };
        let bridges = [
            bridge(FromVersion::Exactly(Version(3)), 2),
            bridge(FromVersion::Exactly(Version(2)), 1),
            bridge(FromVersion::AtLeast(Version(3)), 1),
            bridge(FromVersion::Exactly(Version(1)), 2),
        ];
        let graph = graph(&bridges.iter().collect::<Vec<_>>());
        let names: Vec<&str> = graph.nodes.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["v1", "v2", "v3", "v3+"]);
        assert_eq!((graph.edges.len(), graph.width), (4, 550));
        assert!(graph.words.contains(">=3 to 1") || graph.words.contains("3+ to 1"), "{}", graph.words);
    }

    #[test]
    fn a_number_that_laying_out_would_change_stays_as_written() {
        assert_eq!(pretty("{\"a\":9007199254740993.0000000000000001}"), "{\"a\":9007199254740993.0000000000000001}");
        assert_eq!(pretty("{\"a\":1}"), "{\n  \"a\": 1\n}");
    }
}
