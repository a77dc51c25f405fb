//! What a command prints: data to stdout, all else to stderr; colour and progress on a terminal only.
//!
//! Nothing here panics when the reader goes away: a closed pipe ends the command quietly.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;
use serde_json::Value;

use crate::failure::{Failure, Kind, Result};

/// How this run prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// `--json`.
    pub(crate) json: bool,
    /// Whether stdout takes colours.
    pub(crate) colour: bool,
    /// Whether stdout is a terminal.
    pub(crate) terminal: bool,
    /// Whether stderr takes colours.
    pub(crate) error_colour: bool,
    error_terminal: bool,
}

impl Output {
    /// A pipe without colours, for tests.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { json: false, colour: false, terminal: false, error_colour: false, error_terminal: false }
    }

    /// Looks at the terminal and at `NO_COLOR` (<https://no-color.org>).
    pub(crate) fn from_terminal(json: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let (terminal, error_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            colour: terminal && !no_colour && !json,
            terminal,
            error_colour: error_terminal && !no_colour,
            error_terminal,
        }
    }

    /// Text as it is, its line ends included.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        write_all(text.as_bytes())
    }

    /// One line of data.
    pub(crate) fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        write_all(format!("{text}\n").as_bytes())
    }

    /// A JSON value, as `--json` prints it: indented for people, one line in a pipe.
    pub(crate) fn json(&self, value: &Value) -> Result<()> {
        if self.terminal { self.line(format_args!("{value:#}")) } else { self.line(value) }
    }

    /// A JSON body exactly as the hub wrote it: numbers keep every digit.
    pub(crate) fn raw_json(&self, body: &[u8]) -> Result<()> {
        let mut bytes = body.to_vec();
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        write_all(&bytes)
    }

    /// A table; nothing but the header when there are no rows.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        write_all(self.render(header, rows).as_bytes())
    }

    /// Takes back the last lines on a terminal, to write them anew.
    pub(crate) fn rewind(&self, lines: usize) -> Result<()> {
        // Zero would count as one.
        if lines == 0 { Ok(()) } else { write_all(format!("\x1b[{lines}A\x1b[J").as_bytes()) }
    }

    /// The text of a table, with a line end.
    pub(crate) fn render(&self, header: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            // In a pipe a row is a line, however long.
            table.force_no_tty();
        }
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row.into_iter().map(|text| {
                let cell = Cell::new(&text);
                match colour_of(&text) {
                    Some(colour) => cell.fg(colour),
                    None => cell,
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt() + "\n"
    }

    /// A status word in its colour.
    pub(crate) fn word(&self, word: &str) -> String {
        if !self.colour {
            return word.to_owned();
        }
        match colour_of(word) {
            Some(Color::Green) => word.green().to_string(),
            Some(Color::Red) => word.red().to_string(),
            Some(_) => word.yellow().to_string(),
            None => word.to_owned(),
        }
    }

    /// Something worth knowing that is no data: stderr.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        // Nothing is left to tell a reader who closed stderr.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A progress bar on a terminal, none in a pipe; a length of zero is one that nobody knows.
    pub(crate) fn progress(&self, length: u64, what: &'static str) -> ProgressBar {
        if !self.error_terminal || self.json {
            return ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
        let template = match length {
            0 => "{spinner} {msg} {pos} {rate}",
            _ => "{msg} {wide_bar} {pos}/{len} {rate} {eta}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &indicatif::ProgressState, text: &mut dyn std::fmt::Write| {
                // A bar that can't be drawn is no reason to stop.
                let _ = write!(text, "{:.0}/s", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.set_message(what);
        bar
    }

    /// Whether somebody can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && self.error_terminal
    }

    /// Asks a yes-or-no question on the terminal; no is the default.
    pub(crate) fn ask(&self, question: &str) -> Result<bool> {
        let mut stderr = io::stderr();
        write!(stderr, "{question} [y/N] ")
            .and_then(|()| stderr.flush())
            .map_err(|error| Failure::io("could not ask", &error))?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| Failure::io("could not read the answer", &error))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Prints why the command failed and answers its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> ExitCode {
        match failure.kind {
            Kind::PipeClosed => return ExitCode::SUCCESS,
            Kind::Told => return ExitCode::from(1),
            Kind::Refused | Kind::Usage => {}
        }
        if self.json {
            self.note(failure.to_json());
        } else {
            let mark = if self.error_colour { "error:".red().bold().to_string() } else { "error:".to_owned() };
            self.note(format_args!("{mark} {}", failure.detail));
            let mark = if self.error_colour { "hint:".cyan().bold().to_string() } else { "hint:".to_owned() };
            self.note(format_args!("\n{mark} {}", failure.hint()));
        }
        ExitCode::from(if failure.kind == Kind::Usage { 2 } else { 1 })
    }
}

/// A span for people: `0.4 ms`, `31 ms`, `2.1 s`, `5m`.
pub(crate) fn span(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1_000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else if ms < 60_000.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else {
        let minutes = span.as_secs() / 60;
        match (minutes / 60, minutes % 60) {
            (0, minutes) => format!("{minutes}m"),
            (hours, 0) => format!("{hours}h"),
            (hours, minutes) => format!("{hours}h{minutes}m"),
        }
    }
}

fn colour_of(word: &str) -> Option<Color> {
    match word {
        "ack" | "active" | "ok" | "deliver" | "well" => Some(Color::Green),
        "pending" | "retrying" | "awaiting_ack" | "paused" | "slow" | "unacknowledged" | "warn" | "no ACK" => {
            Some(Color::Yellow)
        }
        "dead" | "nack" | "blocked" | "offline" | "given_up" | "fail" | "not received" => Some(Color::Red),
        _ => None,
    }
}

fn write_all(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("could not write to stdout", &error))
}
