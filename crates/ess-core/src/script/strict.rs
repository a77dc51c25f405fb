//! Which paths of a script gave nothing: JSONata takes a misspelt name for a missing one and says no word.
//!
//! The script runs once more with each path wrapped into a function that looks at its result. A path that a script asks
//! about on purpose (`$exists(a)`, `a ? b : c`, `a ?: b`, `a ?? b`) is not looked at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use jsonata_core::ast::AstNode;
use jsonata_core::evaluator::{Evaluator, EvaluatorError};
use jsonata_core::value::JValue;
use serde_json::{Map, Value, json};

use super::{CODE_ENGINE, ScriptError, place};

/// What the wrapping function is called; no script can name it.
const WATCH: &str = "path watched";

/// A path that gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unresolved {
    /// As the script writes it.
    pub path: String,
    /// Characters of the script before it, if it was found.
    pub position: Option<u32>,
    /// How often it gave nothing.
    pub times: u32,
    /// How often it was looked at.
    pub of: u32,
}

/// A script with its paths watched.
pub(super) struct Paths {
    ast: AstNode,
    found: Vec<(String, Option<u32>)>,
    /// For each path: how often it gave nothing, and of how many times.
    seen: Rc<RefCell<Vec<(u32, u32)>>>,
}

impl Paths {
    pub(super) fn of(text: &str, ast: &AstNode) -> Result<Self, ScriptError> {
        let lost = |error: serde_json::Error| {
            ScriptError::new(CODE_ENGINE, format!("the paths of this script can't be followed: {error}"))
        };
        let mut tree = serde_json::to_value(ast).map_err(lost)?;
        let mut finder = Finder { text, found: Vec::new(), counts: HashMap::new() };
        finder.watch(&mut tree);
        let found = finder.found;
        let seen = Rc::new(RefCell::new(vec![(0, 0); found.len()]));
        Ok(Self { ast: serde_json::from_value(tree).map_err(lost)?, found, seen })
    }

    pub(super) fn ast(&self) -> &AstNode {
        &self.ast
    }

    pub(super) fn watch(&mut self, evaluator: &mut Evaluator) -> Result<(), ScriptError> {
        let seen = Rc::clone(&self.seen);
        let look = move |args: &[JValue]| {
            let [JValue::Number(index), value] = args else {
                return Err(EvaluatorError::EvaluationError(format!("{CODE_ENGINE}: a path was lost")));
            };
            if let Some((times, of)) = seen.borrow_mut().get_mut(*index as usize) {
                *times += u32::from(value.is_undefined());
                *of += 1;
            }
            Ok(value.clone())
        };
        evaluator.register_fn(WATCH, look).map_err(|error| super::code::of_evaluator(&error))
    }

    pub(super) fn unresolved(self) -> Vec<Unresolved> {
        let seen = self.seen.borrow();
        let pairs = self.found.into_iter().zip(seen.iter());
        let mut unresolved: Vec<Unresolved> = pairs
            .filter(|(_, (times, _))| *times > 0)
            .map(|((path, position), (times, of))| Unresolved { path, position, times: *times, of: *of })
            .collect();
        unresolved.sort_by_key(|at| at.position);
        unresolved
    }
}

/// Walks the tree as the engine writes it down: a node is an object with its kind as the only key.
struct Finder<'a> {
    text: &'a str,
    found: Vec<(String, Option<u32>)>,
    /// How often each path was met: the next one is the next in the text.
    counts: HashMap<Vec<String>, usize>,
}

impl Finder<'_> {
    /// Wraps the node if it is a path, and what is inside it.
    fn watch(&mut self, node: &mut Value) {
        let steps = match node.as_object().and_then(only) {
            Some(("Name", _)) => vec![json!({"node": node})],
            Some(("Path", path)) => path["steps"].as_array().cloned().unwrap_or_default(),
            _ => return self.descend(node),
        };
        let index = self.found.len();
        self.note(&steps);
        self.descend(node);
        let path = node.take();
        *node = json!({"Function": {"name": WATCH, "args": [{"Number": index as f64}, path], "is_builtin": true}});
    }

    /// What is inside a node, not the node itself.
    fn descend(&mut self, node: &mut Value) {
        let kind = node.as_object().and_then(only).map(|(kind, _)| kind.to_owned()).unwrap_or_default();
        let inner = node.as_object_mut().and_then(|node| node.get_mut(&kind));
        match (kind.as_str(), inner) {
            ("Path", Some(path)) => {
                for step in path["steps"].as_array_mut().into_iter().flatten() {
                    // What a step hands on to `%` must stay as it is.
                    if step["inner_tuple"] != true {
                        self.descend(&mut step["node"]);
                    }
                    step["stages"].as_array_mut().into_iter().flatten().for_each(|stage| self.all(stage));
                }
            }
            // What these begin with hands its variables on.
            ("ObjectTransform" | "Sort", Some(inner)) => {
                self.descend(&mut inner["input"]);
                for rest in ["pattern", "terms"] {
                    if let Some(rest) = inner.get_mut(rest) {
                        self.all(rest);
                    }
                }
            }
            ("Transform", Some(inner)) => self.all(&mut inner["update"]),
            ("Conditional", Some(inner)) => {
                self.descend(&mut inner["condition"]);
                self.all(&mut inner["then_branch"]);
                self.all(&mut inner["else_branch"]);
            }
            ("Binary", Some(inner)) if matches!(inner["op"].as_str(), Some("Default" | "Coalesce")) => {
                self.descend(&mut inner["lhs"]);
                self.watch(&mut inner["rhs"]);
            }
            ("Function", Some(inner)) if inner["name"] == "exists" => {
                inner["args"].as_array_mut().into_iter().flatten().for_each(|argument| self.descend(argument));
            }
            (_, Some(inner)) => self.all(inner),
            (_, None) => {}
        }
    }

    /// Everything below, whatever it is.
    fn all(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.all(item)),
            Value::Object(node) if only(node).is_some_and(|(kind, _)| kind.starts_with(char::is_uppercase)) => {
                self.watch(value);
            }
            Value::Object(members) => members.values_mut().for_each(|member| self.all(member)),
            _ => {}
        }
    }

    /// Remembers a path and finds its place.
    fn note(&mut self, steps: &[Value]) {
        let (mut words, mut shown) = (Vec::new(), Vec::new());
        let mut is_whole = true;
        for step in steps {
            let word = match step["node"].as_object().and_then(only) {
                Some(("Name", name)) => name.as_str().map(in_ticks),
                Some(("Variable", name)) => name.as_str().map(|name| format!("${name}")),
                _ => None,
            };
            let has_stages = step["stages"].as_array().is_some_and(|stages| !stages.is_empty());
            // What is found in the text are the names before the first thing that is none.
            if is_whole && let Some(word) = &word {
                words.push(word.clone());
            }
            is_whole &= word.is_some() && !has_stages;
            shown.push(format!("{}{}", word.as_deref().unwrap_or("(…)"), if has_stages { "[…]" } else { "" }));
        }
        let path = shown.join(".");
        let count = self.counts.entry(words.clone()).or_default();
        let position = place::of_path(self.text, &words, is_whole, *count);
        *count += 1;
        self.found.push((path, position));
    }
}

/// The only member of an object that has one.
fn only(node: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut members = node.iter();
    let first = members.next()?;
    members.next().is_none().then_some((first.0.as_str(), first.1))
}

/// A name as a script writes it.
fn in_ticks(name: &str) -> String {
    let is_plain = name.chars().all(|character| character.is_alphanumeric() || character == '_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if is_plain && !name.is_empty() { name.to_owned() } else { format!("`{name}`") }
}
