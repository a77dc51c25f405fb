//! A cheap and honest partner: reads each message whole, notes when it came, and acknowledges it.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::load::Load;
use super::process::{self, Process};
use super::wire::{Asker, field, head, now_ns, request};

/// The longest that arrivals are waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// Connections that may wait to be accepted: a thousand partners are dialled at once.
const WAITING_MAX: i32 = 4_096;

/// The receiver's process.
pub(super) struct Receiver {
    process: Process,
    /// Its address for partners.
    pub(super) url: String,
    control: String,
    /// The certificate that it shows, under TLS.
    pub(super) ca: Option<tempfile::NamedTempFile>,
}

/// Where and when something came.
struct Arrival {
    path: String,
    id: String,
    at: u64,
}

/// All that came for one load.
pub(super) struct Arrivals {
    /// From the beginning of the publish to the body read.
    pub(super) end_to_end_us: Vec<f64>,
    /// Messages that came more than once.
    pub(super) repeated: usize,
}

impl Receiver {
    /// Starts the process, with a certificate of its own under TLS.
    pub(super) fn start(tls: bool) -> Result<Self> {
        let mut args = Vec::new();
        let mut files = None;
        if tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            let mut cert = tempfile::NamedTempFile::new()?;
            cert.write_all(made.cert.pem().as_bytes())?;
            let mut key = tempfile::NamedTempFile::new()?;
            key.write_all(made.signing_key.serialize_pem().as_bytes())?;
            args = vec![path_of(&cert)?, path_of(&key)?];
            files = Some((cert, key));
        }
        let process = Process::start("receiver-process", &args)?;
        let (address, control) = process.first_line.split_once(' ').context("the receiver did not start")?;
        let url = format!("{}://{address}", if tls { "https" } else { "http" });
        let control = control.to_owned();
        Ok(Self { process, url, control, ca: files.map(|(cert, _)| cert) })
    }

    /// Waits for this many arrivals; answers when the last came.
    pub(super) fn wait_for(&self, count: usize) -> Result<u64> {
        let end = Instant::now() + PATIENCE;
        let mut asker = Asker::connect(&self.control)?;
        loop {
            let (_, text) = asker.ask(&request("GET", "/count", "", "", ""))?;
            let (found, last) = text.split_once(' ').context("no count")?;
            if found.parse::<usize>()? >= count {
                return Ok(last.parse()?);
            }
            if Instant::now() > end {
                bail!("{found} of {count} messages came within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Forgets what came.
    pub(super) fn reset(&self) -> Result<()> {
        Asker::connect(&self.control)?.ask(&request("POST", "/reset", "", "", "")).map(drop)
    }

    /// What came of this load.
    pub(super) fn arrivals(&self, load: &Load) -> Result<Arrivals> {
        let (_, text) = Asker::connect(&self.control)?.ask(&request("GET", "/arrivals", "", "", ""))?;
        let begun: HashMap<&str, u64> = load.events.iter().map(|event| (event.id.as_str(), event.began)).collect();
        let mut arrivals = Arrivals { end_to_end_us: Vec::new(), repeated: 0 };
        let mut seen = HashSet::new();
        for line in text.lines() {
            let mut parts = line.split(' ');
            let (Some(path), Some(id), Some(at)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(began) = begun.get(id) else { continue };
            if seen.insert((path, id)) {
                arrivals.end_to_end_us.push((at.parse::<u64>()? - began) as f64 / 1e3);
            } else {
                arrivals.repeated += 1;
            }
        }
        Ok(arrivals)
    }

    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.process.id())
    }
}

fn path_of(file: &tempfile::NamedTempFile) -> Result<String> {
    Ok(file.path().to_str().context("a strange path")?.to_owned())
}

/// What came, in order. The lock is held for a push or a copy only.
type Came = Arc<Mutex<Vec<Arrival>>>;

/// The process' whole life: certificate and key as arguments make it speak TLS.
pub(super) fn process(args: &[String]) -> Result<()> {
    process::end_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tls = match args {
            [cert, key] => Some(acceptor(cert, key)?),
            _ => None,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        rustix::net::listen(&listener, WAITING_MAX)?;
        let control = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        crate::shell::say(&format!("{} {}", listener.local_addr()?, control.local_addr()?));
        let came = Came::default();
        tokio::spawn(answer_control(control, came.clone()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let came = came.clone();
            match tls.clone() {
                None => drop(tokio::spawn(serve(stream, came))),
                Some(tls) => drop(tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = serve(stream, came).await;
                    }
                })),
            }
        }
    })
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, came: Came) -> Result<()> {
    let mut buffer = Vec::with_capacity(8_192);
    let mut answer = Vec::with_capacity(256);
    loop {
        let (end, length) = loop {
            match head(&buffer) {
                Some((end, length)) if buffer.len() >= end + length => break (end, length),
                _ if stream.read_buf(&mut buffer).await? == 0 => return Ok(()),
                _ => {}
            }
        };
        let at = now_ns();
        let path = path(&buffer);
        if path == "/hole" {
            // Takes the message and never answers.
            return std::future::pending().await;
        }
        let pause = pause(path);
        let id = String::from_utf8_lossy(field(&buffer[..end], b"x-hms-event-id").unwrap_or_default()).into_owned();
        answer.clear();
        write!(answer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{\"ack\":\"{id}\"}}", 10 + id.len())?;
        let path = path.to_owned();
        came.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { path, id, at });
        if let Some(pause) = pause {
            // What is measured: a partner that takes this long to answer.
            tokio::time::sleep(pause).await;
        }
        stream.write_all(&answer).await?;
        buffer.drain(..end + length);
    }
}

/// How long a partner under `/after/MILLISECONDS/` takes to answer.
fn pause(path: &str) -> Option<Duration> {
    let (milliseconds, _) = path.strip_prefix("/after/")?.split_once('/')?;
    milliseconds.parse().ok().map(Duration::from_millis)
}

fn path(request: &[u8]) -> &str {
    let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}

async fn answer_control(listener: tokio::net::TcpListener, came: Came) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut buffer = Vec::new();
        while stream.read_buf(&mut buffer).await? > 0 {
            let Some((end, length)) = head(&buffer) else { continue };
            let body = control_body(path(&buffer), &came);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await?;
            buffer.drain(..end + length);
        }
    }
}

fn control_body(path: &str, came: &Came) -> String {
    let mut came = came.lock().unwrap_or_else(PoisonError::into_inner);
    match path {
        "/reset" => {
            came.clear();
            String::new()
        }
        "/count" => format!("{} {}", came.len(), came.last().map_or(0, |arrival| arrival.at)),
        _ => came.iter().map(|Arrival { path, id, at }| format!("{path} {id} {at}\n")).collect(),
    }
}

fn acceptor(cert: &str, key: &str) -> Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject as _;
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
