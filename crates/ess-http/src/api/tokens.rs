//! Tokens: make, list, revoke. The text of a token is answered once and never again.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::{Act, Role};
use ess_core::id::PartnerId;
use ess_core::limits::GLOBS_MAX;
use ess_core::nearest::nearest;
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::view::TokenView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, answer, ok, read_json};
use crate::caller::{Caller, Reason};
use crate::document;
use crate::limits::{NOTE_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use crate::query::Query;
use crate::site::Site;

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// `publisher`, `partner`, `operator`, `auditor` or `admin`.
    #[schema(example = "publisher")]
    role: String,
    /// For a publisher: globs over the subjects that it may publish; all when absent.
    subjects: Option<Vec<String>>,
    /// For a partner: which one.
    partner: Option<String>,
    /// What it is for.
    note: Option<String>,
    /// Such as `90d`; never when absent.
    #[schema(example = "90d")]
    expires_in: Option<String>,
}

/// A token without its text.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    /// Its public name; stands in the audit trail.
    #[schema(example = "tok_3f9a0c12")]
    id: String,
    role: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subjects: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partner: Option<String>,
    note: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
}

/// A new token with its text.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeToken {
    /// The text to send as `Authorization: Bearer …`; shown this once.
    #[schema(example = "hms_publisher_0f1e2d3c")]
    token: String,
    #[serde(flatten)]
    view: Token,
}

impl Token {
    fn of(view: TokenView) -> Self {
        let (subjects, partner) = match &view.role {
            Role::Publisher { subjects } => (subjects.iter().map(|glob| glob.as_str().to_owned()).collect(), None),
            Role::Partner(partner) => (Vec::new(), Some(partner.to_string())),
            Role::Operator | Role::Auditor | Role::Admin => (Vec::new(), None),
        };
        Self {
            id: view.id,
            role: view.role.word(),
            subjects,
            partner,
            note: view.note,
            created_at: view.created_at.to_string(),
            expires_at: view.expires_at.map(|time| time.to_string()),
            revoked_at: view.revoked_at.map(|time| time.to_string()),
        }
    }
}

impl NewToken {
    /// The role, the note, and when it ends if it is made `now`.
    fn parse(self, now: Time) -> Result<(Role, String, Option<Time>), Problem> {
        let role = self.parse_role()?;
        let note = self.note.unwrap_or_default();
        if note.len() > NOTE_BYTES_MAX || note.chars().any(char::is_control) {
            return Err(invalid("note", &format!("a note has at most {NOTE_BYTES_MAX} visible bytes")));
        }
        let span = self.expires_in.as_deref().map(ess_core::duration::parse).transpose();
        let span = span.map_err(|wrong| invalid("expires_in", &wrong))?;
        if span.is_some_and(|span| span.is_zero()) {
            return Err(invalid("expires_in", "a token must live for a while, such as 90d"));
        }
        Ok((role, note, span.map(|span| now.after(span))))
    }

    fn parse_role(&self) -> Result<Role, Problem> {
        const ROLES: [&str; 5] = ["publisher", "partner", "operator", "auditor", "admin"];
        let role = match self.role.as_str() {
            "publisher" => Role::Publisher { subjects: self.parse_subjects()? },
            "partner" => {
                let need = || invalid("partner", "a partner's token needs the partner's id");
                let id = self.partner.as_deref().ok_or_else(need)?;
                Role::Partner(PartnerId::parse(id).map_err(|problem| problem.with_field("partner"))?)
            }
            "operator" => Role::Operator,
            "auditor" => Role::Auditor,
            "admin" => Role::Admin,
            other => {
                let problem = invalid("role", &format!("role must be one of {}", ROLES.join(", ")));
                return Err(match nearest(other, &ROLES) {
                    Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                    None => problem,
                });
            }
        };
        // A limit that is silently without effect would be a trap.
        if self.subjects.is_some() && !matches!(role, Role::Publisher { .. }) {
            return Err(invalid("subjects", "only a publisher's token is limited to subjects"));
        }
        if self.partner.is_some() && !matches!(role, Role::Partner(_)) {
            return Err(invalid("partner", "only a partner's token names a partner"));
        }
        Ok(role)
    }

