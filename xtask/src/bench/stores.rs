//! The hub on a PostgreSQL server beside the hub on its embedded store, and several hubs on one server.
//!
//! The two stores take turns, so that what else the machine does meets both; medians are told. The server's processor time is that of
//! all its processes, from before the first publish until the hub has stopped and everything is written down.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;

use super::Options;
use super::database::{Database, SETTINGS};
use super::hub::Hub;
use super::load::{self, Wanted};
use super::receiver::Receiver;
use super::report::{Report, Target, percentile};

/// Turns of each store.
const TURNS: usize = 3;
const PARTNERS: usize = 100;
/// How long what was delivered may take to be recorded.
const RECORD_WITHIN: Duration = Duration::from_secs(60);
/// What partners take to answer where waiting is to be the limit, and how many messages each takes at once.
const ANSWER_AFTER_MS: u32 = 50;
const IN_FLIGHT: usize = 4;
const PARTNERS_OF_NODE: usize = 50;

/// What one turn showed.
#[derive(Default)]
struct Turn {
    deliveries: f64,
    recorded: f64,
    hub_us: f64,
    commits: f64,
    receipt_us: Vec<f64>,
    end_to_end_us: Vec<f64>,
    database_us: f64,
    wal_bytes_each: f64,
    receipts_a_row: f64,
}

/// Scenario b on both stores by turns; with several nodes, those on partners that take their time.
pub(super) fn run(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let database = Database::start(&options.database_settings)?;
    report.note(format!("PostgreSQL in {} with {SETTINGS} {}", database.dir.display(), options.database_settings));
    if options.wants("b") {
        both_stores(options, binary, &database, report)?;
    }
    if options.nodes > 1 && options.wants("nodes") {
        nodes(options, binary, &database, report)?;
    }
    if options.nodes > 1 && options.wants("queue") {
        queue(options, binary, &database, report)?;
    }
    Ok(())
}

fn both_stores(options: &Options, binary: &str, database: &Database, report: &mut Report) -> Result<()> {
    let (mut embedded, mut served) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        embedded.push(take_turn(options, binary, None)?);
        served.push(take_turn(options, binary, Some(database))?);
    }
    for (store, turns) in [("SQLite", &embedded), ("PostgreSQL", &served)] {
        let mut push = |what: &str, unit, of: fn(&Turn) -> f64| {
            report.push(format!("b on {store}: {what}"), median(turns, of), unit, Target::None);
        };
        push("deliveries", "/s", |turn| turn.deliveries);
        push("deliveries recorded", "/s", |turn| turn.recorded);
        push("hub CPU per delivery", "us", |turn| turn.hub_us);
        push("commits", "", |turn| turn.commits);
        push("publish to durable receipt, p50", "ms", |turn| percentile(&turn.receipt_us, 50) / 1e3);
        push("publish to durable receipt, p99", "ms", |turn| percentile(&turn.receipt_us, 99) / 1e3);
        push("end to end, p50", "ms", |turn| percentile(&turn.end_to_end_us, 50) / 1e3);
        push("end to end, p99", "ms", |turn| percentile(&turn.end_to_end_us, 99) / 1e3);
    }
    let by = |of: fn(&Turn) -> f64| median(&served, of) / median(&embedded, of);
    report.push("b: deliveries, PostgreSQL by SQLite", by(|turn| turn.deliveries), "x", Target::AtLeast(0.6));
    report.push("b: recorded, PostgreSQL by SQLite", by(|turn| turn.recorded), "x", Target::AtLeast(0.6));
    let database_us = median(&served, |turn| turn.database_us);
    report.push("b: PostgreSQL CPU per delivery", database_us, "us", Target::TimeAtMost(5.0));
    report.push("b: receipts in a row of the ledger", median(&served, |turn| turn.receipts_a_row), "", Target::None);
    let wal_bytes = median(&served, |turn| turn.wal_bytes_each);
    report.push("b: WAL per delivery", wal_bytes, "bytes", Target::None);
    report.push("b: WAL per event", wal_bytes * PARTNERS as f64, "bytes", Target::None);
    Ok(())
}

