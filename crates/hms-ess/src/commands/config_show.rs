//! `hms-ess config show` and `hms-ess version`.

use clap::Subcommand;
use ess_core::partner::Secrets;
use serde_json::json;

use crate::config::{Config, Layers, ServeArgs, layers, targets};
use crate::failure::Result;
use crate::output::Output;

/// What is done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key with its value and where it comes from; takes the flags of `serve`.
    Show(ServeArgs),
}

/// Shows.
pub(crate) fn run(command: &ConfigCommand, output: &Output) -> Result<()> {
    let ConfigCommand::Show(args) = command;
    let mut layers = layers(args)?;
    let config = Config::read(&layers)?;
    mask_targets(&mut layers)?;
    if let (Some(server), Some(written)) = (config.store, layers.get_mut("store")) {
        written.text = server.to_string();
    }
    if output.json {
        let map: serde_json::Map<String, serde_json::Value> = layers
            .iter()
            .map(|(key, written)| ((*key).to_owned(), json!({"value": written.text, "source": written.source})))
            .collect();
        return output.json(&serde_json::Value::Object(map));
    }
    let rows =
        layers.iter().map(|(key, written)| vec![(*key).to_owned(), written.text.clone(), written.source.clone()]);
    output.table(&["KEY", "VALUE", "FROM"], rows.collect())
}

/// Secrets that stand in the section itself are not shown.
fn mask_targets(layers: &mut Layers) -> Result<()> {
    let masked: serde_json::Map<String, serde_json::Value> =
        targets(layers)?.into_iter().map(|(name, target)| (name, target.to_json(Secrets::Masked))).collect();
    if let Some(written) = layers.get_mut("targets")
        && !masked.is_empty()
    {
        written.text = serde_json::Value::Object(masked).to_string();
    }
    Ok(())
}

/// Names the program and the JSONata level.
pub(crate) fn version(output: &Output) -> Result<()> {
    let level = ess_core::script::JSONATA_LEVEL;
    if output.json {
        return output.json(&json!({"version": env!("CARGO_PKG_VERSION"), "jsonata": level}));
    }
    output.line(format_args!("hms-ess {}\nJSONata {level}", env!("CARGO_PKG_VERSION")))
}
