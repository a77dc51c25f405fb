//! The webhook channel: one HTTP/1.1 POST per attempt over connections that belong to this partner alone.
//!
//! Redirects are not followed, content codings are not undone, and at most 64 KiB of an answer are read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::message::Message;
use ess_core::receipt::{Answer, Failure, Receipt, Stage};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::guard::Security;
use crate::limits::REASON_CHARS_MAX;
use crate::oauth::{Client, Tokens};
use crate::pool::Pool;
use crate::progress::Progress;
use crate::retry_after::retry_after;
use crate::target::Target;
use crate::wire::Wire;

/// POSTs to one partner.
pub struct Webhook {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    /// The fields that every request carries.
    headers: HeaderMap,
    tokens: Option<Tokens>,
    pool: Pool,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.target.host)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    pub(crate) fn open(
        url: &str,
        credential: &Credential,
        dialer: &Dialer,
        connections_max: usize,
    ) -> Result<Webhook, ChannelError> {
        let target = Target::parse(url)?;
        let tls = match (credential, target.security) {
            (Credential::Mtls { .. }, Security::Plain) => {
                return Err(ChannelError::Url("a client certificate needs https".to_owned()));
            }
            (Credential::Mtls { cert_pem, key_pem }, Security::Tls) => {
                Some(dialer.tls_with_certificate(cert_pem, key_pem)?)
            }
            (_, Security::Tls) => Some(dialer.tls()),
            (_, Security::Plain) => None,
        };
        let tokens = match credential {
            Credential::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scope,
            } => {
                let client = Client {
                    id: client_id,
                    secret: client_secret,
                    scope: scope.as_deref(),
                };
                Some(Tokens::open(token_url, &client, dialer)?)
            }
            _ => None,
        };
        let headers = fixed_headers(&target, credential, dialer)?;
        Ok(Webhook {
            target,
            dialer: dialer.clone(),
            tls,
            headers,
            tokens,
            pool: Pool::new(connections_max),
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
        self.pool.sweep();
    }

    /// One attempt. A token that the partner does not take is renewed once.
    async fn attempt(&self, message: &Message, progress: &Progress) -> Result<Answer, Failure> {
        let Some(tokens) = &self.tokens else {
            return self.post(message, None, progress).await;
        };
        let authorization = tokens.authorization(progress).await?;
        let answer = self.post(message, Some(&authorization), progress).await?;
        if answer.status != StatusCode::UNAUTHORIZED.as_u16() {
            return Ok(answer);
        }
        tokens.forget(&authorization);
        let renewed = tokens.authorization(progress).await?;
        self.post(message, Some(&renewed), progress).await
    }

    /// One exchange: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn post(
        &self,
        message: &Message,
        authorization: Option<&HeaderValue>,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        if let Some(wire) = self.pool.take() {
            let request = self.request(message, authorization)?;
            match self.exchange(wire, request, progress).await {
                Err(Stop::Stale(_)) => {}
                Err(Stop::Failed(failure)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
        }
        let request = self.request(message, authorization)?;
        let stream = self.dialer.dial(&self.target, self.tls.as_ref(), progress).await?;
        let wire = Wire::open(stream).await.map_err(|broken| Failure {
            stage: Stage::Connect,
            reason: broken.reason,
        })?;
        match self.exchange(wire, request, progress).await {
            Err(Stop::Stale(failure) | Stop::Failed(failure)) => Err(failure),
            Ok(answer) => Ok(answer),
        }
    }

    async fn exchange(
        &self,
        mut wire: Wire,
        request: Request<Full<bytes::Bytes>>,
        progress: &Progress,
    ) -> Result<Answer, Stop> {
        progress.enter(Stage::Await);
        let answer = wire.send(request).await.map_err(|broken| {
            let failure = Failure {
                stage: Stage::Await,
                reason: broken.reason,
            };
            if broken.is_stale {
                Stop::Stale(failure)
            } else {
                Stop::Failed(failure)
            }
        })?;
        let (head, body) = answer.into_parts();
        let is_kept_alive = head.version == Version::HTTP_11 && !says_close(&head.headers);
        progress.enter(Stage::Read);
        let read = wire.read(body).await.map_err(|broken| {
            Stop::Failed(Failure {
                stage: Stage::Read,
                reason: broken.reason,
            })
        })?;
        if read.can_keep && is_kept_alive {
            self.pool.keep(wire);
        }
        let retry_after = retry_after(&head.headers, Timestamp::now);
        Ok(Answer {
            status: head.status.as_u16(),
            body: read.bytes,
            retry_after,
        })
    }

    /// The request: the fixed fields, the message's own above them.
    fn request(
        &self,
        message: &Message,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request<Full<bytes::Bytes>>, Failure> {
        let refuse = |name: &str| Failure {
            stage: Stage::Send,
            reason: format!("the header field {name:?} is not valid"),
        };
        let mut request = Request::new(Full::new(message.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        let content_type = HeaderValue::from_str(&message.content_type).map_err(|_| refuse("content-type"))?;
        headers.insert(CONTENT_TYPE, content_type);
        for (name, value) in &message.headers {
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse(name))?;
            if is_framing(&parsed) {
                continue;
            }
            let value = HeaderValue::from_str(value).map_err(|_| refuse(name))?;
            headers.insert(parsed, value);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// Why an exchange gave no answer.
enum Stop {
    /// Nothing came back at all: worth a fresh connection, if this one was not fresh.
    Stale(Failure),
    /// The attempt has failed.
    Failed(Failure),
}

fn fixed_headers(target: &Target, credential: &Credential, dialer: &Dialer) -> Result<HeaderMap, ChannelError> {
    let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
    headers.insert(HOST, target.authority.clone());
    headers.insert(USER_AGENT, dialer.user_agent().clone());
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let login = match credential {
        Credential::Bearer(token) => format!("Bearer {token}"),
        Credential::Basic { user, password } => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        Credential::OAuth2 { .. } | Credential::None | Credential::Mtls { .. } => return Ok(headers),
    };
    let mut login = HeaderValue::from_str(&login)
        .map_err(|_| ChannelError::Credential("the token or password holds a control character".to_owned()))?;
    login.set_sensitive(true);
    headers.insert(AUTHORIZATION, login);
    Ok(headers)
}

/// Room for the fields of a usual request, so that the map does not grow for each.
const HEADERS_USUAL: usize = 24;

/// Fields that belong to the connection or the framing; what a partner's configuration says of them is not sent.
fn is_framing(name: &HeaderName) -> bool {
    [
        HOST,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        CONNECTION,
        TE,
        TRAILER,
        UPGRADE,
        EXPECT,
        ACCEPT_ENCODING,
    ]
    .contains(name)
        || name == "keep-alive"
}

/// `Connection: close`, alone or in a list.
fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")))
}

/// A reason is one line without control characters, of bounded length.
fn one_line(mut failure: Failure) -> Failure {
    failure.reason = failure
        .reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(REASON_CHARS_MAX)
        .collect();
    failure
}
