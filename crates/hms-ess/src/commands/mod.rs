//! The verbs of the command line, a file each.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bounce;
pub(crate) mod bridge;
pub(crate) mod config_show;
pub(crate) mod dead_letters;
pub(crate) mod doctor;
pub(crate) mod drill;
pub(crate) mod hold;
pub(crate) mod jsonata;
pub(crate) mod ledger;
pub(crate) mod listen;
pub(crate) mod nodes;
pub(crate) mod partner;
pub(crate) mod publish;
pub(crate) mod redact;
pub(crate) mod reference;
pub(crate) mod replay;
pub(crate) mod retract;
pub(crate) mod schema;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod tap;
pub(crate) mod target;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod unacked;

use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::cli::{Cli, Command, Globals};
use crate::client::Client;
use crate::config::profile::{self, ClientEnv};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{demo, serve};

/// Runs the command.
pub(crate) fn run(cli: Cli, output: &Output) -> Result<()> {
    let is_server = matches!(cli.command, Command::Serve(_) | Command::Demo(_));
    let runtime = if is_server {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    let runtime = runtime.map_err(|error| Failure::io("could not start", &error))?;
    let result = runtime.block_on(dispatch(cli, output));
    // A follower's open connection must not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}

async fn dispatch(cli: Cli, output: &Output) -> Result<()> {
    let globals = &cli.globals;
    match cli.command {
        Command::Demo(args) => demo::run(&args, output).await,
        Command::Serve(args) => serve::run(&args, output).await,
        Command::Publish(args) => publish::run(&args, &client(globals)?, output).await,
        Command::Status(args) => status::run(&args, &client(globals)?, output).await,
        Command::Replay(args) => replay::run(&args, &client(globals)?, output).await,
        Command::Retract(args) => retract::run(&args, &client(globals)?, output).await,
        Command::Partner(command) => partner::run(&command, &client(globals)?, output).await,
        Command::Apply(args) => apply::run(&args, &client(globals)?, output).await,
        Command::Bridge(command) => bridge::run(&command, globals, output).await,
        Command::Schema(command) => schema::run(&command, &client(globals)?, output).await,
        Command::Table(command) => table::run(&command, &client(globals)?, output).await,
        Command::DeadLetters(command) => dead_letters::run(&command, globals, output).await,
        Command::Ledger(command) => ledger::run(&command, globals, output).await,
        Command::Prove(args) => ledger::prove(&args, &client(globals)?, output).await,
        Command::Audit(args) => audit::run(&args, &client(globals)?, output).await,
        Command::Bounce(args) => bounce::run(&args, &client(globals)?, output).await,
        Command::Unacked(args) => unacked::run(&args, &client(globals)?, output).await,
        Command::Hold(command) => hold::run(&command, globals, output).await,
        Command::Redact(args) => redact::run(&args, globals, output).await,
        Command::Nodes => nodes::run(&client(globals)?, output).await,
        Command::Target(command) => target::run(&command, &client(globals)?, output).await,
        Command::Token(command) => token::run(&command, &client(globals)?, output).await,
        Command::Backup(args) => backup::run(&args, &client(globals)?, output).await,
        Command::Listen(args) => listen::run(&args, &client(globals)?, output).await,
        Command::Tap(args) => tap::run(&args, &client(globals)?, output).await,
        Command::Top(args) => top::run(&args, &client(globals)?, output).await,
        Command::Drill(args) => drill::run(&args, &client(globals)?, output).await,
        Command::Doctor(args) => doctor::run(&args, globals, output).await,
        Command::Completions(args) => shell::completions(&args, output),
        Command::Man(args) => shell::man(&args, output),
        Command::Reference(args) => reference::run(&args, output),
        Command::Jsonata(args) => jsonata::run(&args, output).await,
        Command::Store(command) => store::run(command, output).await,
        Command::Config(command) => config_show::run(&command, output),
        Command::Version => config_show::version(output),
        // Answered in `main`, before there is anything to print with.
        Command::ScriptWorker => Ok(()),
    }
}

/// A client of the hub that the command means.
pub(crate) fn client(globals: &Globals) -> Result<Client> {
    let profile = match profile::path() {
        Some(path) => profile::read(&path)?,
        None => None,
    };
    let targets = profile::targets(globals, &ClientEnv::read(), profile.as_ref())?;
    Client::new(targets, globals.reason.as_deref())
}

/// A file's text, or standard input for `-`.
pub(crate) fn read_input(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut open| open.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::io(format_args!("could not read {}", file.display()), &error))?;
    Ok(text)
}

/// A member of a JSON object, as text for a table.
pub(crate) fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Prints deliveries as a table.
pub(crate) fn delivery_table(output: &Output, items: &[Value]) -> Result<()> {
    let rows = items.iter().map(|item| {
        ["event_id", "partner", "state", "attempts_made", "due_at", "reason", "mend"]
            .map(|name| field(item, name))
            .to_vec()
    });
    output.table(&["EVENT", "PARTNER", "STATE", "ATTEMPTS", "NEXT", "WHY", "MEND WITH"], rows.collect())
}

/// Prints a problem of the document layer.
pub(crate) fn from_problem(problem: ess_core::problem::Problem) -> Failure {
    let failure = Failure::refused(problem.detail);
    match problem.hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
