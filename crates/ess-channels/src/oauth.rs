//! Tokens by OAuth 2.0 client credentials (RFC 6749 section 4.4), fetched through the guarded dialer.
//!
//! A token is kept until shortly before it expires and fetched by one attempt at a time. It never shows in a reason.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ess_core::receipt::{Failure, Stage};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::dialer::Dialer;
use crate::guard::Security;
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, TOKEN_SKEW};
use crate::progress::Progress;
use crate::target::Target;
use crate::wire::Wire;

/// What the hub says at the token URL.
pub(crate) struct Client<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    pub scope: Option<&'a str>,
}

/// Where one channel's tokens come from.
pub(crate) struct Tokens {
    dialer: Dialer,
    target: Target,
    tls: Option<TlsConnector>,
    headers: HeaderMap,
    form: Bytes,
    /// One attempt fetches, the others wait for its token.
    fetching: Semaphore,
    /// Guards the token in use; held for a look or a change only.
    current: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    until: Instant,
}

impl Tokens {
    /// Prepares the request; nothing is dialled yet.
    pub(crate) fn open(url: &str, client: &Client<'_>, dialer: &Dialer) -> Result<Tokens, ChannelError> {
        let target = Target::parse(url)?;
        // Section 2.3.1: id and secret are form-encoded before they are joined.
        let login = STANDARD.encode(format!("{}:{}", form_encoded(client.id), form_encoded(client.secret)));
        let mut login = HeaderValue::from_str(&format!("Basic {login}"))
            .map_err(|_| ChannelError::Credential("the client id or secret is not valid".to_owned()))?;
        login.set_sensitive(true);
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = client.scope {
            form.push_str("&scope=");
            form.push_str(&form_encoded(scope));
        }
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(HOST, target.authority.clone());
        headers.insert(USER_AGENT, dialer.user_agent().clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        headers.insert(AUTHORIZATION, login);
        Ok(Tokens {
            tls: (target.security == Security::Tls).then(|| dialer.tls()),
            dialer: dialer.clone(),
            target,
            headers,
            form: Bytes::from(form),
            fetching: Semaphore::new(1),
            current: Mutex::new(None),
        })
    }

    /// The value of `authorization`, from memory or freshly fetched.
    pub(crate) async fn authorization(&self, progress: &Progress) -> Result<HeaderValue, Failure> {
        if let Some(authorization) = self.valid() {
            return Ok(authorization);
        }
        progress.enter(Stage::Auth);
        let _turn = self
            .fetching
            .acquire()
            .await
            .map_err(|_| refused("the channel is closed"))?;
        if let Some(authorization) = self.valid() {
            return Ok(authorization);
        }
        let token = self.fetch(progress.deadline()).await?;
        let authorization = token.authorization.clone();
        *self.lock() = Some(token);
        Ok(authorization)
    }

    /// Forgets a token that the partner did not take, unless another attempt has renewed it already.
    pub(crate) fn forget(&self, used: &HeaderValue) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|token| token.authorization == *used) {
            *current = None;
        }
    }

    async fn fetch(&self, deadline: Instant) -> Result<Token, Failure> {
        let asked_at = Instant::now();
        // The steps of this exchange are all one step of the attempt.
        let inner = Progress::begin(deadline);
        let stream = self
            .dialer
            .dial(&self.target, self.tls.as_ref(), &inner)
            .await
            .map_err(|failure| refused(&failure.reason))?;
        let mut wire = Wire::open(stream).await.map_err(|broken| refused(&broken.reason))?;
        let mut request = Request::new(Full::new(self.form.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = wire.send(request).await.map_err(|broken| refused(&broken.reason))?;
        let status = answer.status();
        let read = wire
            .read(answer.into_body())
            .await
            .map_err(|broken| refused(&broken.reason))?;
        let json: Option<serde_json::Value> = serde_json::from_slice(&read.bytes).ok();
        if !status.is_success() {
            let code = json
                .as_ref()
                .and_then(|json| error_code(json))
                .map(|code| format!(" ({code})"));
            return Err(refused(&format!(
                "the token url answered {}{}",
                status.as_u16(),
                code.unwrap_or_default()
            )));
        }
        let json = json.ok_or_else(|| refused("the token url's answer is not json"))?;
        parse_token(&json, asked_at)
    }

    fn valid(&self) -> Option<HeaderValue> {
        let current = self.lock();
        let token = current.as_ref().filter(|token| Instant::now() < token.until)?;
        Some(token.authorization.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: &str) -> Failure {
    Failure {
        stage: Stage::Auth,
        reason: format!("could not get a token: {why}"),
    }
}

fn parse_token(json: &serde_json::Value, asked_at: Instant) -> Result<Token, Failure> {
    let text = json["access_token"]
        .as_str()
        .filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
        .ok_or_else(|| refused("the token url's answer holds no access_token"))?;
    let is_bearer = json["token_type"]
        .as_str()
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !is_bearer {
        return Err(refused("the token is not a bearer token"));
    }
    let mut authorization =
        HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| refused("the token holds a control character"))?;
    authorization.set_sensitive(true);
    // Some servers write the number as a text.
    let stated = &json["expires_in"];
    let seconds = stated
        .as_u64()
        .or_else(|| stated.as_str().and_then(|text| text.parse().ok()));
    let lifetime = seconds
        .map_or(TOKEN_LIFETIME_DEFAULT, Duration::from_secs)
        .min(TOKEN_LIFETIME_MAX);
    // A token that lives shorter than the skew serves half its life.
    let used_for = lifetime.saturating_sub(TOKEN_SKEW).max(lifetime / 2);
    Ok(Token {
        authorization,
        until: asked_at + used_for,
    })
}

/// The error code of section 5.2, if it looks like one: what stands there is a stranger's text.
fn error_code(json: &serde_json::Value) -> Option<&str> {
    let code = json["error"].as_str()?;
    let is_word = code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_word.then_some(code)
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_form_encoded() {
        assert_eq!(form_encoded("a b:c/ü*"), "a+b%3Ac%2F%C3%BC*");
    }

    #[test]
    fn a_short_token_serves_half_its_life() {
        let now = Instant::now();
        let json = serde_json::json!({"access_token": "t", "token_type": "Bearer", "expires_in": "20"});
        assert_eq!(parse_token(&json, now).unwrap().until, now + Duration::from_secs(10));
    }

    #[test]
    fn an_endless_token_is_renewed_some_day() {
        let now = Instant::now();
        let json = serde_json::json!({"access_token": "t", "expires_in": u64::MAX});
        assert!(parse_token(&json, now).unwrap().until <= now + TOKEN_LIFETIME_MAX);
    }

    #[test]
    fn an_error_text_that_is_no_code_is_not_repeated() {
        assert_eq!(
            error_code(&serde_json::json!({"error": "invalid_client"})),
            Some("invalid_client")
        );
        assert_eq!(
            error_code(&serde_json::json!({"error": "Secret hunter2 is wrong"})),
            None
        );
    }
}
