//! The command line: names and flags are a contract (docs/command-line.md). Each verb's arguments stand beside its code.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    apply, audit, backup, bounce, bridge, config_show, dead_letters, hold, jsonata, ledger, listen, partner, publish,
    redact, replay, retract, schema, status, store, table, tap, target, token, unacked,
};
use crate::config::ServeArgs;
use crate::demo::DemoArgs;

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
    /// The hub, such as `https://hub.sandbox.gov` [default: HMS_ESS_HUB, then the profile].
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
    /// Evaluate one JSONata script.
    Jsonata(jsonata::JsonataArgs),
    /// Show the hub's configuration.
    #[command(subcommand)]
    Config(config_show::ConfigCommand),
    /// Show versions.
    Version,
    /// Evaluates scripts for the hub; started by it.
    #[command(hide = true)]
    ScriptWorker,
}
