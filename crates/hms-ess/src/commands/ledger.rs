//! `hms-ess ledger`: verify, checkpoint, key, export; `hms-ess prove`.

mod export;
pub(super) mod packet;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use ess_core::id::Digest;
use ess_core::ledger::checkpoint::{Checkpoint, NoCheckpoint, VerifierKey, notes};
use ess_core::ledger::merkle;
use ess_core::ledger::proof::Proof;
use serde_json::{Value, json};

use super::{client, field, read_input};
use crate::cli::Globals;
use crate::client::{Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check a proof, a packet or an export without a hub; or have the hub walk its whole ledger and check every checkpoint.
    Verify {
        /// The proof as `prove` wrote it, the packet as `audit` wrote it (or the folder that it was unpacked to), or what `export` wrote (a
        /// file, or the directory of all).
        proof: Option<PathBuf>,
        /// The verifier's key, or a file that holds it.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// A checkpoint that was kept apart: does the hub's ledger, or the export, continue it?
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Sign a checkpoint of every receipt that there is, and print it.
    Checkpoint,
    /// Print the key that checkpoints and proofs are verified by; keep it apart from the hub.
    Key,
    /// Print every receipt, a JSON object a line; with --out, write the ledger into a file that is checked without a hub.
    Export {
        /// A file, or a directory that gets a file of what is new since the last one there.
        #[arg(long, value_name = "FILE|DIR")]
        out: Option<PathBuf>,
        /// Leave out the first N receipts, which an earlier export has [default: in a directory, what its files have; else 0].
        #[arg(long, value_name = "N")]
        after: Option<u64>,
    },
}

/// Arguments of `prove`.
#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The event's id.
    event: String,
    /// The partner's id.
    partner: String,
    /// The receipt of this replay; the newest unless given.
    #[arg(long)]
    round: Option<u32>,
    /// Write the proof to this file instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes a proof of a receipt.
pub(crate) async fn prove(args: &ProveArgs, client: &Client, output: &Output) -> Result<()> {
    let (event, partner) = (encode(&args.event), encode(&args.partner));
    let round = args.round.map_or_else(String::new, |round| format!("&round={round}"));
    let value = client.get(&format!("/v1/ledger/proof?event={event}&partner={partner}{round}")).await?;
    let proof = Proof::read(&value.to_string()).map_err(Failure::refused)?.write();
    let Some(file) = &args.out else { return output.line(proof.trim_end()) };
    std::fs::write(file, &proof)
        .map_err(|error| Failure::io(format_args!("could not write {}", file.display()), &error))?;
    if output.json {
        return output.json(&json!({"proof": file.display().to_string()}));
    }
    output.line(format_args!(
        "{}: {} acknowledged {}, provable without this hub",
        file.display(),
        args.partner,
        args.event
    ))?;
    output.line(format_args!("check it with: hms-ess ledger verify {} --key KEY", file.display()))
}

/// Does it.
pub(crate) async fn run(command: &LedgerCommand, globals: &Globals, output: &Output) -> Result<()> {
    match command {
        LedgerCommand::Verify { proof: Some(file), key, checkpoint } => {
            verify_file(file, key.as_deref(), checkpoint.as_deref(), output)
        }
        LedgerCommand::Verify { checkpoint: Some(checkpoint), key, .. } => {
            verify_checkpoint(checkpoint, key.as_deref(), &client(globals)?, output).await
        }
        LedgerCommand::Verify { .. } => {
            let value = client(globals)?.post("/v1/ledger/verify", &json!({})).await?.value()?;
            if output.json {
                return output.json(&value);
            }
            output.line(format_args!("{} receipts, chain whole: {}", field(&value, "size"), field(&value, "chain")))
        }
        LedgerCommand::Checkpoint => {
            let client = client(globals)?;
            let value = client.post("/v1/ledger/checkpoint", &json!({})).await?.value()?;
            if output.json {
                output.json(&value)?
            } else {
                output.line(field(&value, "note").trim_end())?
            }
            let state = client.get("/v1/ledger/checkpoint").await?;
            for place in state["elsewhere"].as_array().into_iter().flatten().filter(|place| !place["error"].is_null()) {
                let (to, since, error) = (field(place, "to"), field(place, "failing_since"), field(place, "error"));
                output.note(format_args!("the {to} elsewhere takes no checkpoint since {since}: {error}"));
            }
            Ok(())
        }
        LedgerCommand::Key => {
            let value = client(globals)?.get("/v1/ledger/checkpoint").await?;
            let key = field(&value, "verifier_key");
            if output.json { output.json(&json!({"verifier_key": key})) } else { output.line(key) }
        }
        LedgerCommand::Export { out: None, after } => export::print(*after, &client(globals)?, output).await,
        LedgerCommand::Export { out: Some(out), after } => export::write(out, *after, &client(globals)?, output).await,
    }
}

/// Checks a proof, a packet or an export with nothing but the key.
fn verify_file(file: &Path, key: Option<&str>, checkpoint: Option<&Path>, output: &Output) -> Result<()> {
    let Some(key) = key else {
        return Err(Failure::usage("a proof is checked with the verifier's key")
            .with_hint("--key KEY, as `hms-ess ledger key` printed it when you kept it"));
    };
    let key = read_key(key)?;
    if let Some(files) = export::files(file)? {
        let kept = match checkpoint {
            Some(checkpoint) => Some(last_checkpoint(checkpoint, &key)?),
            None => None,
        };
        return export::verify(&files, kept.as_ref(), &key, output);
    }
    if checkpoint.is_some() {
        return Err(Failure::usage("--checkpoint goes with an export, or with no file at all"));
    }
    match packet::open(file)? {
        Some(files) => packet::verify(file, &files, &key, output),
        None => verify_proof(file, &key, output),
    }
}

fn verify_proof(file: &Path, key: &VerifierKey, output: &Output) -> Result<()> {
    let proof = Proof::read(&read_input(file)?).map_err(Failure::refused)?;
    let checkpoint = proof.check(key).map_err(|why| broken(file, &why))?;
    let receipt = &proof.receipt;
    if output.json {
        let receipt: Value = serde_json::from_str(&receipt.line()).unwrap_or_default();
        return output.json(&json!({
            "proven": true, "receipt": receipt, "index": proof.index,
            "checkpoint": {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.to_string()},
        }));
    }
    let word = if receipt.word == "ack" { "acknowledged" } else { "refused" };
    let test = if receipt.test { "the dry run " } else { "" };
    output.line(format_args!("proven: {} {word} {test}{} at {}", receipt.partner, receipt.event, receipt.at))?;
    output.line(format_args!(
        "  as version {}, attempt {}, evidenced by {}",
        receipt.version, receipt.attempt, receipt.evidence
    ))?;
    output.line(format_args!("  bytes sent, SHA-256: {}", receipt.body_sha256))?;
    output.line(format_args!("  event, SHA-256: {}", receipt.event_sha256))?;
    output.line(format_args!("  receipt {} of {} in the ledger {}", proof.index, checkpoint.size, checkpoint.origin))
}

/// Checks that the hub's ledger continues a checkpoint that was kept apart.
async fn verify_checkpoint(file: &Path, key: Option<&str>, client: &Client, output: &Output) -> Result<()> {
    let refused = |why: String| Failure::refused(format!("{}: {why}", file.display()));
    let now = client.post("/v1/ledger/checkpoint", &json!({})).await?.value()?;
    let key = match key {
        Some(key) => read_key(key)?,
        None => {
            let head = client.get("/v1/ledger/checkpoint").await?;
            VerifierKey::parse(&field(&head, "verifier_key")).map_err(|why| refused(why.to_owned()))?
        }
    };
    let new = Checkpoint::open(&field(&now, "note"), &key).map_err(|error| refused(format!("the hub's: {error}")))?;
    let text = read_input(file)?;
    let mut continued = Vec::new();
    for note in notes(&text) {
        let old = Checkpoint::open(note, &key).map_err(|error| refused(error.to_string()))?;
        continues(&old, &new, client).await.map_err(refused)?;
        continued.push(old.size);
    }
    if continued.is_empty() {
        return Err(refused(NoCheckpoint::Form("there is no signature").to_string()));
    }
    if output.json {
        return output.json(
            &json!({"continued": true, "from": continued.last(), "to": new.size, "checkpoints": continued.len()}),
        );
    }
    for old in continued {
        output.line(format_args!("the ledger of {} receipts continues the checkpoint of {old}", new.size))?;
    }
    Ok(())
}

/// Whether the hub's ledger continues a checkpoint.
async fn continues(old: &Checkpoint, new: &Checkpoint, client: &Client) -> std::result::Result<(), String> {
    if new.size < old.size {
        return Err(format!(
            "the hub's ledger has {} receipts, fewer than the {} of the checkpoint",
            new.size, old.size
        ));
    }
    let path = format!("/v1/ledger/consistency?from={}&to={}", old.size, new.size);
    let proof = client.get(&path).await.map_err(|failure| failure.detail)?;
    let hash = |step: &Value| {
        let bytes = step.as_str().and_then(|step| STANDARD.decode(step).ok()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Digest).ok_or_else(|| "the hub's proof was not understood".to_owned())
    };
    let path = proof["path"].as_array().into_iter().flatten().map(hash);
    let path = path.collect::<std::result::Result<Vec<Digest>, String>>()?;
    if merkle::continues((old.size, &old.root), (new.size, &new.root), &path) {
        return Ok(());
    }
    Err(format!(
        "the hub's ledger is not the continuation of the checkpoint of {}: receipts were changed or removed",
        old.size
    ))
}

/// The newest checkpoint of a file that holds one or more.
fn last_checkpoint(file: &Path, key: &VerifierKey) -> Result<Checkpoint> {
    let refused = |why: &dyn std::fmt::Display| Failure::refused(format!("{}: {why}", file.display()));
    let text = read_input(file)?;
    let note = notes(&text).last().ok_or_else(|| refused(&NoCheckpoint::Form("there is no signature")))?;
    Checkpoint::open(note, key).map_err(|error| refused(&error))
}

fn read_key(key: &str) -> Result<VerifierKey> {
    let text = if Path::new(key).is_file() { read_input(Path::new(key))? } else { key.to_owned() };
    VerifierKey::parse(&text).map_err(|why| {
        Failure::refused(why).with_hint("`hms-ess ledger key` prints the key of a hub that can be reached")
    })
}

/// A file that does not hold what it claims: whoever checks it may have no hub to look at.
fn broken(file: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format!("{}: {why}", file.display())).with_hint(
        "do not rely on it: get the file again from who made it, and check the key against one that you kept",
    )
}
