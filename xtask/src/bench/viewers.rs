//! Open dashboards: each follows the hub's changes and fetches the part of its page that changed, as the page's own script does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process;
use super::wire::{exchange, page_request};

/// How often the count of fetched parts is written down.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// The process' whole life: the hub's address, the session's cookie, how many, and the file for the count.
pub(super) fn process(args: &[String]) -> Result<()> {
    process::end_with_parent();
    let [address, cookie, count, file] = args else { bail!("viewers-process: four arguments") };
    let count: usize = count.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let fetched = Arc::new(AtomicUsize::new(0));
        let mut viewers = tokio::task::JoinSet::new();
        for _ in 0..count {
            let events =
                open(address, &page_request("/dashboard/live", cookie, "accept: text/event-stream\r\n")).await?;
            let page = TcpStream::connect(address).await?;
            page.set_nodelay(true)?;
            let part = page_request("/dashboard", cookie, "x-hms-part: live\r\n");
            viewers.spawn(look(events, page, part, fetched.clone()));
        }
        crate::shell::say("looking");
        let mut tick = tokio::time::interval(COUNT_EVERY);
        loop {
            tokio::select! {
                Some(ended) = viewers.join_next() => return ended?,
                _ = tick.tick() => std::fs::write(file, fetched.load(Ordering::Relaxed).to_string())?,
            }
        }
    })
}

/// A stream of changes that has begun.
async fn open(address: &str, request: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut head = Vec::new();
    while !head.windows(11).any(|window| window == b": connected") {
        if stream.read_buf(&mut head).await? == 0 {
            bail!("the stream of changes was refused: {}", String::from_utf8_lossy(&head));
        }
    }
    Ok(stream)
}

async fn look(mut events: TcpStream, mut page: TcpStream, part: Vec<u8>, fetched: Arc<AtomicUsize>) -> Result<()> {
    let (mut heard, mut buffer) = (Vec::with_capacity(1_024), Vec::with_capacity(64 * 1_024));
    loop {
        let (status, _) = exchange(&mut page, &part, &mut buffer).await?;
        if status != 200 {
            bail!("a part was answered {status}");
        }
        fetched.fetch_add(1, Ordering::Relaxed);
        heard.clear();
        if events.read_buf(&mut heard).await? == 0 {
            bail!("the stream of changes ended");
        }
    }
}
