//! Every test of the project, by its own runner, and one line of counts at the very end.
//!
//! A suite that cannot run is never silently left out: it is named, counted as skipped, and fails in CI.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::tally::Tally;
use crate::{prepare, shell};

/// Runs everything; the last line printed is `N passed, N failed, N skipped`.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut suites = Suites::default();
    suites.rust();
    suites.python();
    suites.browser();
    for note in &suites.notes {
        shell::say(note);
    }
    shell::say(&suites.tally.to_string());
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    if suites.tally.failed > 0 {
        bail!("tests failed");
    }
    if is_ci && !suites.left_out.is_empty() {
        bail!("in CI every suite must run; left out: {}", suites.left_out.join(", "));
    }
    Ok(())
}

#[derive(Default)]
struct Suites {
    tally: Tally,
    left_out: Vec<&'static str>,
    notes: Vec<String>,
}

impl Suites {
    fn rust(&mut self) {
        // The mail server, the store and the brokers of Kafka that the channels are tested against are Python packages.
        let servers = || {
            prepare::sshd()
                .and_then(|()| prepare::proxies())
                .and_then(|()| prepare::mosquitto())
                .and_then(|()| prepare::brokers())
                .and_then(|()| prepare::fuse())
                .and_then(|()| prepare::postgres())
                .and_then(|()| prepare::python().map(drop))
        };
        if let Err(error) = prepare::compiler().and_then(|()| servers()) {
            self.leave_out("rust", &error);
            return;
        }
        if shell::works("cargo", &["nextest", "--version"]) {
            self.runner("rust", cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]));
            self.runner("rust docs", cargo(&["test", "--doc", "--workspace", "--no-fail-fast"]));
        } else {
            self.runner("rust", cargo(&["test", "--workspace", "--no-fail-fast"]));
        }
    }

    fn python(&mut self) {
        let python = match prepare::python() {
            Ok(python) => python,
            Err(error) => {
                self.leave_out("python", &error);
                return;
            }
        };
        self.check("mypy", in_sdk(&python, &["-m", "mypy"]));
        self.runner("python sdk", in_sdk(&python, &["-m", "pytest", "--color=no"]));
        if shell::run("cargo", &["build", "--package", "hms-ess"]).is_err() {
            self.fail("the mission, the system: hms-ess did not build");
            return;
        }
        if let Err(error) = prepare::alertmanager() {
            self.notes.push(format!("LEFT OUT the real Alertmanager: {error:#}"));
        }
        if let Err(error) = prepare::balancer() {
            self.notes.push(format!("MISSING for the test of a hub that stops: {error:#}"));
        }
        if let Err(error) = prepare::ops_tools() {
            // Their tests fail and say what is missing.
            self.notes.push(format!("MISSING for what lies in ops/: {error:#}"));
        }
        let suite = |folder: &str| {
            let mut suite = shell::command(&python.to_string_lossy(), &["-m", "pytest", "--color=no", "-ra", folder]);
            suite.env("HMS_ESS_BIN", prepare::target().join("debug/hms-ess"));
            suite
        };
        self.runner("the mission", suite("tests/mission"));
        self.runner("the system", suite("tests/system"));
        let mut on_a_server = suite("tests/system");
        on_a_server.args(["-m", "any_store and not large"]).env("HMS_ESS_TEST_STORE", "postgres");
        self.runner("the system, its store at a PostgreSQL server", on_a_server);
    }

    fn browser(&mut self) {
        let browser = match prepare::browser() {
            Ok(browser) => browser,
            Err(error) => return self.leave_out("the browser", &error),
        };
        if shell::run("cargo", &["build", "--package", "hms-ess"]).is_err() {
            self.fail("the browser: hms-ess did not build");
            return;
        }
        if let Err(error) = prepare::postgres() {
            self.notes.push(format!("MISSING for the pages of several hubs: {error:#}"));
        }
        // Each file has a hub and a browser of its own.
        let mut suite =
            shell::command("node", &["--test", "--test-reporter=spec", "--test-concurrency=2", "tests/browser/"]);
        suite.env("HMS_ESS_BIN", prepare::target().join("debug/hms-ess"));
        suite.env("HMS_ESS_BROWSER_MODULES", browser.modules);
        suite.env("HMS_ESS_CHROMIUM", browser.chromium);
        suite.env("HMS_ESS_SHOTS", prepare::target().join("screenshots"));
        self.runner("the dashboard in a browser", suite);
    }

    /// Runs a test runner and adds its own counts.
    fn runner(&mut self, name: &str, command: Command) {
        shell::say(&format!("--- {name}"));
        let before = self.tally;
        match shell::tee(command) {
            Ok(printed) => {
                self.tally.add(&printed.text);
                let is_told = self.tally.failed > before.failed;
                if !printed.is_success && !is_told {
                    self.fail(&format!("{name}: the runner failed without a count; see above"));
                }
                if printed.is_success && self.tally == before && name != "rust docs" {
                    self.fail(&format!("{name}: the runner ran no test"));
                }
            }
            Err(error) => self.fail(&format!("{name}: {error:#}")),
        }
    }

    /// Runs a checker that has no counts: it is one test.
    fn check(&mut self, name: &str, command: Command) {
        shell::say(&format!("--- {name}"));
        match shell::tee(command) {
            Ok(printed) if printed.is_success => self.tally.passed += 1,
            _ => self.fail(&format!("{name} failed; see above")),
        }
    }

    fn fail(&mut self, note: &str) {
        self.tally.failed += 1;
        self.notes.push(format!("FAILED {note}"));
    }

    fn leave_out(&mut self, name: &'static str, error: &anyhow::Error) {
        self.tally.skipped += 1;
        self.left_out.push(name);
        self.notes.push(format!("LEFT OUT {name}: {error:#}"));
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = shell::command("cargo", args);
    // The counts are read off plain text.
    command.env("CARGO_TERM_COLOR", "never");
    command
}

fn in_sdk(python: &Path, args: &[&str]) -> Command {
    let mut command = shell::command(&python.to_string_lossy(), args);
    command.current_dir(shell::root().join("sdk/python"));
    command
}
