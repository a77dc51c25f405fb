//! The way to one address of a hub: one kept connection, TLS with the hub's own CA, every answer and every wait bounded.
//!
//! It tells what was certainly not sent from what may have been done. The token goes over this address' connection only.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::profile::Target;
use crate::failure::{Failure, Result, plain};

/// Longest answer that is read.
const BODY_BYTES_MAX: usize = 256 << 20;

/// How long an address has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a connection, TLS included.
    pub(super) connect: Duration,
    /// For the head of the answer.
    pub(super) head: Duration,
    /// For the rest of it.
    pub(super) body: Duration,
}

/// What is asked, of whichever address.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) media_type: Option<&'a str>,
    pub(super) body: Bytes,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) reason: Option<&'a HeaderValue>,
}

/// What an address answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) date: Option<String>,
}

/// Why an address did not answer.
#[derive(Debug)]
pub(super) enum Miss {
    /// Nothing was sent: there was no connection.
    NotSent(Failure),
    /// It was sent, and the connection broke off or no answer came in time: it may have been done.
    Unanswered(Failure),
}

/// One address.
pub(super) struct Link {
    origin: Origin,
    target: Target,
    tls: Option<TlsConnector>,
    // Holds the kept connection between requests; a request takes it out and puts it back.
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Link {
    /// The way to `target`; nothing is dialled yet.
    pub(super) fn new(target: Target) -> Result<Self> {
        let origin = parse_origin(&target.hub)?;
        let tls = match origin.tls {
            true => Some(crate::tls::connector(target.ca.as_deref())?),
            false => None,
        };
        Ok(Self { origin, target, tls, kept: Mutex::new(None) })
    }

    /// Where it leads, and with which token.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Asks, on the kept connection or a new one.
    pub(super) async fn ask(&self, question: &Question<'_>, patience: Patience) -> std::result::Result<Answer, Miss> {
        let mut kept = self.kept.lock().await.take();
        let mut request = Some(self.request(question).map_err(Miss::NotSent)?);
        loop {
            let is_kept = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.dial(patience).await.map_err(Miss::NotSent)?,
            };
            // Invariant: the loop goes round again only after the request was handed back.
            let outgoing = request.take().expect("the request is there");
            let answer = match timeout(patience.head, sender.try_send_request(outgoing)).await {
                Err(_) => return Err(Miss::Unanswered(self.late())),
                Ok(Ok(answer)) => answer,
                Ok(Err(mut error)) => {
                    request = error.take_message();
                    let failure = self.broken(error.error());
                    match (is_kept, request.is_some()) {
                        // A kept connection that the hub closed meanwhile: once more on a new one.
                        (true, true) => continue,
                        (false, true) => return Err(Miss::NotSent(failure)),
                        (_, false) => return Err(Miss::Unanswered(failure)),
                    }
                }
            };
            let status = answer.status();
            let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
            let body = match timeout(patience.body, Limited::new(answer.into_body(), BODY_BYTES_MAX).collect()).await {
                Err(_) => return Err(Miss::Unanswered(self.late())),
                Ok(Err(error)) => {
                    let failure = Failure::refused(format!("the answer of {} broke off: {error}", self.target.hub));
                    let hint = "try again; if it stays so, look at the hub's log";
                    return Err(Miss::Unanswered(failure.with_hint(hint)));
                }
                Ok(Ok(body)) => body.to_bytes(),
            };
            *self.kept.lock().await = Some(sender);
            return Ok(Answer { status, body, date });
        }
    }

