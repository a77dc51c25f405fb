//! The command line: names and flags are a contract (docs/command-line.md). Each verb's arguments stand beside its code.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    apply, audit, backup, bounce, bridge, config_show, dead_letters, doctor, drill, hold, jsonata, ledger, listen,
    partner, publish, redact, reference, replay, retract, schema, shell, status, store, table, tap, target, token, top,
    unacked,
};
use crate::config::ServeArgs;
use crate::demo::DemoArgs;
use crate::failure::Failure;

/// Broadcast rule changes to every partner system and know who acknowledged.
#[derive(Debug, Parser)]
#[command(
    name = "hms-ess",
    version,
    disable_help_subcommand = true,
    after_help = "Start with `hms-ess demo`: the whole loop on this machine."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Globals {
    /// Print JSON (errors too, on stderr).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The hub, such as `https://hub.sandbox.gov`; commas between several addresses of it [default: HMS_ESS_HUB, then the profile].
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) hub: Option<String>,
    /// Certificates to trust, PEM [default: HMS_ESS_CA, then the profile].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Why, for the audit trail; for commands that change something.
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole loop on this machine: hub, partners, one rule change, who acknowledged.
    Demo(DemoArgs),
    /// Run the hub.
    Serve(ServeArgs),
    /// Publish an event, or many from an .ndjson file.
    Publish(publish::PublishArgs),
    /// Show who acknowledged an event.
    Status(status::StatusArgs),
    /// Send events again.
    Replay(replay::ReplayArgs),
    /// Take an event back at everyone who got it.
    Retract(retract::RetractArgs),
    /// Add, show and run partners.
    #[command(subcommand)]
    Partner(partner::PartnerCommand),
    /// Bring the hub to what a folder of partners, bridges, schemas and tables says; shows a plan first.
    Apply(apply::ApplyArgs),
    /// Add, try and test Version Bridges.
    #[command(subcommand)]
    Bridge(bridge::BridgeCommand),
    /// JSON Schemas that payloads must fit.
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Lookup tables for scripts.
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Deliveries that were given up.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// The Ack Ledger: every receipt, tamper-evident.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Prove that a partner acknowledged an event, in a file that needs no hub.
    Prove(ledger::ProveArgs),
    /// Write all that is on record about an event, with proofs, into a packet for a court.
    Audit(audit::AuditArgs),
    /// List deliveries that lack their ACK: urgent first, then oldest, each with what to run.
    Unacked(unacked::UnackedArgs),
    /// Take a bounced mail: the delivery that did not arrive becomes a dead letter.
    Bounce(bounce::BounceArgs),
    /// Legal holds: what they cover is not removed, however old.
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// Take an event's payload away for good; its proofs stay valid.
    Redact(redact::RedactArgs),
    /// Where Ops are told of trouble.
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// List the hubs that share this one's store, and how many partners each serves.
    Nodes,
    /// Access tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The store itself, without a hub.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Copy the hub's store to a file on the hub's machine, while it runs.
    Backup(backup::BackupArgs),
    /// Fetch a partner's events from its inbox and hand each to a local webhook.
    Listen(listen::ListenArgs),
    /// Follow what happens, live.
    Tap(tap::TapArgs),
    /// Watch the lanes of all partners live: what is open, how old, how fast, and why not.
    Top(top::TopArgs),
    /// Hold an exercise: send a test event to all or some partners and report who acknowledged, how fast, and who did not.
    Drill(drill::DrillArgs),
    /// Look at all that a hub stands on - configuration, certificates, clock, disk, partners - and say what to do.
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell.
    Completions(shell::CompletionsArgs),
    /// Write man pages.
    Man(shell::ManArgs),
    /// Evaluate one JSONata script.
    Jsonata(jsonata::JsonataArgs),
    /// Show the hub's configuration.
    #[command(subcommand)]
    Config(config_show::ConfigCommand),
    /// Show versions.
    Version,
    /// Writes the pages of the docs that are made from the code.
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
    /// Evaluates scripts for the hub; started by it.
    #[command(hide = true)]
    ScriptWorker,
}

/// A command line that clap does not take, in the one shape of failures; help and versions are no failure.
pub(crate) fn misspelt(error: &clap::Error) -> Option<Failure> {
    use clap::error::ErrorKind;
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        return None;
    }
    let text = error.render().to_string();
    let usage = text.find("Usage: ").map_or("", |at| text[at..].split("\n\n").next().unwrap_or_default());
    let said = text.split("Usage: ").next().unwrap_or_default().trim_start_matches("error: ");
    let is_tip = |line: &&str| line.trim_start().starts_with("tip: ");
    let one_line = |lines: Vec<&str>| lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let detail = one_line(said.lines().filter(|line| !is_tip(line)).collect());
    let tips: Vec<&str> =
        said.lines().filter(is_tip).map(|line| line.trim_start().trim_start_matches("tip: ")).collect();
    let hint = match (tips.is_empty(), usage) {
        (false, _) => tips.join("; "),
        (true, "") => "`hms-ess --help` shows every command".to_owned(),
        (true, usage) => one_line(usage.trim_start_matches("Usage: ").lines().collect()),
    };
    Some(Failure::usage(detail).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every command that can be run, with its words.
    fn commands(command: &clap::Command, before: &str, found: &mut Vec<(String, clap::Command)>) {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            let name = format!("{before} {}", inner.get_name());
            match inner.has_subcommands() {
                true => commands(inner, &name, found),
                false => found.push((name, inner.clone())),
            }
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_flag_is_on_its_page_and_takes_json() {
        let page = include_str!("../../../docs/command-line.md");
        let mut root = Cli::command();
        root.build();
        let mut found = Vec::new();
        commands(&root, "hms-ess", &mut found);
        assert!(found.len() > 50, "{}", found.len());
        let mut lacking = Vec::new();
        for (name, command) in found {
            if !page.contains(&format!("`{name}")) {
                lacking.push(name.clone());
            }
            let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
            assert!(flags.contains(&"json"), "{name} takes no --json");
            let is_told = |flag: &&&str| matches!(**flag, "help" | "version") || page.contains(&format!("--{flag}"));
            lacking.extend(flags.iter().filter(|flag| !is_told(flag)).map(|flag| format!("--{flag} of {name}")));
        }
        assert!(lacking.is_empty(), "docs/command-line.md lacks {lacking:?}");
    }

    #[test]
    fn what_clap_refuses_has_the_one_shape() {
        let say = |words: &[&str]| {
            let error = Cli::try_parse_from([&["hms-ess"], words].concat()).unwrap_err();
            let failure = misspelt(&error).unwrap();
            (failure.detail, failure.hint.unwrap())
        };
        let (detail, hint) = say(&["publsh"]);
        assert_eq!(
            (detail.as_str(), hint.as_str()),
            ("unrecognized subcommand 'publsh'", "a similar subcommand exists: 'publish'")
        );
        let (detail, hint) = say(&["publish"]);
        assert_eq!(detail, "the following required arguments were not provided: <FILE>");
        assert!(hint.starts_with("hms-ess publish"), "{hint}");
        assert!(Cli::try_parse_from(["hms-ess", "--help"]).is_err_and(|error| misspelt(&error).is_none()));
    }
}
