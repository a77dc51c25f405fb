//! A schema at work: the only file that names the validator.
//!
//! A schema may be anybody's: it fetches nothing, its patterns run in linear time, and whoever calls it bounds the rest,
//! as for scripts, by running it where it can be stopped.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// Violations that are told of one payload.
const VIOLATIONS_MAX: usize = 10;
/// Characters of what is told.
const MESSAGE_CHARS_MAX: usize = 200;

/// A compiled schema.
#[derive(Debug)]
pub struct Checker(Validator);

/// One thing about a payload that its schema forbids.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Where, as a dotted path; empty for the whole payload.
    pub path: String,
    /// What; the payload's own values are not repeated.
    pub message: String,
}

impl Checker {
    /// Compiles a schema, draft 2020-12 unless its `$schema` says otherwise.
    ///
    /// # Errors
    /// In plain words: it is not JSON, not a schema, or refers to what is not in it.
    pub fn compile(text: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        if !schema.is_object() && !schema.is_boolean() {
            return Err("a schema is an object or a boolean".to_owned());
        }
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .offline();
        options.build(&schema).map(Self).map_err(|error| {
            let path = dotted(error.instance_path().as_str());
            let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
            short(&format!("{place}{error}"))
        })
    }

    /// What is wrong with a payload, JSON text: nothing, or the first few things.
    ///
    /// # Errors
    /// It is not JSON, or holds a number that is out of range.
    pub fn violations(&self, payload: &str) -> Result<Vec<Violation>, String> {
        let value: Value = serde_json::from_str(payload).map_err(|error| error.to_string())?;
        let violations = self.0.iter_errors(&value).take(VIOLATIONS_MAX).map(|error| Violation {
            path: dotted(error.instance_path().as_str()),
            message: short(&error.masked().to_string()),
        });
        Ok(violations.collect())
    }
}

/// A JSON Pointer (RFC 6901) as the dotted path that problems name fields by.
fn dotted(pointer: &str) -> String {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    steps.join(".")
}

fn short(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &str, payload: &str, expected: &[(&str, &str)]) {
        let violations = Checker::compile(schema).unwrap().violations(payload).unwrap();
        let found: Vec<_> = violations.iter().map(|v| (v.path.as_str(), v.message.as_str())).collect();
        assert_eq!(found, expected);
    }

    const DEADLINE: &str = r#"{
        "type": "object",
        "required": ["deadline"],
        "properties": {
            "deadline": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
            "fees": {"type": "array", "items": {"properties": {"amount": {"type": "integer"}}}}
        },
        "additionalProperties": false
    }"#;

    #[test]
    fn a_violation_is_named_by_its_path() {
        check(DEADLINE, r#"{"deadline": "16:00", "fees": [{"amount": 1}]}"#, &[]);
        check(
            DEADLINE,
            r#"{"deadline": "4 pm"}"#,
            &[("deadline", r#"value does not match "^[0-2][0-9]:[0-5][0-9]$""#)],
        );
        check(
            DEADLINE,
            r#"{"deadline": "16:00", "fees": [{"amount": 1}, {"amount": "x"}]}"#,
            &[("fees.1.amount", r#"value is not of type "integer""#)],
        );
        check(DEADLINE, "{}", &[("", r#""deadline" is a required property"#)]);
        check(DEADLINE, "[]", &[("", r#"value is not of type "object""#)]);
    }

    #[test]
    fn a_number_past_the_doubles_is_checked_as_it_is() {
        check(
            r#"{"maximum": 9007199254740992}"#,
            "9007199254740993",
            &[("", "value is greater than the maximum of 9007199254740992")],
        );
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_reason() {
        for (schema, word) in [
            ("{", "not JSON"),
            ("3", "an object or a boolean"),
            (r#"{"type": "strin"}"#, "type"),
            (r#"{"$ref": "https://elsewhere.gov/schema.json"}"#, "elsewhere.gov"),
            (r##"{"$ref": "#/$defs/missing"}"##, "missing"),
            (r#"{"pattern": "("}"#, "pattern"),
        ] {
            let error = Checker::compile(schema).map(|_| ()).unwrap_err();
            assert!(error.contains(word), "{schema}: {error}");
        }
    }

    #[test]
    fn a_schema_of_itself_follows_the_payload_and_no_further() {
        let tree = r##"{"properties": {"left": {"$ref": "#"}, "leaf": {"type": "integer"}}}"##;
        check(tree, r#"{"left": {"left": {"leaf": "x"}}}"#, &[("left.left.leaf", r#"value is not of type "integer""#)]);
    }
}