fn take_turn(options: &Options, binary: &str, database: Option<&Database>) -> Result<Turn> {
    let receiver = Receiver::start(options.tls)?;
    let events = options.scaled(500);
    let deliveries = (events * PARTNERS) as f64;
    let made = database.map(Database::make).transpose()?;
    let hub = match &made {
        Some((url, _)) => Hub::start_at(binary, &receiver, url, None)?,
        None => Hub::start(binary, &receiver)?,
    };
    hub.add_partners(&receiver, PARTNERS, 16)?;
    let wal = database.map_or(Ok(0.0), Database::wal_bytes)?;
    let database_cpu = database.map_or(Ok(0.0), Database::cpu_seconds)?;
    let (cpu, commits) = (hub.cpu_seconds()?, hub.counter(COMMITS)?);
    let load = load::run(&hub, Wanted { events, publishers: 16, rate: 0.0 })?;
    let last = receiver.wait_for(events * PARTNERS)?;
    let hub_us = (hub.cpu_seconds()? - cpu) * 1e6 / deliveries;
    let recorded = wait_until_recorded(&hub)?;
    let commits = (hub.counter(COMMITS)? - commits) as f64;
    let arrivals = receiver.arrivals(&load)?;
    hub.stop()?;
    let database_cpu = database.map_or(Ok(0.0), Database::cpu_seconds)? - database_cpu;
    let wal = database.map_or(Ok(0.0), Database::wal_bytes)? - wal;
    let rows: f64 = match (database, &made) {
        (Some(database), Some((_, name))) => database.ask(name, "select count(*) from ledger")?.parse()?,
        _ => f64::NAN,
    };
    let per_second = |end: u64| deliveries / ((end.max(last) - load.began) as f64 / 1e9);
    Ok(Turn {
        deliveries: per_second(last),
        recorded: per_second(recorded),
        hub_us,
        commits,
        receipt_us: load.receipt_us(),
        end_to_end_us: arrivals.end_to_end_us,
        database_us: database_cpu * 1e6 / deliveries,
        wal_bytes_each: wal / deliveries,
        receipts_a_row: deliveries / rows,
    })
}

const COMMITS: &str = "ess_store_commit_seconds_count";

