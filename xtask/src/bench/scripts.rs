//! Scripts: what a conversion costs beside the JavaScript reference, and beside the deliveries that it serves.
//!
//! Both engines get the same scripts and the same inputs in the same run, by turns; what they give is compared, so that no
//! speed is bought with another result. The reference has the one process that it can use. The hub is measured twice: with the
//! processes that it has unless told otherwise, and with one, core for core.

mod engine;
mod fan_out;
mod inputs;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Options;
use super::report::{Report, Target};
use engine::{Cost, Engine};

/// Payloads of each kind, used over and over.
const INPUTS: usize = 16;
/// Evaluation processes of a hub that is not told otherwise (`script_workers`).
const PROCESSES: usize = 2;
/// How often each engine has its turn. The best one of each is told: what else the machine does only slows.
const TURNS: usize = 7;

/// One kind of conversion.
struct Conversion {
    name: &'static str,
    script: &'static str,
    input: fn(usize) -> Value,
    /// Evaluations in a turn.
    evaluations: usize,
    /// How many times as fast as the reference it should be.
    target: f64,
}

const CONVERSIONS: [Conversion; 3] = [
    Conversion {
        name: "1 KB mapping",
        script: include_str!("scripts/mapping.jsonata"),
        input: inputs::rule,
        evaluations: 10_000,
        target: 3.0,
    },
    Conversion {
        name: "8 KB with 90 lines",
        script: include_str!("scripts/handbook.jsonata"),
        input: inputs::handbook,
        evaluations: 1_000,
        target: 5.0,
    },
    Conversion {
        name: "94 KB sort and group",
        script: include_str!("scripts/docket.jsonata"),
        input: inputs::docket,
        evaluations: 300,
        target: 5.0,
    },
];

/// Both parts; that one cannot be measured does not hide the other.
pub(super) fn run(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let parts = [conversions(options, binary, report), fan_out::run(options, binary, report)];
    let failures: Vec<String> = parts.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("; and "));
    Ok(())
}

fn conversions(options: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let module = crate::prepare::jsonata_reference()?;
    let program = engine::build()?;
    for conversion in &CONVERSIONS {
        let folder = tempfile::tempdir_in(crate::prepare::target()).context("no folder for the inputs")?;
        write(conversion, folder.path())?;
        let mut hub = Engine::hub(&program, binary, folder.path(), PROCESSES)?;
        let mut single = Engine::hub(&program, binary, folder.path(), 1)?;
        let mut reference = Engine::reference(&module, folder.path())?;
        let evaluations = options.scaled(conversion.evaluations);
        // The first turn is for caches, and for the reference's compiler; after it the outputs are there.
        hub.run(evaluations)?;
        single.run(evaluations)?;
        reference.run(evaluations)?;
        compare(folder.path()).with_context(|| conversion.name)?;
        let (mut ours, mut singles, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            ours.push(hub.run(evaluations)?);
            singles.push(single.run(evaluations)?);
            theirs.push(reference.run(evaluations)?);
        }
        push(report, conversion, &ours, &singles, &theirs);
    }
    Ok(())
}

fn write(conversion: &Conversion, folder: &Path) -> Result<()> {
    let inputs: Vec<String> = (0..INPUTS).map(|number| (conversion.input)(number).to_string()).collect();
    std::fs::write(folder.join("script.jsonata"), conversion.script)?;
    std::fs::write(folder.join("inputs.ndjson"), inputs.join("\n"))?;
    std::fs::write(folder.join("event.json"), inputs::event().to_string())?;
    Ok(())
}

/// Fails unless both gave the same for each input.
fn compare(folder: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(folder.join(name)).with_context(|| format!("there is no {name}"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let (ours, theirs) = (read("hub.ndjson")?, read("reference.ndjson")?);
    ensure!(ours.len() == INPUTS && theirs.len() == INPUTS, "{} and {} results", ours.len(), theirs.len());
    for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        ensure!(ours == theirs, "input {number} gives {ours:.2000} and in the reference {theirs:.2000}");
    }
    Ok(())
}

fn push(report: &mut Report, conversion: &Conversion, ours: &[Cost], singles: &[Cost], theirs: &[Cost]) {
    let best = |costs: &[Cost], of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    let mut push = |what: &str, value: f64, unit, target| {
        report.push(format!("scripts: {}: {what}", conversion.name), value, unit, target);
    };
    let wall = |cost: &Cost| cost.wall;
    let (our_wall, single_wall, their_wall) = (best(ours, wall), best(singles, wall), best(theirs, wall));
    push("hub, each", our_wall, "us", Target::None);
    push("hub with one process, each", single_wall, "us", Target::None);
    push("hub with one process, CPU of process and callers", best(singles, |cost| cost.cpu), "us", Target::None);
    push("hub with one process, CPU of the process", best(singles, |cost| cost.cpu_below), "us", Target::None);
    push("reference, each", their_wall, "us", Target::None);
    push("reference, CPU", best(theirs, |cost| cost.cpu), "us", Target::None);
    push("reference by hub", their_wall / our_wall, "x", Target::AtLeast(conversion.target));
    push("reference by hub with one process", their_wall / single_wall, "x", Target::AtLeast(conversion.target));
}
