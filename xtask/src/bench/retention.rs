//! Retention at work beside deliveries: a store with 10,000,000 attempts, the same load with retention and without, by turns.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Options;
use super::hub::Hub;
use super::load::{self, Wanted};
use super::receiver::Receiver;
use super::report::{Report, Target, percentile};

/// Events a second while latencies are measured.
const RATE: f64 = 100.0;
/// How often each turn is taken.
const ROUNDS: usize = 3;
/// Nothing is old enough for this.
const KEEP_ALL: [(&str, &str); 2] = [("HMS_ESS_KEEP_ATTEMPTS", "100y"), ("HMS_ESS_KEEP_EVENTS", "100y")];
/// A quarter of the attempts and a sixth of the payloads are older.
const KEEP_SOME: [(&str, &str); 2] = [("HMS_ESS_KEEP_ATTEMPTS", "90d"), ("HMS_ESS_KEEP_EVENTS", "100d")];
/// How long the rest may take, with nothing else to do.
const REST_WITHIN: Duration = Duration::from_secs(1_800);
/// Without a change for so long it is done: a disk that moves a gigabyte may stand still for some seconds.
const STILL_FOR: Duration = Duration::from_secs(60);

/// One turn's latencies and what went meanwhile.
struct Turn {
    receipt_us: Vec<f64>,
    end_to_end_us: Vec<f64>,
    removed: Removed,
    seconds: f64,
}

/// What retention counted.
#[derive(Clone, Copy, Default)]
struct Removed {
    attempts: u64,
    payloads: u64,
    pages: u64,
}

/// 10,000,000 attempts in the store; 100 events a second to one partner, with retention off and on by turns.
pub(super) fn run(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let attempts = options.scaled(10_000_000);
    let events = options.scaled(3_000);
    let target = crate::prepare::target();
    let folder = tempfile::tempdir_in(&target).context("no folder for the hub")?;
    let began = Instant::now();
    prefill(folder.path(), attempts)?;
    report.push(format!("retention: {attempts} attempts made"), began.elapsed().as_secs_f64(), "s", Target::None);
    let receiver = Receiver::start(options.tls)?;
    let before = file_mib(folder.path())?;
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        off.push(turn(binary, &receiver, folder.path(), &KEEP_ALL, (round, events))?);
        on.push(turn(binary, &receiver, folder.path(), &KEEP_SOME, (round + ROUNDS, events))?);
    }
    let rest = finish(binary, &receiver, folder.path())?;
    let after = file_mib(folder.path())?;
    let all = |turns: &[Turn], of: fn(&Turn) -> &Vec<f64>| -> Vec<f64> { turns.iter().flat_map(of).copied().collect() };
    for (name, of) in [
        ("publish to durable receipt", (|turn| &turn.receipt_us) as fn(&Turn) -> &Vec<f64>),
        ("publish to partner", |turn| &turn.end_to_end_us),
    ] {
        let (without, with) = (all(&off, of), all(&on, of));
        report.push_latencies(&format!("retention off: {name}"), &without, [Target::None; 2]);
        report.push_latencies(&format!("retention on: {name}"), &with, [Target::None; 2]);
        let ratio = percentile(&with, 99) / percentile(&without, 99);
        report.push(format!("retention: {name}, p99 on by off"), ratio, "x", Target::AtMost(1.2));
    }
    let seconds: f64 = on.iter().map(|turn| turn.seconds).sum();
    let removed = on.iter().map(|turn| turn.removed.attempts).sum::<u64>();
    report.push("retention: attempts removed beside the load", removed as f64 / seconds, "/s", Target::None);
    let sum = |of: fn(&Removed) -> u64| on.iter().map(|turn| of(&turn.removed)).sum::<u64>() + of(&rest);
    report.push("retention: attempts removed", sum(|removed| removed.attempts) as f64, "", Target::None);
    report.push("retention: payloads removed", sum(|removed| removed.payloads) as f64, "", Target::None);
    report.push("retention: pages given back", sum(|removed| removed.pages) as f64, "", Target::None);
    report.push("retention: database before", before, "MiB", Target::None);
    report.push("retention: database after", after, "MiB", Target::AtMost(before * 0.85));
    Ok(())
}

/// A hub on the folder with these settings, and a load.
fn turn(
    binary: &str,
    receiver: &Receiver,
    folder: &Path,
    settings: &[(&str, &str)],
    (number, events): (usize, usize),
) -> Result<Turn> {
    receiver.reset()?;
    let hub = Hub::start_in(binary, receiver, folder, settings)?;
    // One partner of its own for each turn: nothing of another turn waits in its lane.
    let id = format!("P{number}");
    hub.add_partner(receiver, &id, &format!("/{}", id.to_lowercase()))?;
    let (began, before) = (Instant::now(), removed(&hub)?);
    let load = load::run(&hub, Wanted { events, publishers: 8, rate: RATE })?;
    receiver.wait_for(events)?;
    let (seconds, after) = (began.elapsed().as_secs_f64(), removed(&hub)?);
    let end_to_end_us = receiver.arrivals(&load)?.end_to_end_us;
    hub.remove_partner(&id)?;
    hub.stop()?;
    let removed = Removed {
        attempts: after.attempts - before.attempts,
        payloads: after.payloads - before.payloads,
        pages: after.pages - before.pages,
    };
    Ok(Turn { receipt_us: load.receipt_us(), end_to_end_us, removed, seconds })
}

/// Lets retention do what is left.
fn finish(binary: &str, receiver: &Receiver, folder: &Path) -> Result<Removed> {
    let hub = Hub::start_in(binary, receiver, folder, &KEEP_SOME)?;
    let (end, mut known, mut since) = (Instant::now() + REST_WITHIN, Removed::default(), Instant::now());
    while Instant::now() < end {
        let now = removed(&hub)?;
        if (now.attempts, now.payloads, now.pages) != (known.attempts, known.payloads, known.pages) {
            (known, since) = (now, Instant::now());
        } else if since.elapsed() > STILL_FOR {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    hub.stop()?;
    Ok(known)
}

fn removed(hub: &Hub) -> Result<Removed> {
    let of = |what: &str| hub.counter(&format!("ess_retention_removed_total{{what=\"{what}\"}}"));
    Ok(Removed { attempts: of("attempts")?, payloads: of("payloads")?, pages: of("pages")? })
}

fn file_mib(folder: &Path) -> Result<f64> {
    Ok(folder.join("data/ess.db").metadata()?.len() as f64 / 1_048_576.0)
}

/// Fills the folder's store, by the store's own example.
fn prefill(folder: &Path, attempts: usize) -> Result<()> {
    crate::shell::run("cargo", &["build", "--release", "-p", "ess-store", "--example", "prefill"])?;
    let program = crate::prepare::target().join("release/examples/prefill");
    let data = folder.join("data");
    let words = [data.to_str().context("the folder is not UTF-8")?, &attempts.to_string()];
    crate::shell::run(program.to_str().context("the target folder is not UTF-8")?, &words)
}
