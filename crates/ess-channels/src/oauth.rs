//! Tokens by OAuth 2.0 client credentials (RFC 6749 section 4.4), fetched through the guarded dialer.
//!
//! A token is kept until shortly before it expires and fetched by one attempt at a time. It never shows in a reason.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::receipt::{Failure, Stage};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::dialer::Dialer;
use crate::http1::{is_field, push_field};
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, TOKEN_SKEW};
use crate::progress::Progress;
use crate::target::{HTTP, Security, Target};
use crate::wire::{Outgoing, Wire};

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
    /// The request, the same each time.
    head: Zeroizing<Vec<u8>>,
    form: String,
    /// One attempt fetches, the others wait for its token.
    fetching: Semaphore,
    /// Guards the token in use; held for a look or a change only.
    current: Mutex<Option<Token>>,
}

struct Token {
    authorization: Arc<Zeroizing<String>>,
    until: Instant,
}

impl Tokens {
    /// Prepares the request; nothing is dialled yet.
    pub(crate) fn open(url: &str, client: &Client<'_>, dialer: &Dialer) -> Result<Tokens, ChannelError> {
        let target = Target::parse(url, &HTTP)?;
        // Section 2.3.1: id and secret are form-encoded before they are joined.
        let login = Zeroizing::new(format!("{}:{}", form_encoded(client.id), form_encoded(client.secret)));
        let login = Zeroizing::new(format!("Basic {}", STANDARD.encode(login.as_bytes())));
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = client.scope {
            form.push_str("&scope=");
            form.push_str(&form_encoded(scope));
        }
        let mut head = Zeroizing::new(Vec::with_capacity(1024));
        head.extend_from_slice(format!("POST {} HTTP/1.1\r\n", target.path).as_bytes());
        push_field(&mut head, "host", target.authority.as_bytes());
        push_field(&mut head, "user-agent", dialer.user_agent().as_bytes());
        push_field(&mut head, "accept", b"application/json");
        push_field(&mut head, "accept-encoding", b"identity");
        push_field(&mut head, "connection", b"close");
        push_field(&mut head, "content-type", b"application/x-www-form-urlencoded");
        push_field(&mut head, "authorization", login.as_bytes());
        push_field(&mut head, "content-length", form.len().to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        Ok(Tokens {
            tls: (target.security == Security::Tls).then(|| dialer.tls(crate::webhook::ALPN)),
            dialer: dialer.clone(),
            target,
            head,
            form,
            fetching: Semaphore::new(1),
            current: Mutex::new(None),
        })
    }

    /// The value of `authorization`, from memory or freshly fetched.
    pub(crate) async fn authorization(&self, progress: &Progress) -> Result<Arc<Zeroizing<String>>, Failure> {
        if let Some(authorization) = self.valid() {
            return Ok(authorization);
        }
        progress.enter(Stage::Auth);
        let _turn = self.fetching.acquire().await.map_err(|_| refused("the channel is closed"))?;
        if let Some(authorization) = self.valid() {
            return Ok(authorization);
        }
        let token = self.fetch(progress.deadline()).await?;
        let authorization = Arc::clone(&token.authorization);
        *self.lock() = Some(token);
        Ok(authorization)
    }

    /// Forgets a token that the partner did not take, unless another attempt has renewed it already.
    pub(crate) fn forget(&self, used: &Arc<Zeroizing<String>>) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|token| Arc::ptr_eq(&token.authorization, used)) {
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
        let request = Outgoing { head: &self.head, body: self.form.as_bytes() };
        let reply =
            Wire::open(stream).exchange(request, &inner).await.map_err(|broken| refused(&broken.failure.reason))?;
        let json: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
        if !(200..300).contains(&reply.status) {
            let code = json.as_ref().and_then(error_code).map(|code| format!(" ({code})"));
            return Err(refused(&format!("the token url answered {}{}", reply.status, code.unwrap_or_default())));
        }
        let json = json.ok_or_else(|| refused("the token url's answer is not json"))?;
        parse_token(&json, asked_at)
    }

    fn valid(&self) -> Option<Arc<Zeroizing<String>>> {
        let current = self.lock();
        let token = current.as_ref().filter(|token| Instant::now() < token.until)?;
        Some(Arc::clone(&token.authorization))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: &str) -> Failure {
    Failure { stage: Stage::Auth, reason: format!("could not get a token: {why}") }
}

fn parse_token(json: &serde_json::Value, asked_at: Instant) -> Result<Token, Failure> {
    let text = json["access_token"]
        .as_str()
        .filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
        .ok_or_else(|| refused("the token url's answer holds no access_token"))?;
    let is_bearer = json["token_type"].as_str().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !is_bearer {
        return Err(refused("the token is not a bearer token"));
    }
    let authorization = Zeroizing::new(format!("Bearer {text}"));
    if !is_field("authorization", &authorization) {
        return Err(refused("the token holds a control character"));
    }
    // Some servers write the number as a text.
    let stated = &json["expires_in"];
    let seconds = stated.as_u64().or_else(|| stated.as_str().and_then(|text| text.parse().ok()));
    let lifetime = seconds.map_or(TOKEN_LIFETIME_DEFAULT, Duration::from_secs).min(TOKEN_LIFETIME_MAX);
    // A token that lives shorter than the skew serves half its life.
    let used_for = lifetime.saturating_sub(TOKEN_SKEW).max(lifetime / 2);
    Ok(Token { authorization: Arc::new(authorization), until: asked_at + used_for })
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
        assert_eq!(error_code(&serde_json::json!({"error": "invalid_client"})), Some("invalid_client"));
        assert_eq!(error_code(&serde_json::json!({"error": "Secret hunter2 is wrong"})), None);
    }
}
