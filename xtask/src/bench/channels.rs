//! Each channel beside the plain client of its protocol, and what connected partners cost while nothing happens.
//!
//! The channels are measured by an example of `ess-channels`, which drives them as lanes do against real servers; this reads
//! its rows. The partners that fetch are the hub's own affair, and are measured at the hub.

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Options;
use super::hub::Hub;
use super::receiver::Receiver;
use super::report::{Report, Target};
use super::wire::request;
use crate::{prepare, shell};

/// Partners that are connected and idle.
const PARTNERS: usize = 1_000;

/// Every channel beside its plain client, by turns.
pub(super) fn run(_: &Options, _: &str, report: &mut Report) -> Result<()> {
    prepare::sshd()?;
    prepare::mosquitto()?;
    prepare::brokers()?;
    prepare::python()?;
    shell::run("cargo", &["build", "--release", "-p", "ess-channels", "--example", "channels_bench"])?;
    let program = prepare::target().join("release/examples/channels_bench");
    let printed = shell::capture(program.to_str().context("the target folder is not UTF-8")?, &[])?;
    for line in printed.lines() {
        let mut parts = line.split('\t');
        let (Some(name), Some(value), Some(unit)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("the bench of the channels printed {line:?}");
        };
        let value: f64 = value.parse().with_context(|| format!("{line:?} has no figure"))?;
        match unit {
            "x" => report.push(name, value, "x", Target::AtLeast(1.0)),
            "MiB" => report.push(name, value, "MiB", Target::AtMost(50.0)),
            _ => report.push(name, value, "/s", Target::None),
        }
    }
    Ok(())
}

/// Partners that fetch, each with a long poll that waits.
pub(super) fn fetchers(_: &Options, binary: &str, report: &mut Report) -> Result<()> {
    let receiver = Receiver::start(false)?;
    let hub = Hub::start(binary, &receiver)?;
    let mut polls = Vec::new();
    let mut before = 0.0;
    for number in 0..PARTNERS {
        if number == 1 {
            // The first one shows what any partner needs once.
            before = hub.resident_mib()?;
        }
        let id = format!("PULL-{number}");
        hub.ask("/v1/partners", &format!(r#"{{"id":"{id}","channel":"pull"}}"#))?;
        let made = hub.ask("/v1/tokens", &format!(r#"{{"role":"partner","partner":"{id}"}}"#))?;
        let made: Value = serde_json::from_str(&made)?;
        let token = made["token"].as_str().context("the hub made no token")?;
        let mut poll = TcpStream::connect(&hub.address)?;
        let path = format!("/v1/partners/{id}/inbox?wait=60s");
        poll.write_all(&request("GET", &path, token, "", ""))?;
        polls.push(poll);
    }
    for poll in &polls {
        poll.set_nonblocking(true)?;
        let is_waiting = poll.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        if !is_waiting {
            bail!("a long poll was answered though there is nothing to fetch");
        }
    }
    let grown = hub.resident_mib()? - before;
    report.push(format!("{PARTNERS} connected pull partners"), grown, "MiB", Target::AtMost(50.0));
    drop(polls);
    hub.stop()
}
