//! The configuration file as it is written: keys in their order, each with its line.
//!
//! It knows no key by name; a key that stands twice is an error of the YAML reader.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::Spanned;

/// All keys of the file.
pub(super) struct Keys(pub(super) Vec<Key>);

/// One key.
pub(super) struct Key {
    /// Its name.
    pub(super) name: String,
    /// Its line, from 1.
    pub(super) line: u64,
    /// What stands there.
    pub(super) value: Value,
}

/// A value, or the items of a list with commas between; `None` for anything deeper.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Object(_) => None,
        Value::Array(items) => {
            let items: Option<Vec<String>> =
                items.iter().map(|item| if item.is_array() { None } else { text(item) }).collect();
            items.map(|items| items.join(","))
        }
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A section as JSON text; nothing at all is empty.
pub(super) fn document(value: &Value) -> Option<String> {
    Some(if value.is_null() { String::new() } else { value.to_string() })
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of keys to values")
    }

    // An empty file, or one of comments only.
    fn visit_unit<E>(self) -> Result<Keys, E> {
        Ok(Keys(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Vec::new();
        while let Some((name, value)) = map.next_entry::<Spanned<String>, Value>()? {
            keys.push(Key { line: name.referenced.line(), name: name.value, value });
        }
        Ok(Keys(keys))
    }
}
