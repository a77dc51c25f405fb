//! Who asks, and whether they may. Never logs or answers a token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ess_core::access::{Act, Principal, Role};
use ess_core::id::Subject;
use ess_core::limits::REASON_BYTES_MAX;
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};

use crate::refusal::Refusal;
use crate::site::Site;

/// A token is far shorter; what is longer is not looked at.
const TOKEN_BYTES_MAX: usize = 256;

/// From where a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Who asks: the bearer of a valid token. A handler that takes one refuses everybody else.
#[derive(Debug)]
pub(crate) struct Caller(pub(crate) Principal);

impl FromRequestParts<Arc<Site>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        Ok(Self::identify(site, &parts.headers, peer)?)
    }
}

impl Caller {
    /// Finds the bearer of the request's token.
    pub(crate) fn identify(site: &Site, headers: &HeaderMap, peer: IpAddr) -> Result<Self, Problem> {
        let token = bearer_token(headers)?;
        if let Some(principal) = site.hub.authenticate(token) {
            return Ok(Self(principal));
        }
        site.count_refused_token(peer)?;
        Err(unauthenticated("the token is not known, has expired or was revoked")
            .with_hint("ask an admin for a new one: `hms-ess token create --role ROLE`"))
    }

    /// Refuses what the role does not allow.
    pub(crate) fn permit(&self, act: &Act<'_>) -> Result<(), Problem> {
        if self.0.role.permits(act) {
            return Ok(());
        }
        let role = self.0.role.word();
        let (what, who) = match act {
            Act::Publish(subject) => return Err(self.forbid_publish(subject)),
            Act::ReadEvents => ("read events", "publisher"),
            Act::ReadPartner(partner) => return Err(forbidden(format!("this {role} token may not read partner {partner}"))
                .with_hint(format!("use that partner's own token, or one of role auditor: `hms-ess token create --role partner --partner {partner}`"))),
            Act::Acknowledge(partner) => return Err(forbidden(format!("this {role} token may not acknowledge for partner {partner}"))
                .with_hint(format!("use that partner's own token: `hms-ess token create --role partner --partner {partner}`"))),
            Act::Tend(partner) => return Err(forbidden(format!("this {role} token may not do this for partner {partner}"))
                .with_hint(format!("use that partner's own token, or one of role operator: `hms-ess token create --role partner --partner {partner}`"))),
            Act::Read => ("read this", "auditor"),
            Act::Operate => ("change this", "operator"),
            Act::Tokens => ("handle tokens", "admin"),
            Act::Redact => ("redact payloads or lift legal holds", "admin"),
        };
        Err(forbidden(format!("a token of role {role} may not {what}"))
            .with_hint(format!("use one of role {who}: `hms-ess token create --role {who}`")))
    }

    /// Refuses a publisher that is limited to other subjects; everybody else who may read events sees all of them.
    pub(crate) fn permit_event(&self, subject: &Subject) -> Result<(), Problem> {
        if self.may_see(subject) {
            return Ok(());
        }
        Err(forbidden(format!("this token is limited to other subjects than {subject}"))
            .with_hint("use a token without `--subject`, or one whose subjects cover it"))
    }

    /// Whether events of this subject are for the caller's eyes.
    pub(crate) fn may_see(&self, subject: &Subject) -> bool {
        !self.is_limited() || self.0.role.permits(&Act::Publish(subject))
    }

    /// Whether the caller is limited to some subjects.
    pub(crate) fn is_limited(&self) -> bool {
        matches!(&self.0.role, Role::Publisher { subjects } if !subjects.is_empty())
    }

