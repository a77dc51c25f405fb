//! Lookup tables, read: what `$table('courts')` gives.

use std::collections::HashMap;
use std::rc::Rc;

use jsonata_core::evaluator::EvaluatorError;
use jsonata_core::value::JValue;

use super::exact::Numbers;
use super::{CODE_INPUT, CODE_TABLE, ScriptError};
use crate::nearest::nearest;
use crate::problem::{Code, Problem};

/// The tables of a hub; clones share them. They stay on the thread that read them.
#[derive(Clone, Default)]
pub struct Tables(Rc<HashMap<String, JValue>>);

impl Tables {
    /// Reads tables, each a name and a JSON text.
    ///
    /// # Errors
    /// A text is not JSON.
    pub fn parse(tables: &[(&str, &str)]) -> Result<Self, ScriptError> {
        let read = |(name, text): &(&str, &str)| match JValue::from_json_str(text) {
            Ok(value) => Ok(((*name).to_owned(), value)),
            Err(error) => Err(ScriptError::new(CODE_INPUT, format!("the table {name} is not JSON: {error}"))),
        };
        Ok(Self(Rc::new(tables.iter().map(read).collect::<Result<_, _>>()?)))
    }

    /// The first number of a JSON text that a script would see as another one.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn inexact_number(text: &str) -> Result<Option<String>, Problem> {
        let invalid = |detail: String| Problem::new(Code::Invalid, detail).with_field("value");
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| invalid(format!("not JSON: {error}")))?;
        let mut numbers = Numbers::default();
        numbers.read("$", text).map_err(|error| invalid(error.message))?;
        Ok(numbers.first().map(str::to_owned))
    }

    /// `$table(name)`.
    pub(super) fn look_up(&self, args: &[JValue]) -> Result<JValue, EvaluatorError> {
        let refuse = |what: String| Err(EvaluatorError::EvaluationError(format!("{CODE_TABLE}: $table(): {what}")));
        let [JValue::String(name)] = args else {
            return refuse("takes the name of a table, such as 'courts'".to_owned());
        };
        match self.0.get(&**name) {
            Some(value) => Ok(value.clone()),
            None => {
                let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
                let near = nearest(name, &names);
                let near = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                refuse(format!("there is no table {name:?}{near}"))
            }
        }
    }
}