    fn parse_subjects(&self) -> Result<Vec<Glob>, Problem> {
        let Some(subjects) = &self.subjects else { return Ok(Vec::new()) };
        // An empty list would mean no limit: not what was meant.
        if subjects.is_empty() || subjects.len() > GLOBS_MAX {
            return Err(invalid(
                "subjects",
                &format!("subjects must be 1 to {GLOBS_MAX} globs; leave them out for all"),
            ));
        }
        subjects.iter().map(|glob| Glob::parse(glob).map_err(|wrong| invalid("subjects", &wrong))).collect()
    }
}

fn invalid(field: &str, detail: &str) -> Problem {
    Problem::new(Code::Invalid, detail).with_field(field)
}

/// Make a token
///
/// Its text is in the answer, this once; the hub keeps a hash.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "Tokens",
    operation_id = "create_token",
    params(("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail.")),
    request_body(content = NewToken, example = json!({"role": "publisher", "subjects": ["RULE-COURT-*"], "note": "HMS-GOV", "expires_in": "90d"})),
    responses((status = 201, description = "The token.", body = MadeToken, example = json!({"token": "hms_publisher_0f1e2d3c…", "id": "tok_3f9a0c12", "role": "publisher", "subjects": ["RULE-COURT-*"], "note": "HMS-GOV", "created_at": "2026-11-23T15:00:00Z", "expires_at": "2027-02-21T15:00:00Z"}))),
)]
pub(crate) async fn create_token(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Tokens)?;
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let now = Time::from_micros(jiff::Timestamp::now().as_microsecond());
    let (role, note, expires_at) = document::read::<NewToken>(&body.bytes)?.parse(now)?;
    let (token, view) = site.hub.create_token(role, note, expires_at, reason, &caller.0).await?;
    answer(StatusCode::CREATED, MadeToken { token, view: Token::of(view) })
}

/// List the tokens
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "Tokens",
    operation_id = "list_tokens",
    responses((status = 200, description = "All tokens, oldest first, without their texts.", body = List<Token>)),
)]
pub(crate) async fn list_tokens(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Tokens)?;
    query.only(&[])?;
    ok(List::whole(site.hub.tokens().await?.into_iter().map(Token::of).collect()))
}

/// Revoke a token
///
/// At once: its next request is refused.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "Tokens",
    operation_id = "revoke_token",
    params(
        ("id" = String, Path, description = "The token's public name.", example = "tok_3f9a0c12"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    responses((status = 204, description = "Revoked.")),
)]
pub(crate) async fn revoke_token(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Named(id): Named,
    query: Query,
    Reason(reason): Reason,
) -> Answer {
    caller.permit(&Act::Tokens)?;
    query.only(&[])?;
    site.hub.revoke_token(&id, reason, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<(Role, String, Option<Time>), Problem> {
        document::read::<NewToken>(body.as_bytes())?.parse(Time::from_micros(0))
    }

    #[test]
    fn each_role_takes_its_own_limits_only() {
        assert_eq!(parse(r#"{"role": "auditor"}"#).unwrap(), (Role::Auditor, String::new(), None));
        let (role, note, end) =
            parse(r#"{"role": "publisher", "subjects": ["A-*"], "note": "n", "expires_in": "1s"}"#).unwrap();
        assert_eq!(role, Role::Publisher { subjects: vec![Glob::trusted("A-*")] });
        assert_eq!((note.as_str(), end), ("n", Some(Time::from_micros(1_000_000))));
        for (body, field) in [
            (r#"{"role": "root"}"#, "role"),
            (r#"{"role": "partner"}"#, "partner"),
            (r#"{"role": "partner", "partner": "a b"}"#, "partner"),
            (r#"{"role": "admin", "partner": "A"}"#, "partner"),
            (r#"{"role": "operator", "subjects": ["*"]}"#, "subjects"),
            (r#"{"role": "publisher", "subjects": []}"#, "subjects"),
            (r#"{"role": "admin", "expires_in": "0s"}"#, "expires_in"),
            (r#"{"role": "admin", "expires_in": "soon"}"#, "expires_in"),
            (r#"{"role": "admin", "expires": "1d"}"#, "expires"),
        ] {
            assert_eq!(parse(body).unwrap_err().field.as_deref(), Some(field), "{body}");
        }
    }
}
