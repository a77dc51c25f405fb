//! One conversion for a whole audience: however many partners want version 1, a bridge runs once for each event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::inputs;
use crate::bench::Options;
use crate::bench::hub::Hub;
use crate::bench::receiver::Receiver;
use crate::bench::report::{Report, Target};

/// Events after the first one.
const EVENTS: usize = 20;
/// The longest that conversions are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const CONVERSIONS: &str = "ess_bridge_conversions_total";

/// 10,000 partners on version 1 get events of version 3.
pub(super) fn run(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let partners = options.scaled(10_000);
    let receiver = Receiver::start(options.tls)?;
    let hub = Hub::start(binary, &receiver)?;
    let script = include_str!("mapping.jsonata");
    hub.add_partners_with(&receiver, partners, &json!({"accepts_version": 1}))?;
    hub.add_bridge(&json!({"subject": "EVT-*", "from": 3, "to": 1, "script": script}))?;
    let name = format!("scripts: {partners} partners on v1 of a v3 event");
    let (cpu, scripts_cpu, before) = (hub.cpu_seconds()?, hub.scripts_cpu_seconds()?, hub.counter(CONVERSIONS)?);
    hub.publish(&event(0))?;
    receiver.wait_for(partners)?;
    let first = hub.counter(CONVERSIONS)? - before;
    report.push(format!("{name}: conversions of the first"), first as f64, "", Target::AtMost(1.0));
    for number in 1..=EVENTS {
        hub.publish(&event(number))?;
    }
    // Before the deliveries end: an evaluation process that has nothing to do goes, and its time with it.
    wait_for_conversions(&hub, before + EVENTS as u64 + 1)?;
    let scripts_cpu = hub.scripts_cpu_seconds()? - scripts_cpu;
    let deliveries = (EVENTS + 1) * partners;
    receiver.wait_for(deliveries)?;
    let all = hub.counter(CONVERSIONS)? - before;
    let cpu = hub.cpu_seconds()? - cpu;
    let each = all as f64 / (EVENTS + 1) as f64;
    report.push(format!("{name}: conversions of {}, each", EVENTS + 1), each, "", Target::AtMost(1.0));
    report.push(format!("{name}: hub CPU per delivery"), cpu * 1e6 / deliveries as f64, "us", Target::None);
    report.push(format!("{name}: scripts' share of it"), 100.0 * scripts_cpu / cpu, "%", Target::AtMost(5.0));
    hub.stop()?;
    ensure!(first == 1 && all == EVENTS as u64 + 1, "{} events were converted {all} times", EVENTS + 1);
    Ok(())
}

fn wait_for_conversions(hub: &Hub, count: u64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while hub.counter(CONVERSIONS)? < count {
        ensure!(Instant::now() < end, "not all events were converted within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // It counts when a conversion begins; this is long enough for one.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn event(number: usize) -> serde_json::Value {
    json!({"id": format!("EVT-{number}"), "version": 3, "payload": inputs::rule(number)})
}
