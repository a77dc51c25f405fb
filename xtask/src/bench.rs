//! `cargo xtask bench`: the hub under load, beside a bare client doing the same POSTs to the same receiver in the same run.
//!
//! Load generator, receiver and bare client are processes of their own (this program again), so that the hub's processor time is
//! its own. Figures are ratios of one session: machines differ, and a busy machine is said to be one.

mod bare;
mod channels;
mod dashboard;
mod database;
mod hub;
mod load;
mod process;
mod receiver;
mod report;
mod retention;
mod scenarios;
mod scripts;
mod stores;
mod viewers;
mod wire;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use receiver::Receiver;
use report::Report;
use scenarios::{SCENARIOS, Scenario};

const USAGE: &str = "known: --scenario a|b|c|d|e|backlog|audience|scripts|retention|channels|fetchers|dashboard|all  --tls  --quick  --scale FACTOR  --hub-binary PATH  --json FILE  --store postgres  --nodes N  --database-settings 'NAME=VALUE ...'";
/// Processor seconds a second that others may use before the figures are doubted.
const OTHERS_MAX: f64 = 0.1;

/// What was asked for.
struct Options {
    scenario: String,
    /// A tenth of everything.
    quick: bool,
    scale: f64,
    tls: bool,
    binary: Option<String>,
    json: Option<PathBuf>,
    /// The hub on a PostgreSQL server, beside the one on its embedded store.
    is_on_postgres: bool,
    /// Hubs that share the server.
    nodes: usize,
    /// Further settings of that server.
    database_settings: String,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            scenario: "all".to_owned(),
            quick: false,
            scale: 1.0,
            tls: false,
            binary: None,
            json: None,
            is_on_postgres: false,
            nodes: 1,
            database_settings: String::new(),
        };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().cloned().with_context(|| format!("{arg} takes a value; {USAGE}"));
            match arg.as_str() {
                "--scenario" => options.scenario = value()?,
                "--hub-binary" => options.binary = Some(value()?),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--scale" => options.scale = value()?.parse().context("--scale takes a number")?,
                "--store" => match value()?.as_str() {
                    "postgres" => options.is_on_postgres = true,
                    other => bail!("unknown store {other}; the embedded one is always measured, beside it: postgres"),
                },
                "--nodes" => options.nodes = value()?.parse().context("--nodes takes a number")?,
                "--database-settings" => options.database_settings = value()?,
                "--quick" => options.quick = true,
                "--tls" => options.tls = true,
                other => bail!("unknown argument {other}; {USAGE}"),
            }
        }
        let is_known = ["all", "nodes", "queue"].contains(&options.scenario.as_str())
            || SCENARIOS.iter().any(|(name, _)| *name == options.scenario);
        if !is_known {
            bail!("unknown scenario {}; {USAGE}", options.scenario);
        }
        let is_of_nodes = ["nodes", "queue"].contains(&options.scenario.as_str()) || options.nodes != 1;
        if is_of_nodes && (options.nodes < 2 || !options.is_on_postgres) {
            bail!("several nodes share a server: --store postgres --nodes 2");
        }
        if options.is_on_postgres && !["all", "b", "nodes", "queue"].contains(&options.scenario.as_str()) {
            bail!("with --store postgres the scenarios are b and, with --nodes, nodes and queue");
        }
        Ok(options)
    }

    fn wants(&self, scenario: &str) -> bool {
        self.scenario == "all" || self.scenario == scenario
    }

    /// How many, after `--quick` and `--scale`.
    fn scaled(&self, number: usize) -> usize {
        let scale = if self.quick { self.scale / 10.0 } else { self.scale };
        ((number as f64 * scale) as usize).max(1)
    }
}

/// Runs the benches, or one of their processes.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some((name, rest)) = args.split_first() {
        match name.as_str() {
            "receiver-process" => return receiver::process(rest),
            "load-process" => return load::process(rest),
            "bare-process" => return bare::process(rest),
            "viewers-process" => return viewers::process(rest),
            "guard-process" => return process::guard(rest),
            _ => {}
        }
    }
    let options = Options::parse(args)?;
    if cfg!(debug_assertions) {
        return run_in_release(args);
    }
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary)?.to_str().context("the path is not UTF-8")?.to_owned(),
        // The channels are measured without a hub.
        None if options.scenario == "channels" => String::new(),
        None => hub::build()?,
    };
    let others = others_busy()?;
    let bare = bare::run(&Receiver::start(false)?, options.scaled(100_000), 100)?;
    let mut report = Report::new(&options, bare);
    if others > OTHERS_MAX {
        report.note(format!("other programs used {others:.2} processors as the run began: the figures are too low"));
    }
    let mut failed = Vec::new();
    let stores: [(&str, Scenario); 1] = [("stores", stores::run)];
    for (name, scenario) in if options.is_on_postgres { &stores[..] } else { &SCENARIOS } {
        if options.is_on_postgres || options.wants(name) {
            crate::shell::complain(&format!("scenario {name} ..."));
            if let Err(error) = scenario(&options, &binary, &mut report) {
                report.note(format!("scenario {name} failed: {error:#}"));
                failed.push(*name);
            }
        }
    }
    crate::shell::say(report.text()?.trim_end());
    if let Some(file) = &options.json {
        std::fs::write(file, report.json()?).with_context(|| format!("could not write {}", file.display()))?;
    }
    if !failed.is_empty() {
        bail!("scenarios that failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The bench again, as a release build: what loads and receives is measured beside the hub.
fn run_in_release(args: &[String]) -> Result<()> {
    crate::shell::run("cargo", &["build", "--release", "-p", "xtask"])?;
    let program = crate::prepare::target().join("release/xtask");
    let mut command = std::process::Command::new(program);
    let status = command.arg("bench").args(args).status().context("could not start the bench")?;
    if status.success() { Ok(()) } else { bail!("the bench failed ({status})") }
}

/// Processors that are in use while the bench does nothing.
fn others_busy() -> Result<f64> {
    let (began, before) = (Instant::now(), process::machine_seconds()?);
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok((process::machine_seconds()? - before) / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why this is refused; nothing when it is not.
    fn refusal(line: &str) -> String {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn several_nodes_share_a_server() {
        assert_eq!(refusal("--store postgres"), "");
        assert_eq!(refusal("--store postgres --scenario b --quick"), "");
        assert_eq!(refusal("--store postgres --nodes 2 --scenario nodes"), "");
        assert!(refusal("--nodes 2").contains("--store postgres"));
        assert!(refusal("--store postgres --nodes 0").contains("--nodes 2"));
        assert!(refusal("--scenario nodes").contains("--store postgres"));
        assert!(refusal("--store postgres --scenario c").contains("the scenarios are b"));
        assert!(refusal("--store oracle").contains("unknown store"));
    }
}
