//! `hms-ess jsonata`: evaluate one script, by the engine that the hub uses.

use clap::Args;
use ess_hub::scripts::{Once, evaluate_once};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::wire;

/// Arguments of `jsonata`.
#[derive(Debug, Args)]
pub(crate) struct JsonataArgs {
    /// The script.
    #[arg(allow_hyphen_values = true)]
    script: String,
    /// The input, JSON; an empty one is undefined.
    #[arg(allow_hyphen_values = true)]
    input: String,
    /// Variables: a JSON object of names to values.
    #[arg(long, value_name = "JSON")]
    bind: Option<String>,
}

/// Evaluates.
pub(crate) async fn run(args: &JsonataArgs, output: &Output) -> Result<()> {
    let once = Once { script: &args.script, input: Some(&args.input), bind: args.bind.as_deref() };
    match evaluate_once(wire::script_options()?, once).await {
        Ok(Some(result)) => output.line(result),
        Ok(None) => Ok(()),
        Err(error) => {
            output.note(json!({"code": error.code, "message": error.message, "position": error.position}));
            Err(Failure::told())
        }
    }
}