    /// The subjects that the caller is limited to; empty when it is not.
    pub(crate) fn subjects(&self) -> Vec<Glob> {
        match &self.0.role {
            Role::Publisher { subjects } => subjects.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether the caller can publish anything at all: asked before a body is read.
    pub(crate) fn permit_publishing(&self) -> Result<(), Problem> {
        match &self.0.role {
            Role::Publisher { .. } | Role::Operator | Role::Admin => Ok(()),
            Role::Partner(_) | Role::Auditor => {
                let detail = format!("a token of role {} may not publish", self.0.role.word());
                Err(forbidden(detail).with_hint("use one of role publisher: `hms-ess token create --role publisher`"))
            }
        }
    }

    fn forbid_publish(&self, subject: &Subject) -> Problem {
        let detail = format!("this {} token may not publish events of subject {subject}", self.0.role.word());
        forbidden(detail)
            .with_field("subject")
            .with_hint(format!("use a token that may: `hms-ess token create --role publisher --subject {subject}`"))
    }
}

/// Why an operator does it: the `X-HMS-Reason` header, for the audit trail.
#[derive(Debug)]
pub(crate) struct Reason(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for Reason {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get("x-hms-reason") else { return Ok(Self(None)) };
        let wrong = |detail: &str| Refusal(Problem::new(Code::Invalid, detail).with_field("x-hms-reason"));
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| wrong("the reason is not UTF-8"))?.trim();
        if text.len() > REASON_BYTES_MAX {
            return Err(wrong(&format!("a reason has at most {REASON_BYTES_MAX} bytes")));
        }
        Ok(Self((!text.is_empty()).then(|| text.to_owned())))
    }
}

/// A reason that must be given: in the body or in the header.
pub(crate) fn need_reason(reason: Option<String>, Reason(told): Reason) -> Result<String, Problem> {
    let reason = reason.or(told).unwrap_or_default().trim().to_owned();
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        let detail = format!("say why, in 1 to {REASON_BYTES_MAX} bytes: `reason`, or the header X-HMS-Reason");
        return Err(Problem::new(Code::Invalid, detail).with_field("reason"));
    }
    Ok(reason)
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(unauthenticated("this needs a token").with_hint(
            "send `Authorization: Bearer TOKEN`; an admin makes one with `hms-ess token create --role ROLE`",
        ));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX).ok_or_else(|| {
        unauthenticated("the Authorization header holds no bearer token")
            .with_hint("send `Authorization: Bearer TOKEN`")
    })
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Forbidden, detail)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn caller(role: Role) -> Caller {
        Caller(Principal { token_id: "tok_1".to_owned(), role, expires_at: None })
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer_token(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer hms_x").unwrap(), "hms_x");
        assert_eq!(read("bearer  hms_x").unwrap(), "hms_x");
        for bad in ["hms_x", "Basic aGk=", "Bearer ", "Bearer"] {
            assert_eq!(read(bad).unwrap_err().code, Code::Unauthenticated, "{bad}");
        }
        assert_eq!(bearer_token(&HeaderMap::new()).unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn a_limited_publisher_sees_and_publishes_its_subjects_only() {
        let caller = caller(Role::Publisher { subjects: vec![Glob::trusted("RULE-COURT-*")] });
        let (own, other) = (Subject::trusted("RULE-COURT-DEADLINE"), Subject::trusted("TAX-RATE"));
        assert!(caller.may_see(&own) && !caller.may_see(&other));
        assert!(caller.permit(&Act::Publish(&own)).is_ok());
        assert_eq!(caller.permit(&Act::Publish(&other)).unwrap_err().field.as_deref(), Some("subject"));
        assert_eq!(caller.permit_event(&other).unwrap_err().code, Code::Forbidden);
        assert!(caller.permit(&Act::Operate).is_err());
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let partner = ess_core::id::PartnerId::trusted("COURT-CAL");
        let subject = Subject::trusted("A");
        let acts = [
            Act::Publish(&subject),
            Act::ReadEvents,
            Act::ReadPartner(&partner),
            Act::Acknowledge(&partner),
            Act::Tend(&partner),
            Act::Read,
            Act::Operate,
            Act::Tokens,
            Act::Redact,
        ];
        let stranger = caller(Role::Partner(ess_core::id::PartnerId::trusted("OTHER")));
        for act in acts {
            let problem = stranger.permit(&act).unwrap_err();
            assert!(problem.code == Code::Forbidden && problem.hint.is_some(), "{act:?}");
        }
    }
}
