//! A part of a partner's document while it is read: every error names the field.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::duration;
use crate::nearest::nearest;
use crate::problem::{Code, Problem};

/// A map with its place in the document, for errors that name the field.
pub(crate) struct Part<'a> {
    pub(crate) map: &'a Map<String, Value>,
    pub(crate) path: &'a str,
}

impl<'a> Part<'a> {
    pub(crate) fn of(value: &'a Value, path: &'a str, known: &[&str]) -> Result<Self, Problem> {
        let Value::Object(map) = value else { return Err(expected(path, "a map", value)) };
        for name in map.keys() {
            if !known.contains(&name.as_str()) {
                let field = join(path, name);
                let problem = Problem::new(Code::Invalid, format!("{field}: unknown field")).with_field(field);
                return Err(match nearest(name, known) {
                    Some(meant) => problem.with_hint(format!("did you mean `{meant}`?")),
                    None => problem.with_hint(format!("known here: {}", known.join(", "))),
                });
            }
        }
        Ok(Self { map, path })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        join(self.path, name)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(expected(&self.path(name), "a text", other)),
        }
    }

    pub(crate) fn need_text(&self, name: &str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| missing(&self.path(name)))
    }

    pub(crate) fn span(&self, name: &str, default: Duration) -> Result<Duration, Problem> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => duration::parse(&text).map_err(|wrong| invalid(&self.path(name), &wrong)),
        }
    }

    pub(crate) fn number(
        &self,
        name: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, Problem> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(expected(&self.path(name), &format!("a number from {} to {}", range.start(), range.end()), value)),
        }
    }

    pub(crate) fn count(&self, name: &str, default: u32, range: std::ops::RangeInclusive<u32>) -> Result<u32, Problem> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => {
                Err(expected(&self.path(name), &format!("an integer from {} to {}", range.start(), range.end()), value))
            }
        }
    }

    pub(crate) fn word<T: Copy>(&self, name: &str, default: T, words: &[(&str, T)]) -> Result<T, Problem> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let problem = invalid(&self.path(name), &format!("expected one of {}, found {text:?}", known.join(", ")));
            match nearest(&text, &known) {
                Some(meant) => problem.with_hint(format!("did you mean `{meant}`?")),
                None => problem,
            }
        })
    }

    /// Absent is false.
    pub(super) fn truth(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(truth)) => Ok(*truth),
            Some(other) => Err(expected(&self.path(name), "true or false", other)),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Problem> {
        let path = self.path(name);
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(expected(&path, "a list", value)) };
        let texts: Result<Vec<String>, Problem> = items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| expected(&path, "a list of texts", item)))
            .collect();
        texts.map(Some)
    }
}

pub(crate) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "(default)".to_owned(),
        Value::String(text) => text.replace('\n', "⏎"),
        other => other.to_string(),
    };
    if text.chars().count() > 80 { format!("{}…", text.chars().take(80).collect::<String>()) } else { text }
}

/// `2` rather than `2.0`, as people write it.
pub(crate) fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

pub(crate) fn invalid(field: &str, what: &str) -> Problem {
    Problem::new(Code::Invalid, format!("{field}: {what}")).with_field(field)
}

pub(crate) fn missing(field: &str) -> Problem {
    invalid(field, "this field is missing")
        .with_hint("a partner needs id, url, accepts_version and channel; all else has a default")
}

pub(crate) fn expected(field: &str, what: &str, found: &Value) -> Problem {
    invalid(field, &format!("expected {what}, found {}", shown(found)))
}