    /// Opens a connection of its own for a body that does not end; the body, or what refused it.
    pub(super) async fn open(
        &self,
        question: &Question<'_>,
        patience: Patience,
    ) -> std::result::Result<std::result::Result<Incoming, Answer>, Miss> {
        let mut request = self.request(question).map_err(Miss::NotSent)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let mut sender = self.dial(patience).await.map_err(Miss::NotSent)?;
        let answer = match timeout(patience.head, sender.send_request(request)).await {
            Err(_) => return Err(Miss::Unanswered(self.late())),
            Ok(Err(error)) => return Err(Miss::Unanswered(self.broken(&error))),
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        if status.as_u16() < 400 {
            return Ok(Ok(answer.into_body()));
        }
        let body = timeout(patience.body, Limited::new(answer.into_body(), BODY_BYTES_MAX).collect()).await;
        let body = body.ok().and_then(std::result::Result::ok).map(http_body_util::Collected::to_bytes);
        Ok(Err(Answer { status, body: body.unwrap_or_default(), date: None }))
    }

    /// The certificate that the hub shows, once it is trusted and bears the hub's name; `None` without TLS.
    pub(super) async fn certificate(&self, patience: Patience) -> Result<Option<Vec<u8>>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let shake = async {
            let stream = self.tls_stream(tls, self.tcp().await?).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            Ok(shown.map(|certificate| certificate.to_vec()))
        };
        match timeout(patience.connect, shake).await {
            Ok(done) => done,
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    /// A refusal in the hub's own words.
    pub(super) fn problem(&self, status: StatusCode, body: &Bytes) -> Failure {
        let Ok(problem) = serde_json::from_slice::<Value>(body) else {
            return Failure::refused(format!("{} answered {status}, but no hub's answer", self.target.hub))
                .with_hint("is that URL a Sync Hub?");
        };
        let text = |name: &str| problem.get(name).and_then(Value::as_str);
        let mut detail = text("detail").or(text("title")).unwrap_or("refused").to_owned();
        // Which field is at fault; in a conflict none is.
        let is_at_fault = |field: &&str| text("code") == Some("invalid") && !detail.contains(*field);
        if let Some(field) = text("field").filter(is_at_fault) {
            detail = format!("{field}: {detail}");
        }
        let mut failure = Failure::refused(detail);
        failure.hint = text("hint").map(str::to_owned);
        if status == StatusCode::UNAUTHORIZED && self.target.token.is_none() {
            failure.detail = format!("the hub at {} wants a token, and none is known here", self.target.hub);
            failure.hint =
                Some("set HMS_ESS_TOKEN; the first token lies in DIR/admin.token of `hms-ess serve`".to_owned());
        }
        failure.problem = Some(Box::new(problem));
        failure
    }

    fn request(&self, question: &Question<'_>) -> Result<Request<Full<Bytes>>> {
        let Question { method, path, media_type, body, headers, reason } = question;
        let host = &self.origin.host;
        let mut request = Request::builder()
            .method(method)
            .uri(*path)
            .header(header::HOST, format!("{host}:{}", self.origin.port))
            .header(header::USER_AGENT, concat!("hms-ess-cli/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.target.token {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                Failure::refused("the token holds characters that no token has").with_hint("check HMS_ESS_TOKEN")
            })?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if let Some(reason) = reason {
            request = request.header("x-hms-reason", *reason);
        }
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, *media_type);
        }
        let request = request.body(Full::new(body.clone()));
        request.map_err(|error| Failure::usage(format!("`{path}` is no request: {error}")))
    }

    async fn dial(&self, patience: Patience) -> Result<SendRequest<Full<Bytes>>> {
        match timeout(patience.connect, self.connect()).await {
            Ok(done) => done,
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let tcp = self.tcp().await?;
        let Some(tls) = &self.tls else {
            return self.handshake(TokioIo::new(tcp)).await;
        };
        self.handshake(TokioIo::new(self.tls_stream(tls, tcp).await?)).await
    }

    async fn tcp(&self) -> Result<TcpStream> {
        let tcp = TcpStream::connect((self.origin.host.trim_matches(['[', ']']), self.origin.port))
            .await
            .map_err(|error| self.unreachable(&plain(&error)))?;
        // A request is one write; waiting for more would only add delay.
        let _ = tcp.set_nodelay(true);
        Ok(tcp)
    }

    async fn tls_stream(&self, tls: &TlsConnector, tcp: TcpStream) -> Result<TlsStream<TcpStream>> {
        let host = &self.origin.host;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| {
            Failure::usage(format!("`{host}` is no host name")).with_hint("write it like https://hub.example.gov:8443")
        })?;
        tls.connect(name, tcp).await.map_err(|error| self.untrusted(&error))
    }

    async fn handshake<I>(&self, io: I) -> Result<SendRequest<Full<Bytes>>>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|error| self.broken(&error))?;
        // The connection ends with its sender; its error comes out of the request that it breaks.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::refused(format!("no hub answers at {} ({why})", self.target.hub))
            .with_hint("start one with `hms-ess serve` or `hms-ess demo`, or name another with --hub URL")
    }

    fn untrusted(&self, error: &std::io::Error) -> Failure {
        let failure = Failure::refused(format!("could not speak TLS with {}: {error}", self.target.hub));
        match &self.target.ca {
            Some(ca) => failure
                .with_hint(format!("certificates are checked against {}; is that this hub's ca.pem?", ca.display())),
            None => failure.with_hint("a hub with its own CA is trusted by --ca DIR/tls/ca.pem or HMS_ESS_CA"),
        }
    }

    fn late(&self) -> Failure {
        Failure::refused(format!("the hub at {} did not answer in time", self.target.hub))
            .with_hint("ask `/readyz` of the hub, or look at its log")
    }

    fn broken(&self, error: &hyper::Error) -> Failure {
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            cause = inner.source();
        }
        Failure::refused(format!("the connection to {} broke off: {words}", self.target.hub))
            .with_hint("try again; a publish is safe to repeat, its id makes it one event")
    }
}

fn parse_origin(url: &str) -> Result<Origin> {
    let wrong = |why: &str| {
        Failure::usage(format!("`{url}` is no hub's URL: {why}"))
            .with_hint("write it like https://hub.example.gov:8443")
    };
    let uri: http::Uri = url.parse().map_err(|_| wrong("it does not parse"))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("it must begin with https://")),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
    if uri.path() != "/" && !uri.path().is_empty() {
        return Err(wrong("it has a path"));
    }
    Ok(Origin { tls, host: host.to_owned(), port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
}
