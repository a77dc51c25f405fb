//! The webhook channel: one HTTP/1.1 POST per attempt over connections that belong to this partner alone.
//!
//! Redirects are not followed, content codings are not undone, and at most 64 KiB of an answer are read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::message::Message;
use ess_core::receipt::{Answer, Failure, Receipt, Stage};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::http1::{is_field, push_field};
use crate::oauth::{Client, Tokens};
use crate::pool::Pool;
use crate::progress::{Progress, one_line};
use crate::target::{HTTP, Security, Target};
use crate::wire::{Broken, Outgoing, Wire};

/// What the hub speaks over TLS.
pub(crate) const ALPN: &[&[u8]] = &[b"http/1.1"];

/// POSTs to one partner.
pub struct Webhook {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    /// How every request begins: request line, host, coding.
    beginning: Vec<u8>,
    /// Value of `authorization`, where it is always the same.
    authorization: Option<Zeroizing<String>>,
    tokens: Option<Tokens>,
    pool: Pool<Wire>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Sets it up; nothing is dialled yet. At most `connections_max` idle connections are kept.
    ///
    /// # Errors
    /// The address or the login can't be used.
    pub fn open(
        url: &str,
        credential: &Credential,
        dialer: &Dialer,
        connections_max: usize,
    ) -> Result<Webhook, ChannelError> {
        let target = Target::parse(url, &HTTP)?;
        let tls = match (credential, target.security) {
            (Credential::Mtls { .. }, Security::Plain) => {
                return Err(ChannelError::Url("a client certificate needs https".to_owned()));
            }
            (Credential::Mtls { cert_pem, key_pem }, _) => Some(dialer.tls_with_certificate(cert_pem, key_pem, ALPN)?),
            (_, Security::Plain) => None,
            _ => Some(dialer.tls(ALPN)),
        };
        let tokens = match credential {
            Credential::OAuth2 { token_url, client_id, client_secret, scope } => {
                let client = Client { id: client_id, secret: client_secret, scope: scope.as_deref() };
                Some(Tokens::open(token_url, &client, dialer)?)
            }
            _ => None,
        };
        Ok(Webhook {
            beginning: beginning(&target),
            authorization: authorization(credential)?,
            target,
            dialer: dialer.clone(),
            tls,
            tokens,
            pool: Pool::new(connections_max, Wire::is_open),
        })
    }

    /// Sends the message once and reports what came back, by `deadline` at the latest.
    pub async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
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
            let fixed = self.authorization.as_ref().map(|value| value.as_str());
            return self.post(message, fixed, progress).await;
        };
        Box::pin(self.attempt_by_token(tokens, message, progress)).await
    }

    async fn attempt_by_token(
        &self,
        tokens: &Tokens,
        message: &Message,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let token = tokens.authorization(progress).await?;
        let answer = self.post(message, Some(&token), progress).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        tokens.forget(&token);
        let renewed = tokens.authorization(progress).await?;
        self.post(message, Some(&renewed), progress).await
    }

    /// One exchange: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn post(
        &self,
        message: &Message,
        authorization: Option<&str>,
        progress: &Progress,
    ) -> Result<Answer, Failure> {
        let head = self.head(message, authorization)?;
        let request = Outgoing { head: &head, body: &message.body };
        if let Some(wire) = self.pool.take() {
            match self.exchange(wire, request, progress).await {
                Err(broken) if broken.is_stale => {}
                outcome => return outcome.map_err(|broken| broken.failure),
            }
        }
        // Dialling is rare and large, so it takes no room in the attempts that find a kept connection.
        let stream = Box::pin(self.dialer.dial(&self.target, self.tls.as_ref(), progress)).await?;
        self.exchange(Wire::open(stream), request, progress).await.map_err(|broken| broken.failure)
    }

    async fn exchange(&self, mut wire: Wire, request: Outgoing<'_>, progress: &Progress) -> Result<Answer, Broken> {
        let reply = wire.exchange(request, progress).await?;
        if reply.can_keep {
            self.pool.keep(wire);
        }
        Ok(Answer { status: reply.status, body: reply.body, retry_after: reply.retry_after })
    }

    /// The request's head: the fixed beginning, the message's fields, and ours where the message has none.
    fn head(&self, message: &Message, authorization: Option<&str>) -> Result<Vec<u8>, Failure> {
        let refuse =
            |name: &str| Failure { stage: Stage::Send, reason: format!("the header field {name:?} is not valid") };
        let mut head = Vec::with_capacity(HEAD_BYTES_USUAL);
        head.extend_from_slice(&self.beginning);
        let (mut has_agent, mut has_type) = (false, false);
        for (name, value) in &message.headers {
            if !is_field(name, value) {
                return Err(refuse(name));
            }
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if FRAMING.iter().any(|field| is(field)) || (authorization.is_some() && is("authorization")) {
                continue;
            }
            has_agent |= is("user-agent");
            has_type |= is("content-type");
            push_field(&mut head, name, value.as_bytes());
        }
        if !has_agent {
            push_field(&mut head, "user-agent", self.dialer.user_agent().as_bytes());
        }
        if !has_type {
            if !is_field("content-type", &message.content_type) {
                return Err(refuse("content-type"));
            }
            push_field(&mut head, "content-type", message.content_type.as_bytes());
        }
        if let Some(authorization) = authorization {
            push_field(&mut head, "authorization", authorization.as_bytes());
        }
        push_field(&mut head, "content-length", message.body.len().to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

/// Room for the head of a usual message, so that it does not grow while it is written. glibc keeps blocks of up to 1,032 bytes at
/// hand for the thread that gave them back.
const HEAD_BYTES_USUAL: usize = 1024;

/// Fields that belong to the connection or the framing; what a partner's configuration says of them is not sent.
const FRAMING: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
    "keep-alive",
    "proxy-connection",
];

fn beginning(target: &Target) -> Vec<u8> {
    let mut beginning = format!("POST {} HTTP/1.1\r\n", target.path).into_bytes();
    push_field(&mut beginning, "host", target.authority.as_bytes());
    push_field(&mut beginning, "accept-encoding", b"identity");
    beginning
}

fn authorization(credential: &Credential) -> Result<Option<Zeroizing<String>>, ChannelError> {
    let value = match credential {
        Credential::Bearer(token) => format!("Bearer {token}"),
        Credential::Basic { user, password } => {
            let login = Zeroizing::new(format!("{user}:{password}"));
            format!("Basic {}", STANDARD.encode(login.as_bytes()))
        }
        Credential::None | Credential::OAuth2 { .. } | Credential::Mtls { .. } => return Ok(None),
        Credential::Password { .. } | Credential::Key { .. } => {
            return Err(ChannelError::Credential("a webhook logs in by bearer, basic, oauth2 or mtls".to_owned()));
        }
    };
    if !is_field("authorization", &value) {
        return Err(ChannelError::Credential("the token holds a control character".to_owned()));
    }
    Ok(Some(Zeroizing::new(value)))
}
