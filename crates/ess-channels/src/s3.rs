//! The S3 channel: one object per delivery in the partner's bucket, put once, with its checksum.
//!
//! The store is asked to take the object only where none is (`If-None-Match: *`); where one is, it is compared, so that an attempt
//! whose answer was lost doubles nothing and another object is never replaced. Path-style addresses, so that any S3-compatible store
//! will do.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::message::{Message, receipt_name};
use ess_core::partner::{AckBy, Partner, Settings};
use ess_core::receipt::{Evidence, Failure, Receipt, Stage};
use ess_core::sigv4::{Signer, Unsigned, encoded_path};
use ess_core::time::Time;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::http1::{is_field, push_field};
use crate::limits::REASON_CHARS_MAX;
use crate::pool::Pool;
use crate::progress::{Progress, one_line};
use crate::target::{HTTP, Security, Target};
use crate::watch::{Awaited, Heard, Look, Unsettled, Watch};
use crate::webhook::ALPN;
use crate::wire::{Broken, Outgoing, Reply, Wire};

/// How often receipt objects are looked for: each look is paid for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Receipts that are asked for in one look; the others have their turn with what is awaited later.
const LOOKED_FOR_MAX: usize = 256;
/// Bytes of an object that are compared at a time: an answer is read up to 64 KiB.
const SLICE_BYTES: usize = 48 * 1024;

/// Objects for one partner.
pub struct S3Drop {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    signer: Signer,
    /// `/bucket/prefix`, without a slash at its end.
    dir: String,
    pattern: Option<String>,
    extension: &'static str,
    unsettled: Unsettled,
    pool: Pool<Wire>,
}

/// A request without what every request has.
struct Asked<'a> {
    method: &'static str,
    name: &'a str,
    fields: Vec<(String, String)>,
    body: &'a [u8],
}

