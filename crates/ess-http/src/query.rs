//! Query parameters: each known, at most once, within its bounds. Anything else is refused by name.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use ess_core::nearest::nearest;
use ess_core::problem::{Code, Problem};

use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, QUERY_VALUE_BYTES_MAX};
use crate::refusal::Refusal;

/// The query of a request, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self::parse(parts.uri.query())?)
    }
}

impl Query {
    /// Reads `name=value&…`.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        Self::parse_form(query.unwrap_or_default(), QUERY_VALUE_BYTES_MAX)
    }

    /// Reads `name=value&…` as a form has it, with values of at most so many bytes.
    pub(crate) fn parse_form(text: &str, value_bytes_max: usize) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name, QUERY_VALUE_BYTES_MAX)?, decode(value, value_bytes_max)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(invalid(&name, &format!("parameter {name} stands twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Refuses every parameter that is not among `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<&Self, Problem> {
        for (name, _) in &self.0 {
            if known.contains(&name.as_str()) {
                continue;
            }
            let problem = invalid(name, &format!("unknown query parameter {name}"));
            return Err(match nearest(name, known) {
                Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                None if known.is_empty() => problem.with_hint("this path takes no query parameters"),
                None => problem.with_hint(format!("known are {}", known.join(", "))),
            });
        }
        Ok(self)
    }

    /// A text; absent when empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A text that must be there.
    pub(crate) fn needed(&self, name: &str) -> Result<&str, Problem> {
        self.text(name).ok_or_else(|| invalid(name, &format!("the query parameter {name} is needed")))
    }

    /// `true` or `false`; false when absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid(name, &format!("{name} must be true or false"))),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let read = |text: &str| text.parse().map_err(|_| invalid(name, &format!("{name} must be a whole number")));
        self.text(name).map(read).transpose()
    }

    /// A duration such as `30s`.
    pub(crate) fn span(&self, name: &str) -> Result<Option<Duration>, Problem> {
        let read =
            |text: &str| ess_core::duration::parse(text).map_err(|wrong| invalid(name, &format!("{name}: {wrong}")));
        self.text(name).map(read).transpose()
    }

    /// `limit`: how many items a page may have.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        match self.number("limit")? {
            None => Ok(PAGE_ITEMS_DEFAULT),
            Some(number) => u32::try_from(number)
                .ok()
                .filter(|limit| (1..=PAGE_ITEMS_MAX).contains(limit))
                .ok_or_else(|| invalid("limit", &format!("limit must be 1 to {PAGE_ITEMS_MAX}"))),
        }
    }
}

fn invalid(name: &str, detail: &str) -> Problem {
    Problem::new(Code::Invalid, detail).with_field(name)
}

fn decode(text: &str, bytes_max: usize) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                    return Err(Problem::new(Code::Malformed, "the query has a `%` without two hex digits"));
                };
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    if bytes.len() > bytes_max {
        let detail = format!("a query value has more than {bytes_max} bytes");
        return Err(Problem::new(Code::Invalid, detail));
    }
    String::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_bounded() {
        let query = Query::parse(Some("subject=RULE%2DA+B&limit=7&test=true&wait=30s")).unwrap();
        assert_eq!(query.text("subject"), Some("RULE-A B"));
        assert_eq!(query.limit().unwrap(), 7);
        assert!(query.flag("test").unwrap());
        assert_eq!(query.span("wait").unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(Query::parse(None).unwrap().limit().unwrap(), PAGE_ITEMS_DEFAULT);
        for bad in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert_eq!(Query::parse(Some(bad)).unwrap().limit().unwrap_err().field.as_deref(), Some("limit"), "{bad}");
        }
    }

    #[test]
    fn what_is_unknown_twice_or_broken_is_refused() {
        let query = Query::parse(Some("subjekt=A")).unwrap();
        let problem = query.only(&["subject", "after"]).unwrap_err();
        assert_eq!((problem.code, problem.field.as_deref()), (Code::Invalid, Some("subjekt")));
        assert_eq!(problem.hint.as_deref(), Some("did you mean `subject`?"));
        for bad in ["a=1&a=2", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::parse(Some(bad)).is_err(), "{bad}");
        }
        assert!(Query::parse(Some(&format!("a={}", "x".repeat(600)))).is_err());
        assert!(Query::parse(Some("test=yes")).unwrap().flag("test").is_err());
    }
}
