//! The client of a hub's HTTP API: one kept connection, TLS with the hub's own CA, every answer bounded.
//!
//! It decodes problems into failures with their hints, and never sends a token over anything but the given hub's connection.

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
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::profile::Target;
use crate::failure::{Failure, Result, plain};

/// Longest answer that is read.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer, beyond what a request asks the hub to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one hub.
pub(crate) struct Client {
    origin: Origin,
    target: Target,
    reason: Option<HeaderValue>,
    tls: Option<TlsConnector>,
    // Holds the kept connection between requests; a request takes it out and puts it back.
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// An answer of the hub that is no problem.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body, as it came.
    pub(crate) body: Bytes,
    /// The hub's clock when it answered (RFC 9110 section 6.6.1).
    pub(crate) date: Option<String>,
}

/// A request's body.
pub(crate) enum Body<'a> {
    /// None.
    Empty,
    /// A JSON value.
    Json(&'a Value),
    /// Bytes of this media type.
    Bytes(&'a str, Bytes),
}

struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Client {
    /// A client of `target`; nothing is dialled yet.
    pub(crate) fn new(target: Target, reason: Option<&str>) -> Result<Self> {
        let origin = parse_origin(&target.hub)?;
        let reason = match reason {
            Some(text) => Some(
                HeaderValue::from_bytes(text.as_bytes())
                    .map_err(|_| Failure::usage("--reason must be a single line of text"))?,
            ),
            None => None,
        };
        let tls = match origin.tls {
            true => Some(crate::tls::connector(target.ca.as_deref())?),
            false => None,
        };
        Ok(Self { origin, target, reason, tls, kept: Mutex::new(None) })
    }

    /// The hub's URL.
    pub(crate) fn hub(&self) -> &str {
        &self.target.hub
    }

    /// What `--reason` said.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.as_ref().map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
    }

    /// `GET`, decoded.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, Body::Empty).await?.value()
    }

    /// `POST` of a JSON value.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.ask(Method::POST, path, Body::Json(body)).await
    }

    /// All items of a paged list, at most `most`.
    pub(crate) async fn list(&self, path: &str, most: usize) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let limit = (most - items.len()).min(1_000);
            let page = match &after {
                Some(cursor) => format!("{path}{join}limit={limit}&after={}", encode(cursor)),
                None => format!("{path}{join}limit={limit}"),
            };
            let mut page = self.get(&page).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            after = match page.get("next") {
                Some(Value::String(cursor)) => Some(cursor.clone()),
                Some(Value::Number(cursor)) => Some(cursor.to_string()),
                _ => return Ok(items),
            };
            if items.len() >= most {
                return Ok(items);
            }
        }
    }

    /// One request; an answer of 400 or more is a failure with the hub's own words.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Body<'_>) -> Result<Reply> {
        self.ask_with(method, path, body, &[], Duration::ZERO).await
    }

    /// One request with more header fields, where the hub may take `patience` longer to answer.
    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply> {
        self.taken(self.send(method, path, body, headers, patience).await?)
    }

    /// The answer, unless it is a refusal.
    pub(crate) fn taken(&self, reply: Reply) -> Result<Reply> {
        if reply.status.as_u16() >= 400 {
            return Err(self.problem(reply.status, &reply.body));
        }
        Ok(reply)
    }

    /// The same, whatever the answer is: only its absence is a failure.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply> {
        let request = self.request(method, path, body, headers)?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT + patience, self.exchange(request)).await;
        answer.map_err(|_| {
            Failure::refused(format!("the hub at {} did not answer in time", self.target.hub))
                .with_hint("ask `/readyz` of the hub, or look at its log")
        })?
    }

    /// Opens a connection of its own and answers a body that does not end, such as `/v1/stream`.
    pub(crate) async fn open(&self, path: &str) -> Result<Incoming> {
        let mut request = self.request(Method::GET, path, Body::Empty, &[])?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let mut sender = self.dial().await?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if answer.status().as_u16() >= 400 {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(self.problem(status, &body));
        }
        Ok(answer.into_body())
    }

    /// The certificate that the hub shows, once it is trusted and bears the hub's name; `None` without TLS.
    pub(crate) async fn certificate(&self) -> Result<Option<Vec<u8>>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let shake = async {
            let stream = self.tls_stream(tls, self.tcp().await?).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            Ok(shown.map(|certificate| certificate.to_vec()))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, shake).await {
            Ok(done) => done,
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        headers: &[(&str, &str)],
    ) -> Result<Request<Full<Bytes>>> {
        let host = &self.origin.host;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{host}:{}", self.origin.port))
            .header(header::USER_AGENT, concat!("hms-ess-cli/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.target.token {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                Failure::refused("the token holds characters that no token has").with_hint("check HMS_ESS_TOKEN")
            })?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if let Some(reason) = &self.reason {
            request = request.header("x-hms-reason", reason);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Body::Empty => Bytes::new(),
            Body::Json(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
            Body::Bytes(media_type, bytes) => {
                request = request.header(header::CONTENT_TYPE, media_type);
                bytes
            }
        };
        request.body(Full::new(body)).map_err(|error| Failure::usage(format!("`{path}` is no request: {error}")))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply> {
        let mut kept = self.kept.lock().await.take();
        let mut request = Some(request);
        loop {
            let is_kept = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.dial().await?,
            };
            // Invariant: the loop goes round again only after the request was handed back.
            let outgoing = request.take().expect("the request is there");
            let answer = match sender.try_send_request(outgoing).await {
                Ok(answer) => answer,
                Err(mut error) => {
                    // A kept connection that the hub closed meanwhile: nothing was sent, so once more on a new one.
                    request = error.take_message();
                    if is_kept && request.is_some() {
                        continue;
                    }
                    return Err(self.broken(error.error()));
                }
            };
            let status = answer.status();
            let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| {
                    Failure::refused(format!("the hub's answer broke off: {error}"))
                        .with_hint("try again; if it stays so, look at the hub's log")
                })?
                .to_bytes();
            *self.kept.lock().await = Some(sender);
            return Ok(Reply { status, body, date });
        }
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(done) => done,
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let tcp = self.tcp().await?;
        let Some(tls) = &self.tls else {
            return Self::handshake(self, TokioIo::new(tcp)).await;
        };
        Self::handshake(self, TokioIo::new(self.tls_stream(tls, tcp).await?)).await
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

    fn problem(&self, status: StatusCode, body: &Bytes) -> Failure {
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

impl Reply {
    /// The body, decoded.
    pub(crate) fn value(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::refused(format!("the hub's answer is no JSON: {error}")))
    }
}

/// A path segment or query value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
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