impl std::fmt::Debug for S3Drop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Drop").field("host", &self.target.host).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl S3Drop {
    /// Sets it up; nothing is dialled yet.
    ///
    /// # Errors
    /// The address or the login can't be used.
    pub fn open(partner: &Partner, url: &str, credential: Credential, dialer: &Dialer) -> Result<S3Drop, ChannelError> {
        let Settings::S3(settings) = &partner.settings else {
            return Err(ChannelError::Option("the partner has no settings for s3".to_owned()));
        };
        let Credential::Password { user: Some(key_id), password } = &credential else {
            let why = "a store takes an access key: `auth: {user: KEY_ID, password: SECRET}`";
            return Err(ChannelError::Credential(why.to_owned()));
        };
        let region = settings.region.clone();
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let target = Target::parse(&endpoint, &HTTP)?;
        if target.path != "/" {
            return Err(ChannelError::Url("a store's address is a host and a port".to_owned()));
        }
        let dir = url.strip_prefix("s3://").unwrap_or_default().trim_end_matches('/');
        let is_by_file = partner.ack.by == AckBy::File;
        Ok(S3Drop {
            tls: (target.security != Security::Plain).then(|| dialer.tls(ALPN)),
            target,
            dialer: dialer.clone(),
            signer: Signer { key_id: key_id.clone(), secret: Zeroizing::new(password.clone()), region },
            dir: format!("/{dir}"),
            pattern: partner.ack.place.clone().filter(|_| is_by_file),
            extension: partner.format.extension(),
            unsettled: Unsettled::default(),
            pool: Pool::new(partner.limits.in_flight as usize, Wire::is_open),
        })
    }

    /// Puts the object once.
    pub async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        match timeout_at(deadline, self.put(message, &progress)).await {
            Ok(Ok(receipt)) => receipt,
            Ok(Err(failure)) => Receipt::Failed(one_line(failure)),
            Err(_) => Receipt::Failed(progress.timed_out()),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        if self.pattern.is_some() { Watch::Look(LOOK_EVERY) } else { Watch::None }
    }

    pub(crate) async fn look(&self, awaited: &[Awaited], deadline: Instant) -> Result<Vec<Heard>, Failure> {
        let progress = Progress::begin(deadline);
        let looked = self.receipts(awaited, &progress);
        timeout_at(deadline, looked).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) async fn settle(&self, awaited: &Awaited, deadline: Instant) -> Result<(), Failure> {
        let Some(name) = self.receipt_name(awaited) else { return Ok(()) };
        let progress = Progress::begin(deadline);
        let removed = self.remove(&name, &progress);
        timeout_at(deadline, removed).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }

    async fn put(&self, message: &Message, progress: &Progress) -> Result<Receipt, Failure> {
        let name = message.file_name();
        let awaited = Awaited { event: message.event_id.clone(), version: message.version, test: message.test };
        if message.replay
            && message.attempt == 1
            && let Some(receipt) = self.receipt_name(&awaited)
        {
            // A receipt that was left there is of an earlier round.
            self.remove(&receipt, progress).await?;
        }
        let mut fields = vec![
            ("content-type".to_owned(), message.content_type.clone()),
            ("x-amz-sdk-checksum-algorithm".to_owned(), "SHA256".to_owned()),
            ("x-amz-checksum-sha256".to_owned(), STANDARD.encode(message.body_digest.0)),
        ];
        if !message.replay {
            fields.push(("if-none-match".to_owned(), "*".to_owned()));
        }
        let is_told = |name: &str| name.starts_with("x-hms-") || name.starts_with("webhook-");
        let told = message.headers.iter().filter(|(name, value)| is_told(name) && value.is_ascii());
        fields.extend(told.map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone())));
        let reply = self.ask(Asked { method: "PUT", name: &name, fields, body: &message.body }, progress).await?;
        match reply.status {
            200..=299 => Ok(Receipt::Confirmed),
            412 if self.is_there(&name, &message.body, progress).await? => Ok(Receipt::Confirmed),
            412 => Ok(Receipt::Refused {
                reason: format!("another object called {name} is in {}; it was left as it is", self.dir),
            }),
            _ => Err(no(&reply)),
        }
    }

    /// Whether the object holds these bytes and no others.
    async fn is_there(&self, name: &str, bytes: &[u8], progress: &Progress) -> Result<bool, Failure> {
        let mut from = 0;
        while from < bytes.len() {
            let slice = &bytes[from..bytes.len().min(from + SLICE_BYTES)];
            let reply = self.read(name, (from, from + slice.len() - 1), progress).await?;
            match reply.status {
                200 | 206 if reply.body == slice => from += slice.len(),
                200 | 206 | 404 | 416 => return Ok(false),
                _ => return Err(no(&reply)),
            }
        }
        let beyond = self.read(name, (bytes.len(), bytes.len()), progress).await?;
        Ok(beyond.status == 416)
    }

    async fn read(&self, name: &str, (from, to): (usize, usize), progress: &Progress) -> Result<Reply, Failure> {
        let fields = vec![("range".to_owned(), format!("bytes={from}-{to}"))];
        self.ask(Asked { method: "GET", name, fields, body: b"" }, progress).await
    }

    async fn receipts(&self, awaited: &[Awaited], progress: &Progress) -> Result<Vec<Heard>, Failure> {
        let names: Vec<String> = awaited.iter().filter_map(|one| self.receipt_name(one)).collect();
        self.unsettled.keep_only(&names);
        let mut heard = Vec::new();
        for (one, name) in awaited.iter().zip(&names).take(LOOKED_FOR_MAX) {
            let asked = Asked { method: "GET", name, fields: Vec::new(), body: b"" };
            let reply = self.ask(asked, progress).await?;
            match reply.status {
                200 => {
                    let look = Look { bytes: reply.body.len() as u64, modified: None };
                    if let Some(said) = self.unsettled.read(name, look, &reply.body, &one.event) {
                        let event = one.event.clone();
                        heard.push(Heard { event, test: one.test, said, evidence: Evidence::File });
                    }
                }
                404 => {}
                _ => return Err(no(&reply)),
            }
        }
        Ok(heard)
    }

    async fn remove(&self, name: &str, progress: &Progress) -> Result<(), Failure> {
        let asked = Asked { method: "DELETE", name, fields: Vec::new(), body: b"" };
        let reply = self.ask(asked, progress).await?;
        if matches!(reply.status, 200..=299 | 404) { Ok(()) } else { Err(no(&reply)) }
    }

    fn receipt_name(&self, awaited: &Awaited) -> Option<String> {
        let pattern = self.pattern.as_ref()?;
        Some(receipt_name(pattern, &awaited.event, awaited.version, self.extension, awaited.test))
    }

    /// One exchange: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn ask(&self, asked: Asked<'_>, progress: &Progress) -> Result<Reply, Failure> {
        let head = self.head(&asked)?;
        let request = Outgoing { head: &head, body: asked.body };
        if let Some(wire) = self.pool.take() {
            match self.exchange(wire, request, progress).await {
                Err(broken) if broken.is_stale => {}
                outcome => return outcome.map_err(|broken| broken.failure),
            }
        }
        let stream = self.dialer.dial(&self.target, self.tls.as_ref(), progress).await?;
        self.exchange(Wire::open(stream), request, progress).await.map_err(|broken| broken.failure)
    }

    async fn exchange(&self, mut wire: Wire, request: Outgoing<'_>, progress: &Progress) -> Result<Reply, Broken> {
        let reply = wire.exchange(request, progress).await?;
        if reply.can_keep {
            self.pool.keep(wire);
        }
        Ok(reply)
    }

    fn head(&self, asked: &Asked<'_>) -> Result<Vec<u8>, Failure> {
        let path = encoded_path(&format!("{}/{}", self.dir, asked.name));
        let mut fields = asked.fields.clone();
        fields.push(("host".to_owned(), self.target.authority.clone()));
        let unsigned = Unsigned { method: asked.method, path: &path, fields, body: asked.body };
        // A store takes a signature for some minutes around its own time.
        let now = Time::from_micros(jiff::Timestamp::now().as_microsecond());
        let mut head = format!("{} {path} HTTP/1.1\r\n", asked.method).into_bytes();
        for (name, value) in self.signer.sign(unsigned, now) {
            if !is_field(&name, &value) {
                let reason = format!("the header field {name:?} is not valid");
                return Err(Failure { stage: Stage::Send, reason });
            }
            push_field(&mut head, &name, value.as_bytes());
        }
        push_field(&mut head, "user-agent", self.dialer.user_agent().as_bytes());
        push_field(&mut head, "content-length", asked.body.len().to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

/// What a store said instead of yes. It is about the bucket or the key, which an operator mends, so it is tried again.
fn no(reply: &Reply) -> Failure {
    let text = String::from_utf8_lossy(&reply.body);
    let within = |tag: &str| {
        let rest = text.split_once(&format!("<{tag}>"))?.1;
        rest.split_once("</").map(|(inner, _)| inner.to_owned())
    };
    let mut reason = format!("the store answered {}", reply.status);
    for said in [within("Code"), within("Message")].into_iter().flatten() {
        reason.push_str(&format!(": {said}"));
    }
    let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect();
    Failure { stage: Stage::Await, reason }
}
