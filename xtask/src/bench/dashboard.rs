//! What the dashboard costs: how fast its pages are with 1,000,000 deliveries open, and what 200 open ones cost the delivery path.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::Options;
use super::hub::Hub;
use super::load::{self, Wanted};
use super::process::Process;
use super::receiver::Receiver;
use super::report::{Report, Target, percentile};
use super::wire::{Asker, page_request};

/// A rendered part serves everybody for so long; who asks later gets one that is made anew.
const PART_AGE: Duration = Duration::from_millis(260);
/// How often a page is asked for.
const ASKS: usize = 41;
/// Processor seconds a second under which a hub has come to rest, and how long that is waited for.
const REST: f64 = 0.2;
const REST_WITHIN: Duration = Duration::from_secs(240);
/// Open dashboards.
const VIEWERS: usize = 200;
/// How often each turn is taken.
const ROUNDS: usize = 3;

/// 10,000 partners that can't be reached and 100 events; then 100 partners, without and with 200 open dashboards by turns.
pub(super) fn run(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    pages(options, binary, report)?;
    viewers(options, binary, report)
}

fn pages(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    let (partners, events) = (options.scaled(10_000), 100);
    // Nobody listens there.
    hub.add_partners_with(&receiver, partners, &json!({"url": "http://127.0.0.1:9/"}))?;
    hub.publish_bulk("EVT", events)?;
    let rest = wait_for_rest(&hub)?;
    report.push("dashboard: deliveries open", (partners * events) as f64, "", Target::None);
    report.push("dashboard: the hub at rest, processors", rest, "", Target::None);
    report.push("dashboard: memory of the hub", hub.resident_mib()?, "MiB", Target::None);
    let cookie = hub.sign_in()?;
    for (name, path, target) in [
        ("overview", "/dashboard", Target::AtMost(50.0)),
        ("events", "/dashboard/events", Target::None),
        ("partners", "/dashboard/partners", Target::None),
        ("a partner", "/dashboard/partners/P7", Target::None),
        ("an event for all", "/dashboard/events/EVT-7", Target::None),
    ] {
        let (anew, bytes) = ask(&hub, path, &cookie, PART_AGE)?;
        let (shared, _) = ask(&hub, path, &cookie, Duration::ZERO)?;
        report.push(format!("dashboard: {name}, made anew, p50"), percentile(&anew, 50), "ms", target);
        report.push(format!("dashboard: {name}, made anew, p99"), percentile(&anew, 99), "ms", Target::None);
        report.push(format!("dashboard: {name}, at once again, p50"), percentile(&shared, 50), "ms", target);
        report.push(format!("dashboard: {name}, bytes"), bytes as f64, "", Target::None);
    }
    hub.stop()
}

/// Milliseconds of each answer, and the bytes of the last.
fn ask(hub: &Hub, path: &str, cookie: &str, pause: Duration) -> Result<(Vec<f64>, usize)> {
    let mut asker = Asker::connect(&hub.address)?;
    let request = page_request(path, cookie, "");
    let (mut took, mut bytes) = (Vec::with_capacity(ASKS), 0);
    for _ in 0..ASKS {
        // So long that the next answer is made anew, or not at all: that is what is measured.
        std::thread::sleep(pause);
        let began = Instant::now();
        let (status, text) = asker.ask(&request)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        if status != 200 {
            bail!("{path} was answered {status}: {text:.300}");
        }
        bytes = text.len();
    }
    Ok((took, bytes))
}

/// Waits until the hub has little to do; answers the processors that it uses then.
fn wait_for_rest(hub: &Hub) -> Result<f64> {
    let end = Instant::now() + REST_WITHIN;
    loop {
        let (began, before) = (Instant::now(), hub.cpu_seconds()?);
        // The span over which the hub's processor time is measured.
        std::thread::sleep(Duration::from_secs(2));
        let busy = (hub.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
        if busy < REST || Instant::now() > end {
            return Ok(busy);
        }
    }
}

/// One turn's figures.
struct Turn {
    rate: f64,
    cpu_us: f64,
    fetched: f64,
}

fn viewers(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(turn(options, binary, 0)?);
        with.push(turn(options, binary, VIEWERS)?);
    }
    let median = |turns: &[Turn], of: fn(&Turn) -> f64| percentile(&turns.iter().map(of).collect::<Vec<_>>(), 50);
    let rates = [median(&without, |turn| turn.rate), median(&with, |turn| turn.rate)];
    let cpus = [median(&without, |turn| turn.cpu_us), median(&with, |turn| turn.cpu_us)];
    for (name, rate, cpu) in [("no dashboard", rates[0], cpus[0]), ("200 dashboards", rates[1], cpus[1])] {
        report.push(format!("dashboard: {name} open, deliveries"), rate, "/s", Target::None);
        report.push(format!("dashboard: {name} open, hub CPU per delivery"), cpu, "us", Target::None);
    }
    report.push("dashboard: parts that 200 fetched", median(&with, |turn| turn.fetched), "/s", Target::None);
    report.push("dashboard: deliveries with by without", rates[1] / rates[0], "x", Target::AtLeast(0.95));
    report.push("dashboard: hub CPU per delivery with by without", cpus[1] / cpus[0], "x", Target::AtMost(1.05));
    Ok(())
}

/// 100 partners x 3,000 events, while so many dashboards are open.
fn turn(options: &Options, binary: &str, viewers: usize) -> Result<Turn> {
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    let (partners, events) = (100, options.scaled(3_000));
    hub.add_partners(&receiver, partners, 16)?;
    let cookie = hub.sign_in()?;
    let fetched = tempfile::NamedTempFile::new()?;
    let watching = match viewers {
        0 => None,
        count => {
            let file = fetched.path().to_str().context("a strange path")?.to_owned();
            Some(Process::start("viewers-process", &[hub.address.clone(), cookie, count.to_string(), file])?)
        }
    };
    let (before, cpu) = (count_of(fetched.path()), hub.cpu_seconds()?);
    let load = load::run(&hub, Wanted { events, publishers: 16, rate: 0.0 })?;
    let last = receiver.wait_for(events * partners)?;
    let seconds = (last - load.began) as f64 / 1e9;
    let deliveries = (events * partners) as f64;
    let cpu_us = (hub.cpu_seconds()? - cpu) * 1e6 / deliveries;
    let fetched = (count_of(fetched.path()) - before) / seconds;
    drop(watching);
    hub.stop()?;
    Ok(Turn { rate: deliveries / seconds, cpu_us, fetched })
}

fn count_of(file: &Path) -> f64 {
    std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
}
