//! The measure of things: a bare hyper client that POSTs the same bytes over kept connections, without a hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;

use super::process;
use super::receiver::Receiver;
use super::wire::now_ns;

/// What it reached.
#[derive(Clone, Copy)]
pub(super) struct Bare {
    /// POSTs a second.
    pub(super) rate: f64,
    /// Processor time of each.
    pub(super) cpu_us: f64,
    /// Processor time of the receiver for each.
    pub(super) receiver_us: f64,
}

/// Runs the bare client in a process of its own.
pub(super) fn run(receiver: &Receiver, posts: usize, connections: usize) -> Result<Bare> {
    let mut args = vec![receiver.url.clone(), posts.to_string(), connections.to_string()];
    if let Some(ca) = &receiver.ca {
        args.push(ca.path().to_str().context("a strange path")?.to_owned());
    }
    let before = receiver.cpu_seconds()?;
    let text = process::run("bare-process", &args)?;
    let receiver_us = (receiver.cpu_seconds()? - before) * 1e6 / posts as f64;
    let (rate, cpu_us) = text.trim().split_once(' ').context("the bare client failed")?;
    Ok(Bare { rate: rate.parse()?, cpu_us: cpu_us.parse()?, receiver_us })
}

/// The process' whole life: URL, POSTs, connections, and the certificate to trust under TLS.
pub(super) fn process(args: &[String]) -> Result<()> {
    process::end_with_parent();
    let [url, posts, connections, ca @ ..] = args else { bail!("bare-process: at least three arguments") };
    let (posts, connections): (usize, usize) = (posts.parse()?, connections.parse()?);
    let (_, address) = url.split_once("://").context("a strange address")?;
    let address: Arc<str> = address.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(connect(&address, ca.first()).await?);
        }
        let left = Arc::new(AtomicUsize::new(posts));
        let (began, cpu) = (now_ns(), own_cpu_seconds());
        let posting: Vec<_> =
            senders.into_iter().map(|sender| tokio::spawn(post(sender, address.clone(), left.clone()))).collect();
        for one in posting {
            one.await??;
        }
        let seconds = (now_ns() - began) as f64 / 1e9;
        let cpu_us = (own_cpu_seconds() - cpu) * 1e6 / posts as f64;
        crate::shell::say(&format!("{} {cpu_us}", posts as f64 / seconds));
        Ok(())
    })
}

fn own_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

async fn connect(address: &str, ca: Option<&String>) -> Result<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(ca) = ca else {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(sender);
    };
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca)?)?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1")?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The message of a partner of scenario b, header by header and as long.
async fn post(mut sender: SendRequest<Full<Bytes>>, address: Arc<str>, left: Arc<AtomicUsize>) -> Result<()> {
    let body = Bytes::from(format!(
        "{{\"id\":\"EVT-0-123\",\"version\":1,\"subject\":\"EVT-0-123\",\"time\":\"2026-01-01T00:00:00.000000Z\",\
         \"sequence\":123,\"payload\":{{\"deadline\":\"16:00\",\"text\":\"{:x<430}\"}}}}",
        1
    ));
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let request = hyper::Request::post("/p")
            .header("host", &*address)
            .header("content-type", "application/json")
            .header("user-agent", "hms-ess/0.1.0")
            .header("webhook-id", "msg_0199f0c5-a7b8-7d3f-9f0c-5a7b87d3f000")
            .header("webhook-timestamp", "1764000000")
            .header("webhook-signature", SIGNATURES)
            .header("x-hms-event-id", "EVT-0-123")
            .header("x-hms-sequence", "123")
            .header("x-hms-attempt", "1")
            .header("x-hms-partner-seq", "123")
            .body(Full::new(body.clone()))?;
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        answer.into_body().collect().await?;
    }
    Ok(())
}

const SIGNATURES: &str = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= \
    v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
