//! The load generator: publishers on kept connections, each publish timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::hub::Hub;
use super::process;
use super::wire::{event, exchange, now_ns, request};

/// One publish.
pub(super) struct Published {
    pub(super) id: String,
    pub(super) began: u64,
    pub(super) answered: u64,
}

/// A whole run.
pub(super) struct Load {
    pub(super) began: u64,
    pub(super) events: Vec<Published>,
}

/// What to publish.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) events: usize,
    /// Publishers at a time.
    pub(super) publishers: usize,
    /// Events a second; 0 is as fast as they are answered.
    pub(super) rate: f64,
}

impl Load {
    /// From the first publish to the last answer.
    pub(super) fn seconds(&self) -> f64 {
        let last = self.events.iter().map(|event| event.answered).max().unwrap_or(self.began);
        (last - self.began) as f64 / 1e9
    }

    pub(super) fn receipt_us(&self) -> Vec<f64> {
        self.events.iter().map(|event| (event.answered - event.began) as f64 / 1e3).collect()
    }
}

/// Publishes from a process of its own.
pub(super) fn run(hub: &Hub, wanted: Wanted) -> Result<Load> {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let Wanted { events, publishers, rate } = wanted;
    let args = [events.to_string(), publishers.to_string(), rate.to_string(), run.to_string()];
    let mut all = vec![hub.address.clone(), hub.token.clone()];
    all.extend(args);
    let text = process::run("load-process", &all)?;
    let events: Vec<Published> = text.lines().filter_map(parse).collect();
    let began = events.iter().map(|event| event.began).min().context("nothing was published")?;
    Ok(Load { began, events })
}

fn parse(line: &str) -> Option<Published> {
    let mut parts = line.split(' ');
    Some(Published {
        id: parts.next()?.to_owned(),
        began: parts.next()?.parse().ok()?,
        answered: parts.next()?.parse().ok()?,
    })
}

/// The process' whole life.
pub(super) fn process(args: &[String]) -> Result<()> {
    process::end_with_parent();
    let [address, token, events, publishers, rate, run] = args else { bail!("load-process: six arguments") };
    let (events, publishers): (usize, usize) = (events.parse()?, publishers.parse()?);
    let rate: f64 = rate.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let published = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..publishers {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let turn = Arc::new(Turn { next: AtomicUsize::new(0), events, rate, began: tokio::time::Instant::now() });
        let mut publishing = Vec::new();
        for stream in streams {
            publishing.push(tokio::spawn(publish(stream, token.clone(), run.clone(), turn.clone())));
        }
        let mut published = Vec::new();
        for one in publishing {
            published.extend(one.await??);
        }
        Ok::<_, anyhow::Error>(published)
    })?;
    let lines: Vec<String> =
        published.iter().map(|event| format!("{} {} {}", event.id, event.began, event.answered)).collect();
    crate::shell::say(&lines.join("\n"));
    Ok(())
}

/// Which event is next, and when.
struct Turn {
    next: AtomicUsize,
    events: usize,
    rate: f64,
    began: tokio::time::Instant,
}

async fn publish(
    mut stream: tokio::net::TcpStream,
    token: String,
    run: String,
    turn: Arc<Turn>,
) -> Result<Vec<Published>> {
    let mut buffer = Vec::with_capacity(4_096);
    let mut published = Vec::new();
    loop {
        let number = turn.next.fetch_add(1, Ordering::Relaxed);
        if number >= turn.events {
            return Ok(published);
        }
        let id = format!("EVT-{run}-{number}");
        let request = request("POST", "/v1/events", &token, "application/json", &event(&id, &number.to_string()));
        if turn.rate > 0.0 {
            tokio::time::sleep_until(turn.began + Duration::from_secs_f64(number as f64 / turn.rate)).await;
        }
        let began = now_ns();
        let (status, body) = exchange(&mut stream, &request, &mut buffer).await?;
        if status != 202 {
            bail!("a publish was answered {status}: {}", String::from_utf8_lossy(&body));
        }
        published.push(Published { id, began, answered: now_ns() });
    }
}
