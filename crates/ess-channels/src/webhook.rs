//! The webhook channel: one HTTP/1.1 POST per attempt over connections that belong to this partner alone.
//!
//! Redirects are not followed, content codings are not undone, and at most 64 KiB of an answer are read.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::message::Message;
use ess_core::receipt::{Answer, Failure, Receipt, Stage};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::guard::Security;
use crate::limits::{IDLE_MAX, REASON_CHARS_MAX};
use crate::progress::Progress;
use crate::retry_after::retry_after;
use crate::target::Target;
use crate::wire::{Broken, Wire};

/// POSTs to one partner.
pub struct Webhook {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    /// The fields that every request carries.
    headers: HeaderMap,
    idle_max: usize,
    /// Idle connections, the last used on top; locked for a push or a pop only.
    idle: Mutex<Vec<Wire>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Webhook {
    pub(crate) fn open(
        url: &str,
        credential: Credential,
        dialer: &Dialer,
        connections_max: usize,
    ) -> Result<Webhook, ChannelError> {
        let target = Target::parse(url)?;
        let tls = match (&credential, target.security) {
            (Credential::Mtls { .. }, Security::Plain) => {
                return Err(ChannelError::Url("a client certificate needs https".to_owned()));
            }
            (Credential::Mtls { cert_pem, key_pem }, Security::Tls) => {
                Some(dialer.tls_with_certificate(cert_pem, key_pem)?)
            }
            (_, Security::Tls) => Some(dialer.tls()),
            (_, Security::Plain) => None,
        };
        let headers = fixed_headers(&target, &credential, dialer)?;
        Ok(Webhook {
            target,
            dialer: dialer.clone(),
            tls,
            headers,
            idle_max: connections_max,
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        let outcome = match timeout_at(deadline, self.attempt(message, &progress)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(progress.timed_out()),
        };
        match outcome {
            Ok(answer) => Receipt::Answer(answer),
            Err(failure) => Receipt::Failed(one_line(failure)),
        }
    }

    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let old: Vec<Wire> = {
            let mut idle = self.lock();
            // The longest idle lie at the bottom.
            let keep_from = idle.partition_point(|wire| now.saturating_duration_since(wire.used_at) > IDLE_MAX);
            idle.drain(..keep_from).collect()
        };
        drop(old);
    }

    /// One attempt: on a kept connection if there is one, and once more on a fresh one if the kept one was stale.
    async fn attempt(&self, message: &Message, progress: &Progress) -> Result<Answer, Failure> {
        let headers = self.headers_of(message)?;
        if let Some(mut wire) = self.take_idle() {
            match self.exchange(&mut wire, headers.clone(), message, progress).await {
                Err(Stop::Stale) => {}
                Err(Stop::Failed(failure)) => return Err(failure),
                Ok((answer, can_keep)) => {
                    if can_keep {
                        self.keep(wire);
                    }
                    return Ok(answer);
                }
            }
        }
        let stream = self.dialer.dial(&self.target, self.tls.as_ref(), progress).await?;
        let mut wire =
            Wire::open(stream).await.map_err(|broken| Failure { stage: Stage::Connect, reason: broken.reason })?;
        match self.exchange(&mut wire, headers, message, progress).await {
            Err(Stop::Stale) => {
                Err(Failure { stage: Stage::Await, reason: "connection closed before an answer".to_owned() })
            }
            Err(Stop::Failed(failure)) => Err(failure),
            Ok((answer, can_keep)) => {
                if can_keep {
                    self.keep(wire);
                }
                Ok(answer)
            }
        }
    }

    async fn exchange(
        &self,
        wire: &mut Wire,
        headers: HeaderMap,
        message: &Message,
        progress: &Progress,
    ) -> Result<(Answer, bool), Stop> {
        let mut request = Request::new(Full::new(message.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = headers;
        progress.enter(Stage::Await);
        let answer = wire.send(request).await.map_err(|broken| Stop::from_broken(broken, Stage::Await))?;
        let (head, body) = answer.into_parts();
        progress.enter(Stage::Read);
        let (body, is_whole) = wire
            .read(body)
            .await
            .map_err(|broken| Stop::Failed(Failure { stage: Stage::Read, reason: broken.reason }))?;
        let retry_after = retry_after(&head.headers, Timestamp::now());
        Ok((Answer { status: head.status.as_u16(), body, retry_after }, is_whole))
    }

    /// The request's fields: the fixed ones, the message's own above them.
    fn headers_of(&self, message: &Message) -> Result<HeaderMap, Failure> {
        let refuse =
            |name: &str| Failure { stage: Stage::Send, reason: format!("the header field {name:?} is not valid") };
        let mut headers = self.headers.clone();
        let content_type = HeaderValue::from_str(&message.content_type).map_err(|_| refuse("content-type"))?;
        headers.insert(CONTENT_TYPE, content_type);
        for (name, value) in &message.headers {
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse(name))?;
            if is_ours(&parsed) {
                continue;
            }
            let value = HeaderValue::from_str(value).map_err(|_| refuse(name))?;
            headers.insert(parsed, value);
        }
        Ok(headers)
    }

    fn take_idle(&self) -> Option<Wire> {
        loop {
            let mut wire = self.lock().pop()?;
            if wire.is_open() {
                return Some(wire);
            }
        }
    }

    fn keep(&self, mut wire: Wire) {
        wire.rest();
        let mut idle = self.lock();
        if idle.len() < self.idle_max {
            idle.push(wire);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an exchange gave no answer.
enum Stop {
    /// Nothing came back at all: worth a fresh connection.
    Stale,
    /// The attempt has failed.
    Failed(Failure),
}

impl Stop {
    fn from_broken(broken: Broken, stage: Stage) -> Stop {
        if broken.is_stale { Stop::Stale } else { Stop::Failed(Failure { stage, reason: broken.reason }) }
    }
}

fn fixed_headers(target: &Target, credential: &Credential, dialer: &Dialer) -> Result<HeaderMap, ChannelError> {
    let mut headers = HeaderMap::with_capacity(24);
    headers.insert(HOST, target.authority.clone());
    let agent = HeaderValue::from_str(dialer.user_agent())
        .map_err(|_| ChannelError::Option("the user agent is not a header value".to_owned()))?;
    headers.insert(USER_AGENT, agent);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let login = match credential {
        Credential::Bearer(token) => format!("Bearer {token}"),
        Credential::Basic { user, password } => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        Credential::OAuth2 { .. } => return Err(ChannelError::Credential("oauth2 is not supported".to_owned())),
        Credential::None | Credential::Mtls { .. } => return Ok(headers),
    };
    let mut login = HeaderValue::from_str(&login)
        .map_err(|_| ChannelError::Credential("the token or password holds a control character".to_owned()))?;
    login.set_sensitive(true);
    headers.insert(AUTHORIZATION, login);
    Ok(headers)
}

/// Fields that belong to the connection or the framing; a partner's own headers never replace them.
fn is_ours(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, TE, UPGRADE, ACCEPT_ENCODING].contains(name)
        || name == "expect"
        || name == "keep-alive"
}

/// A reason is one line without control characters, of bounded length.
fn one_line(mut failure: Failure) -> Failure {
    failure.reason =
        failure.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect();
    failure
}
