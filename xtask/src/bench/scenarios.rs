//! What is measured: each scenario starts a hub of its own and stops it, and puts figures into the report.

use std::time::Instant;

use anyhow::Result;

use super::hub::Hub;
use super::load::{self, Load, Wanted};
use super::receiver::Receiver;
use super::report::{Report, Target, percentile};
use super::{Options, bare, channels, dashboard, retention, scripts};

/// One scenario.
pub(super) type Scenario = fn(&Options, &str, &mut Report) -> Result<()>;

/// All of them, by the name that `--scenario` takes.
pub(super) const SCENARIOS: [(&str, Scenario); 12] = [
    ("a", one_partner),
    ("b", hundred_partners),
    ("c", thousand_partners),
    ("d", black_hole),
    ("e", idle),
    ("backlog", dead_partner),
    ("audience", many_partners),
    ("scripts", scripts::run),
    ("retention", retention::run),
    ("dashboard", dashboard::run),
    ("channels", channels::run),
    ("fetchers", channels::fetchers),
];

const NO_TARGETS: [Target; 2] = [Target::None, Target::None];

/// 1 partner x 20,000 events, 64 publishers at a time.
fn one_partner(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    report.push("memory idle", hub.resident_mib()?, "MiB", Target::AtMost(20.0));
    hub.add_partners(&receiver, 1, 64)?;
    let events = options.scaled(20_000);
    let cpu = hub.cpu_seconds()?;
    let load = load::run(&hub, Wanted { events, publishers: 64, rate: 0.0 })?;
    let last = receiver.wait_for(events)?;
    let cpu = (hub.cpu_seconds()? - cpu) * 1e6 / events as f64;
    let seconds = (last - load.began) as f64 / 1e9;
    report.push("a: publishes answered", events as f64 / load.seconds(), "/s", Target::None);
    report.push("a: events delivered", events as f64 / seconds, "/s", Target::RateAtLeast(20_000.0));
    report.push("a: hub CPU per event", cpu, "us", Target::TimeAtMost(60.0));
    report.push_latencies("a: publish to durable receipt", &load.receipt_us(), NO_TARGETS);
    push_end_to_end(report, "a", &receiver, &load, NO_TARGETS)?;
    hub.stop()
}

/// 100 partners x 500 events, between two runs of the bare client.
fn hundred_partners(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(options.tls)?;
    let (events, partners, posts) = (options.scaled(500), 100, options.scaled(100_000));
    let before = bare::run(&receiver, posts, 100)?;
    receiver.reset()?;
    let hub = Hub::start(binary, &receiver)?;
    hub.add_partners(&receiver, partners, 16)?;
    let cpu = hub.cpu_seconds()?;
    let load = load::run(&hub, Wanted { events, publishers: 16, rate: 0.0 })?;
    let last = receiver.wait_for(events * partners)?;
    let deliveries = (events * partners) as f64;
    let cpu = (hub.cpu_seconds()? - cpu) * 1e6 / deliveries;
    let rate = deliveries / ((last - load.began) as f64 / 1e9);
    let resident = hub.resident_mib()?;
    let arrivals = receiver.arrivals(&load)?;
    hub.stop()?;
    let after = bare::run(&receiver, posts, 100)?;
    let bare_rate = f64::midpoint(before.rate, after.rate);
    report.push("b: bare client (mean of before and after)", bare_rate, "POST/s", Target::None);
    report.push("b: bare client CPU per POST", f64::midpoint(before.cpu_us, after.cpu_us), "us", Target::None);
    report.push("b: receiver CPU per POST", f64::midpoint(before.receiver_us, after.receiver_us), "us", Target::None);
    report.push("b: deliveries", rate, "/s", Target::None);
    report.push("b: share of the bare client's rate", 100.0 * rate / bare_rate, "%", Target::AtLeast(50.0));
    report.push("b: hub CPU per delivery", cpu, "us", Target::TimeAtMost(25.0));
    report.push_latencies("b: publish to durable receipt", &load.receipt_us(), NO_TARGETS);
    report.push_latencies("b: end to end", &arrivals.end_to_end_us, NO_TARGETS);
    report.push("memory after b", resident, "MiB", Target::AtMost(60.0));
    Ok(())
}

/// 1 event x 1,000 partners: connections cold, then warm.
fn thousand_partners(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    const ROUNDS: usize = 21;
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    hub.add_partners(&receiver, 1_000, 16)?;
    let cold = last_arrival_ms(&hub, &receiver)?;
    let mut warm = Vec::new();
    for _ in 0..ROUNDS {
        warm.push(last_arrival_ms(&hub, &receiver)?);
    }
    report.push("c: last arrival, cold connections", cold, "ms", Target::TimeAtMost(60.0));
    let name = format!("c: last arrival, warm connections (median of {ROUNDS})");
    report.push(name, percentile(&warm, 50), "ms", Target::TimeAtMost(15.0));
    hub.stop()
}

