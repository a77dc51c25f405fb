//! JSON documents of requests: strict, with the field or the position that is at fault. Never panics on what it reads.

use ess_core::json::Fields;
use ess_core::nearest::nearest;
use ess_core::problem::{Code, Problem};
use serde::de::DeserializeOwned;

/// Reads a JSON object into `T`. Unknown fields must be denied by `T` itself.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let fields = Fields::parse(body)?;
    serde_json::from_slice(body).map_err(|error| explain(&error, body, &fields))
}

/// Reads an empty body as an empty object: for requests whose fields are all optional.
pub(crate) fn read_optional<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let is_empty = body.iter().all(u8::is_ascii_whitespace);
    read(if is_empty { b"{}" } else { body })
}

fn explain(error: &serde_json::Error, body: &[u8], fields: &Fields<'_>) -> Problem {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    let quoted: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
    if let (true, Some(name)) = (said.starts_with("missing field"), quoted.first()) {
        return Problem::new(Code::Invalid, format!("field {name} is missing")).with_field(*name);
    }
    let position = (u32::try_from(error.line()).unwrap_or(0), u32::try_from(error.column()).unwrap_or(0));
    if let (true, Some((name, known))) = (said.starts_with("unknown field"), quoted.split_first()) {
        let problem = Problem::new(Code::Invalid, format!("unknown field {name}"))
            .with_field(*name)
            .with_position(position.0, position.1);
        return match nearest(name, known) {
            Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => problem.with_hint("no fields are taken here"),
            None => problem.with_hint(format!("known are {}", known.join(", "))),
        };
    }
    let problem = match field_at(body, fields, error.line(), error.column()) {
        Some(name) => Problem::new(Code::Invalid, format!("{name}: {said}")).with_field(name),
        None => Problem::new(Code::Invalid, said),
    };
    problem.with_position(position.0, position.1)
}

/// Which top-level field's value holds this place; serde names it only when it is unknown or missing.
fn field_at<'f>(body: &[u8], fields: &'f Fields<'_>, line: usize, column: usize) -> Option<&'f str> {
    let lines_before: usize =
        body.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let at = lines_before + column;
    let base = body.as_ptr() as usize;
    // The error's column is that of the last byte read, or one past the value.
    let mut values = fields.0.iter().map(|(name, value)| {
        let start = (value.get().as_ptr() as usize).wrapping_sub(base);
        (name, start, start + value.get().len())
    });
    values.find(|(_, start, end)| (*start..=*end + 1).contains(&at)).map(|(name, _, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        to: Vec<String>,
        #[serde(default)]
        force: bool,
    }

    #[track_caller]
    fn check(body: &str, code: Code, field: Option<&str>, position: Option<(u32, u32)>) {
        let problem = read::<Sample>(body.as_bytes()).unwrap_err();
        assert_eq!((problem.code, problem.field.as_deref(), problem.position), (code, field, position), "{problem:?}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("{\"to\": [}", Code::Malformed, None, Some((1, 9)));
        check("{\"force\": true}", Code::Invalid, Some("to"), None);
        check("{\"to\": [],\n \"forc\": true}", Code::Invalid, Some("forc"), Some((2, 7)));
        check("{\"to\": [],\n \"force\": \"yes\"}", Code::Invalid, Some("force"), Some((2, 15)));
        check("{\"to\": [7], \"force\": true}", Code::Invalid, Some("to"), Some((1, 9)));
        check("{\"to\": 7, \"force\": true}", Code::Invalid, Some("to"), Some((1, 8)));
        check("[]", Code::Malformed, None, Some((1, 0)));
    }

    #[test]
    fn a_near_miss_gets_a_hint() {
        let problem = read::<Sample>(b"{\"to\": [], \"forse\": true}").unwrap_err();
        assert_eq!(problem.hint.as_deref(), Some("did you mean `force`?"));
        let sample = read::<Sample>(b"{\"to\": [\"A\"], \"force\": true}").unwrap();
        assert_eq!((sample.to.as_slice(), sample.force), (&["A".to_owned()][..], true));
    }

    #[test]
    fn an_empty_body_is_an_empty_object_where_all_is_optional() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        assert!(read_optional::<Nothing>(b" \n").is_ok());
        assert!(read_optional::<Nothing>(b"{\"a\": 1}").is_err());
    }
}
