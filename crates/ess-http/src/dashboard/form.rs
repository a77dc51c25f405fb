//! Forms as browsers send them: `application/x-www-form-urlencoded`, bounded, each field at most once.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use ess_core::limits::REASON_BYTES_MAX;
use ess_core::problem::{Code, Problem};

use crate::body;
use crate::query::Query;
use crate::site::Site;

/// The fields of a form.
#[derive(Debug)]
pub(crate) struct Form(Query);

impl Form {
    /// Reads a form of at most `bytes_max`.
    pub(crate) async fn read(site: &Site, headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Self, Problem> {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(Problem::new(Code::UnsupportedMediaType, "a form is needed here"));
        }
        let read = body::read(site, body, bytes_max).await?;
        let text =
            std::str::from_utf8(&read.bytes).map_err(|_| Problem::new(Code::Malformed, "the form is not UTF-8"))?;
        Ok(Self(Query::parse_form(text, bytes_max)?))
    }

    /// A field's text; absent when empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.text(name)
    }

    /// A field that must be filled in.
    pub(crate) fn needed(&self, name: &str) -> Result<&str, Problem> {
        let text = self.text(name).map(str::trim).filter(|text| !text.is_empty());
        text.ok_or_else(|| Problem::new(Code::Invalid, format!("the field {name} is empty")).with_field(name))
    }

    /// A box that was ticked.
    pub(crate) fn is_ticked(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// Why it is done, for the audit trail: asked for with every act.
    pub(crate) fn reason(&self) -> Result<String, Problem> {
        let reason = self.text("reason").map(str::trim).unwrap_or_default();
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(Problem::new(Code::Invalid, format!("say why, in 1 to {REASON_BYTES_MAX} bytes"))
                .with_field("reason")
                .with_hint("go back and fill in the reason: it stands in the audit trail"));
        }
        Ok(reason.to_owned())
    }
}

/// A text as part of a query or a path.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