fn last_arrival_ms(hub: &Hub, receiver: &Receiver) -> Result<f64> {
    receiver.reset()?;
    let load = load::run(hub, Wanted { events: 1, publishers: 1, rate: 0.0 })?;
    let last = receiver.wait_for(1_000)?;
    Ok((last - load.began) as f64 / 1e6)
}

/// 4 healthy partners, without and with a black hole beside them, 30 events a second.
fn black_hole(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let seconds = if options.quick { 6 } else { 60 };
    let events = 30 * seconds;
    let mut p99 = Vec::new();
    for (name, has_hole) in [("no black hole", false), ("black hole", true)] {
        let receiver = Receiver::start(options.tls)?;
        let hub = Hub::start(binary, &receiver)?;
        hub.add_partners(&receiver, 4, 16)?;
        if has_hole {
            hub.add_partner(&receiver, "HOLE", "/hole")?;
        }
        let load = load::run(&hub, Wanted { events, publishers: 4, rate: 30.0 })?;
        receiver.wait_for(events * 4)?;
        let latencies = receiver.arrivals(&load)?.end_to_end_us;
        p99.push(percentile(&latencies, 99));
        report.push_latencies(&format!("d: healthy partners, {name}"), &latencies, NO_TARGETS);
        hub.stop()?;
    }
    report.push("d: p99 with by p99 without", p99[1] / p99[0], "x", Target::AtMost(1.2));
    Ok(())
}

/// An idle hub: 20 events a second to one partner.
fn idle(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    hub.add_partners(&receiver, 1, 16)?;
    let events = options.scaled(600);
    let load = load::run(&hub, Wanted { events, publishers: 1, rate: 20.0 })?;
    receiver.wait_for(events)?;
    let targets = [Target::TimeAtMost(1.0), Target::TimeAtMost(2.0)];
    push_end_to_end(report, "e", &receiver, &load, targets)?;
    report.push_latencies("e: publish to durable receipt", &load.receipt_us(), NO_TARGETS);
    hub.stop()
}

/// 1,000,000 events behind a partner that is down: memory must not grow with them.
fn dead_partner(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    hub.add_partner(&receiver, "HOLE", "/hole")?;
    let events = options.scaled(1_000_000);
    let began = Instant::now();
    hub.publish_bulk("BULK", events)?;
    let rate = events as f64 / began.elapsed().as_secs_f64();
    report.push("backlog: published in bulk", rate, "/s", Target::None);
    let name = format!("backlog: memory with {events} pending");
    report.push(name, hub.resident_mib()?, "MiB", Target::AtMost(150.0));
    hub.stop()
}

/// Publishing to 1 and to 10,000 partners must cost the same; they are paused, so that only publishing is measured, and the rate
/// is one that leaves the hub idle in between.
fn many_partners(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let mut medians = Vec::new();
    for partners in [1, options.scaled(10_000)] {
        let receiver = Receiver::start(options.tls)?;
        let hub = Hub::start(binary, &receiver)?;
        hub.add_partners(&receiver, partners, 16)?;
        hub.pause_partners(partners)?;
        let events = options.scaled(300);
        let cpu = hub.cpu_seconds()?;
        let load = load::run(&hub, Wanted { events, publishers: 1, rate: 20.0 })?;
        let cpu = (hub.cpu_seconds()? - cpu) * 1e6 / events as f64;
        let name = format!("audience of {partners}");
        report.push(format!("{name}: hub CPU per publish"), cpu, "us", Target::None);
        report.push_latencies(&format!("{name}: publish to durable receipt"), &load.receipt_us(), NO_TARGETS);
        medians.push(percentile(&load.receipt_us(), 50));
        hub.stop()?;
    }
    let ratio = medians[1] / medians[0];
    report.push("audience: receipt p50 for many by p50 for one", ratio, "x", Target::AtMost(1.2));
    Ok(())
}

fn push_end_to_end(
    report: &mut Report,
    scenario: &str,
    receiver: &Receiver,
    load: &Load,
    targets: [Target; 2],
) -> Result<()> {
    let arrivals = receiver.arrivals(load)?;
    report.push_latencies(&format!("{scenario}: end to end"), &arrivals.end_to_end_us, targets);
    if arrivals.repeated > 0 {
        report.note(format!("{scenario}: {} messages came more than once", arrivals.repeated));
    }
    Ok(())
}
