//! `hms-ess demo`: the whole loop on this machine.
//!
//! Everything is real: a hub with TLS and a store of its own, partners that listen, a bridge in JSONata, the published event of the
//! mission. Only the actors are ours.

mod partners;
mod story;

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ServeArgs, layers};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::serve;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Tell the story once and end.
    #[arg(long)]
    once: bool,
    /// Data directory [default: a new one of its own].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the API [default: 127.0.0.1:8443, or a free port].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

/// Tells the story; stays up unless `--once`.
pub(crate) async fn run(args: &DemoArgs, output: &Output) -> Result<()> {
    let data = match &args.data {
        Some(data) => data.clone(),
        None => std::env::temp_dir().join(format!("hms-ess-demo-{}", std::process::id())),
    };
    let is_free = tokio::net::TcpListener::bind("127.0.0.1:8443").await.is_ok();
    let listen =
        args.listen.clone().unwrap_or_else(|| if is_free { "127.0.0.1:8443" } else { "127.0.0.1:0" }.to_owned());
    let serve_args = ServeArgs {
        listen: Some(listen),
        data: Some(data.display().to_string()),
        allow_net: vec!["127.0.0.0/8".to_owned()],
        metrics_listen: Some("off".to_owned()),
        ..ServeArgs::default()
    };
    let config = Config::read(&layers(&serve_args)?)?;
    let running = serve::start(config).await?;
    serve::write_profile(&running)?;
    let told = story::tell(&running, output).await;
    let result = match told {
        Ok(_) if !args.once => {
            story::what_next(&running, output)?;
            serve::asked_to_stop().await;
            output.line("\nstopping")?;
            Ok(())
        }
        Ok(all_acked) if all_acked => Ok(()),
        Ok(_) => Err(Failure::refused("not every partner acknowledged")),
        Err(failure) => Err(failure),
    };
    running.stop().await;
    result
}
