//! The hub under test: the release binary on a fresh folder, spoken to only as any client would.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::process::{self, Process};
use super::receiver::Receiver;
use super::wire::{Asker, request};

/// How long an orderly stop may take; the hub's own bound is 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A hub that runs.
pub(super) struct Hub {
    child: Child,
    /// Kills the hub should the bench be killed.
    guard: Option<Process>,
    pub(super) address: String,
    pub(super) token: String,
    metrics: String,
    folder: PathBuf,
    /// Goes with the hub.
    own_folder: Option<tempfile::TempDir>,
}

/// Builds the release binary and answers its path.
pub(super) fn build() -> Result<String> {
    crate::shell::run("cargo", &["build", "--release", "-p", "hms-ess"])?;
    let target = crate::prepare::target().join("release/hms-ess");
    Ok(target.to_str().context("the target folder is not UTF-8")?.to_owned())
}

impl Hub {
    /// Starts a hub that trusts the receiver's certificate and may dial loopback.
    pub(super) fn start(binary: &str, receiver: &Receiver) -> Result<Self> {
        let target = crate::prepare::target();
        // On the same disk as the build, not in a memory file system: the fsync is part of the figures.
        let folder = tempfile::tempdir_in(&target).context("no folder for the hub")?;
        let mut hub = Self::start_in(binary, receiver, folder.path(), &[])?;
        hub.own_folder = Some(folder);
        Ok(hub)
    }

    /// The same with its store on a server; a further node of the database has the key and the token of the one that made it.
    pub(super) fn start_at(binary: &str, receiver: &Receiver, store: &str, maker: Option<&Self>) -> Result<Self> {
        let folder = tempfile::tempdir_in(crate::prepare::target()).context("no folder for the hub")?;
        if let Some(maker) = maker {
            std::fs::create_dir(folder.path().join("data"))?;
            for name in ["data/seal.key", "data/admin.token"] {
                std::fs::copy(maker.folder.join(name), folder.path().join(name))
                    .with_context(|| format!("the first hub has no {name}"))?;
            }
        }
        let mut hub = Self::start_in(binary, receiver, folder.path(), &[("HMS_ESS_STORE", store)])?;
        hub.own_folder = Some(folder);
        Ok(hub)
    }