/// When nothing waited for a commit any more.
fn wait_until_recorded(hub: &Hub) -> Result<u64> {
    let end = Instant::now() + RECORD_WITHIN;
    while hub.counter("ess_store_unrecorded_count")? > 0 {
        if Instant::now() > end {
            bail!("receipts were not recorded within {RECORD_WITHIN:?}");
        }
        // Between two looks at a counter; `RECORD_WITHIN` bounds them.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(super::wire::now_ns())
}

/// One hub, and then several, on partners that answer after a while. A partner's own pace is the limit, so that each node brings
/// as many partners as the one had; all of them are published to at the first. One hub with all those partners is told beside.
fn nodes(options: &Options, binary: &str, database: &Database, report: &mut Report) -> Result<()> {
    let mut rates = Vec::new();
    for (count, shares) in [(1, 1), (options.nodes, options.nodes), (1, options.nodes)] {
        let partners = PARTNERS_OF_NODE * shares;
        let (rate, hubs_us, database_us) = run_nodes(options, binary, database, (count, partners))?;
        let name = format!("nodes: {count} with {partners} partners that answer after {ANSWER_AFTER_MS} ms");
        report.push(format!("{name}: deliveries"), rate, "/s", Target::None);
        report.push(format!("{name}: hubs' CPU per delivery"), hubs_us, "us", Target::None);
        report.push(format!("{name}: PostgreSQL CPU per delivery"), database_us, "us", Target::None);
        rates.push(rate);
    }
    let target = Target::AtLeast(0.9 * options.nodes as f64);
    report.push(format!("nodes: deliveries of {} by those of 1", options.nodes), rates[1] / rates[0], "x", target);
    Ok(())
}

/// As many hubs on one database; the first knows it from its beginning.
fn start_nodes(binary: &str, receiver: &Receiver, database: &Database, count: usize) -> Result<Vec<Hub>> {
    let (url, _) = database.make()?;
    let mut hubs = vec![Hub::start_at(binary, receiver, &url, None)?];
    for _ in 1..count {
        let more = Hub::start_at(binary, receiver, &url, hubs.first())?;
        hubs.push(more);
    }
    Ok(hubs)
}

/// Those that came last first, so that what they hand over has somebody to go to.
fn stop_nodes(mut hubs: Vec<Hub>) -> Result<()> {
    while let Some(hub) = hubs.pop() {
        hub.stop()?;
    }
    Ok(())
}

fn run_nodes(
    options: &Options,
    binary: &str,
    database: &Database,
    (count, partners): (usize, usize),
) -> Result<(f64, f64, f64)> {
    let receiver = Receiver::start(options.tls)?;
    let hubs = start_nodes(binary, &receiver, database, count)?;
    let first = hubs.first().context("no hub")?;
    let events = options.scaled(200);
    let path = format!("{}/after/{ANSWER_AFTER_MS}/p", receiver.url);
    first.add_partners_at(&path, partners, &json!({"limits": {"in_flight": IN_FLIGHT}}))?;
    let deliveries = (events * partners) as f64;
    let cpu = |hubs: &[Hub]| hubs.iter().map(Hub::cpu_seconds).sum::<Result<f64>>();
    let (hubs_cpu, database_cpu) = (cpu(&hubs)?, database.cpu_seconds()?);
    let load = load::run(first, Wanted { events, publishers: 16, rate: 0.0 })?;
    let last = receiver.wait_for(events * partners)?;
    let hubs_us = (cpu(&hubs)? - hubs_cpu) * 1e6 / deliveries;
    stop_nodes(hubs)?;
    let database_us = (database.cpu_seconds()? - database_cpu) * 1e6 / deliveries;
    Ok((deliveries / ((last - load.began) as f64 / 1e9), hubs_us, database_us))
}

/// What commits of several nodes wait for each other: one publisher at each node, who asks for the next event when one is recorded,
/// so that each publish is a commit by itself. Nobody is sent anything.
fn queue(options: &Options, binary: &str, database: &Database, report: &mut Report) -> Result<()> {
    let events = options.scaled(2_000);
    for count in [1, 2, options.nodes.max(4)] {
        let receiver = Receiver::start(options.tls)?;
        let hubs = start_nodes(binary, &receiver, database, count)?;
        let before = database.cpu_seconds()?;
        let loads = std::thread::scope(|scope| {
            let wanted = Wanted { events, publishers: 1, rate: 0.0 };
            let under_way: Vec<_> = hubs.iter().map(|hub| scope.spawn(move || load::run(hub, wanted))).collect();
            let ended = under_way.into_iter().map(|load| load.join().map_err(|_| anyhow!("a publisher broke off"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        let took = loads.iter().map(load::Load::seconds).fold(0.0, f64::max);
        let receipt_us: Vec<f64> = loads.iter().flat_map(load::Load::receipt_us).collect();
        stop_nodes(hubs)?;
        let commits = (events * count) as f64;
        let database_us = (database.cpu_seconds()? - before) * 1e6 / commits;
        let name = format!("queue: {count} nodes with a publisher each");
        report.push(format!("{name}: commits"), commits / took, "/s", Target::None);
        report.push(format!("{name}: publish to receipt, p50"), percentile(&receipt_us, 50) / 1e3, "ms", Target::None);
        report.push(format!("{name}: publish to receipt, p99"), percentile(&receipt_us, 99) / 1e3, "ms", Target::None);
        report.push(format!("{name}: PostgreSQL CPU per commit"), database_us, "us", Target::None);
    }
    Ok(())
}

fn median(turns: &[Turn], of: fn(&Turn) -> f64) -> f64 {
    percentile(&turns.iter().map(of).collect::<Vec<f64>>(), 50)
}
