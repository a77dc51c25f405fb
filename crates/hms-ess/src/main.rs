//! The program `hms-ess`: command line, configuration and wiring. It decides nothing that the engine should decide.

mod cli;
mod client;
mod commands;
mod config;
mod demo;
mod failure;
mod notify;
mod output;
mod serve;
mod stream;
mod tls;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::ScriptWorker) {
        return ess_hub::scripts::worker_main();
    }
    let output = output::Output::from_terminal(cli.globals.json);
    match commands::run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}