    /// The same on a folder that stays, with these settings besides.
    pub(super) fn start_in(
        binary: &str,
        receiver: &Receiver,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let log = std::fs::File::create(folder.join("log"))?;
        // The hub does not say where its metrics are, so a port that was free a moment ago is named.
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new(binary);
        command
            .args(["serve", "--http", "--listen", "127.0.0.1:0", "--metrics-listen", &metrics])
            .args(["--allow-net", "127.0.0.0/8", "--data"])
            .arg(folder.join("data"))
            .envs(settings.iter().copied())
            .env("HMS_ESS_PROFILE", folder.join("profile.json"))
            .env("RUST_LOG", "warn")
            .stderr(log)
            .stdout(Stdio::piped());
        if let Some(ca) = &receiver.ca {
            command.arg("--partner-ca").arg(ca.path());
        }
        let mut child = command.spawn().with_context(|| format!("could not start {binary}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let folder = folder.to_owned();
        let mut hub = Self {
            child,
            guard: None,
            address: String::new(),
            token: String::new(),
            metrics,
            folder,
            own_folder: None,
        };
        hub.guard = Some(Process::start("guard-process", &[hub.child.id().to_string()])?);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://");
        hub.address = address.with_context(|| format!("the hub did not start: {}", hub.log()))?.to_owned();
        hub.token = std::fs::read_to_string(hub.folder.join("data/admin.token"))?.trim().to_owned();
        Ok(hub)
    }

    /// Adds partners `P0`, `P1` and so on, each with a path of its own at the receiver.
    pub(super) fn add_partners(&self, receiver: &Receiver, count: usize, in_flight: usize) -> Result<()> {
        self.add_partners_with(receiver, count, &json!({"limits": {"in_flight": in_flight}}))
    }

    /// The same, each with these fields of its document besides; an address among them is taken as it is.
    pub(super) fn add_partners_with(&self, receiver: &Receiver, count: usize, fields: &Value) -> Result<()> {
        self.add_partners_at(&format!("{}/p", receiver.url), count, fields)
    }

    /// The same, with the partner's number behind this address.
    pub(super) fn add_partners_at(&self, address: &str, count: usize, fields: &Value) -> Result<()> {
        let mut asker = Asker::connect(&self.address)?;
        for number in 0..count {
            let mut document = fields.clone();
            document["id"] = format!("P{number}").into();
            if document["url"].is_null() {
                document["url"] = format!("{address}{number}").into();
            }
            document["channel"] = "webhook".into();
            document["subscribe"] = json!(["EVT-*"]);
            self.post(&mut asker, "/v1/partners", &document.to_string(), 201)?;
        }
        Ok(())
    }

    /// Adds one partner under this path of the receiver.
    pub(super) fn add_partner(&self, receiver: &Receiver, id: &str, path: &str) -> Result<()> {
        let document = json!({"id": id, "url": format!("{}{path}", receiver.url), "channel": "webhook"});
        self.post(&mut Asker::connect(&self.address)?, "/v1/partners", &document.to_string(), 201)
    }

    /// Removes a partner.
    pub(super) fn remove_partner(&self, id: &str) -> Result<()> {
        let bytes = request("DELETE", &format!("/v1/partners/{id}"), &self.token, "", "");
        let (status, text) = Asker::connect(&self.address)?.ask(&bytes)?;
        if status >= 300 {
            bail!("the removal of {id} was answered {status}: {text}");
        }
        Ok(())
    }

    /// Signs in to the dashboard; the session's cookie.
    pub(super) fn sign_in(&self) -> Result<String> {
        let body = format!("token={}", self.token);
        let bytes = request("POST", "/dashboard/sign-in", "", "application/x-www-form-urlencoded", &body);
        let head = Asker::connect(&self.address)?.ask_for_head(&bytes)?;
        let cookie =
            super::wire::field(head.as_bytes(), b"set-cookie").and_then(|cookie| std::str::from_utf8(cookie).ok());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next());
        Ok(cookie.with_context(|| format!("the sign-in gave no session: {head}"))?.to_owned())
    }

    /// Pauses partners `P0` to `P<count - 1>`.
    pub(super) fn pause_partners(&self, count: usize) -> Result<()> {
        let mut asker = Asker::connect(&self.address)?;
        for number in 0..count {
            self.post(&mut asker, &format!("/v1/partners/P{number}/pause"), "", 200)?;
        }
        Ok(())
    }

    /// Adds a bridge.
    pub(super) fn add_bridge(&self, document: &Value) -> Result<()> {
        self.post(&mut Asker::connect(&self.address)?, "/v1/bridges", &document.to_string(), 201)
    }

    /// Publishes one event.
    pub(super) fn publish(&self, event: &Value) -> Result<()> {
        self.post(&mut Asker::connect(&self.address)?, "/v1/events", &event.to_string(), 202)
    }

    /// What a whole number of the metrics listener is; 0 when it is not there yet.
    pub(super) fn counter(&self, name: &str) -> Result<u64> {
        let (status, text) = Asker::connect(&self.metrics)?.ask(&request("GET", "/metrics", "", "", ""))?;
        if status != 200 {
            bail!("/metrics was answered {status}: {text}");
        }
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value =
            value.map_or(Ok(0.0), |value| value.parse::<f64>().with_context(|| format!("{name} is {value}")))?;
        Ok(value as u64)
    }

    /// Publishes events in bulk; `name` makes their ids.
    pub(super) fn publish_bulk(&self, name: &str, count: usize) -> Result<()> {
        const LINES: usize = 500;
        let mut asker = Asker::connect(&self.address)?;
        for first in (0..count).step_by(LINES) {
            let numbers = first..count.min(first + LINES);
            let size = numbers.len();
            let body: String =
                numbers.map(|number| super::wire::event(&format!("{name}-{number}"), "x") + "\n").collect();
            let bytes = request("POST", "/v1/events", &self.token, "application/x-ndjson", &body);
            let (status, text) = asker.ask(&bytes)?;
            let is_recorded = status == 200 && text.contains(&format!("\"recorded\":{size}"));
            if !is_recorded {
                bail!("a bulk publish was answered {status}: {:.300}", text);
            }
        }
        Ok(())
    }

    /// Posts a document, on a connection of its own, and gives what was made.
    pub(super) fn ask(&self, path: &str, body: &str) -> Result<String> {
        let bytes = request("POST", path, &self.token, "application/json", body);
        let (status, text) = Asker::connect(&self.address)?.ask(&bytes)?;
        if status >= 300 {
            bail!("{path} was answered {status}: {text}");
        }
        Ok(text)
    }

    fn post(&self, asker: &mut Asker, path: &str, body: &str, expected: u16) -> Result<()> {
        let (status, text) = asker.ask(&request("POST", path, &self.token, "application/json", body))?;
        if status != expected {
            bail!("{path} was answered {status}: {text}");
        }
        Ok(())
    }

    /// User and system time of the hub and its evaluation processes.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.child.id())
    }

    /// User and system time of its evaluation processes alone.
    pub(super) fn scripts_cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds_below(self.child.id())
    }

    pub(super) fn resident_mib(&self) -> Result<f64> {
        process::resident_mib(self.child.id())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Stops the hub in order; one that does not stop is a failure of the run.
    pub(super) fn stop(mut self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let end = Instant::now() + STOP_WITHIN;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the hub ended with {status}: {}", self.log()),
                None if Instant::now() > end => bail!("the hub did not stop within {STOP_WITHIN:?}: {}", self.log()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Stopped already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
