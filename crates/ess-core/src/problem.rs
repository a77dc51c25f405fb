//! The one shape of an error that a user sees (RFC 9457).

use std::time::Duration;

/// A refusal: what is wrong and what to do about it. Texts are for strangers: no inner detail.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// What kind; decides status and title.
    pub code: Code,
    /// What is wrong with this request.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
    /// The field of the request that is at fault, as a dotted path.
    pub field: Option<String>,
    /// Line and column in the file or script, from 1.
    pub position: Option<(u32, u32)>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// Problem kinds: a new one only where a client would act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Code {
    /// 400: not JSON, not CloudEvents, not parseable.
    Malformed,
    /// 422: a field is missing, unknown or out of bounds.
    Invalid,
    /// 401: no token, or one that is unknown, expired or revoked.
    Unauthenticated,
    /// 403: the token's role does not allow it.
    Forbidden,
    /// 404: no such thing.
    NotFound,
    /// 405: the path knows other methods.
    MethodNotAllowed,
    /// 409: the id is taken by an event with other content.
    EventConflict,
    /// 409: the change does not fit what is there.
    Conflict,
    /// 410: the event's payload is not there any more.
    PayloadGone,
    /// 413: over the limit.
    TooLarge,
    /// 415: a media type that is not understood.
    UnsupportedMediaType,
    /// 422: the payload does not fit its schema.
    SchemaViolation,
    /// 422: a script fails to parse or fails on its examples.
    ScriptFailed,
    /// 408: the request did not arrive in time.
    RequestTimeout,
    /// 429: over the rate.
    TooManyRequests,
    /// 503: the hub cannot take it now.
    Unavailable,
    /// 500: our fault.
    Internal,
}

impl Code {
    /// The word that a program branches on.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Code::Malformed => "malformed",
            Code::Invalid => "invalid",
            Code::Unauthenticated => "unauthenticated",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::EventConflict => "event_conflict",
            Code::Conflict => "conflict",
            Code::PayloadGone => "payload_gone",
            Code::TooLarge => "too_large",
            Code::UnsupportedMediaType => "unsupported_media_type",
            Code::SchemaViolation => "schema_violation",
            Code::ScriptFailed => "script_failed",
            Code::RequestTimeout => "request_timeout",
            Code::TooManyRequests => "too_many_requests",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// A few words for the kind.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Code::Malformed => "The request can't be read",
            Code::Invalid => "A field is missing, unknown or out of bounds",
            Code::Unauthenticated => "A valid token is needed",
            Code::Forbidden => "The token's role does not allow this",
            Code::NotFound => "There is no such thing",
            Code::MethodNotAllowed => "The path knows other methods",
            Code::EventConflict => "The id is taken by an event with other content",
            Code::Conflict => "The change does not fit what is there",
            Code::PayloadGone => "The event's payload is gone",
            Code::TooLarge => "Over the size limit",
            Code::UnsupportedMediaType => "The media type is not understood",
            Code::SchemaViolation => "The payload does not fit its schema",
            Code::ScriptFailed => "The script fails",
            Code::RequestTimeout => "The request did not arrive in time",
            Code::TooManyRequests => "Over the rate limit",
            Code::Unavailable => "The hub can't take it now",
            Code::Internal => "The hub failed",
        }
    }

    /// Every code, for the documentation and its test.
    pub const ALL: [Code; 17] = [
        Code::Malformed,
        Code::Invalid,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::EventConflict,
        Code::Conflict,
        Code::PayloadGone,
        Code::TooLarge,
        Code::UnsupportedMediaType,
        Code::SchemaViolation,
        Code::ScriptFailed,
        Code::RequestTimeout,
        Code::TooManyRequests,
        Code::Unavailable,
        Code::Internal,
    ];

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Code::Malformed => 400,
            Code::Unauthenticated => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::RequestTimeout => 408,
            Code::EventConflict | Code::Conflict => 409,
            Code::PayloadGone => 410,
            Code::TooLarge => 413,
            Code::UnsupportedMediaType => 415,
            Code::Invalid | Code::SchemaViolation | Code::ScriptFailed => 422,
            Code::TooManyRequests => 429,
            Code::Internal => 500,
            Code::Unavailable => 503,
        }
    }
}

impl Problem {
    /// A problem of `code` with its detail; the other members are added with the `with_` methods.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, field: None, position: None, retry_after: None }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names line and column, from 1.
    #[must_use]
    pub fn with_position(mut self, line: u32, column: u32) -> Self {
        self.position = Some((line, column));
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
