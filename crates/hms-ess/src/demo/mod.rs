//! `hms-ess demo`: the whole loop on this machine.
//!
//! Everything is real: a hub with TLS and a store of its own, partners that listen, a bridge in JSONata, the published event of the
//! mission. Only the actors are ours.

mod partners;
mod story;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::profile::{self, Profile};
use crate::config::{Config, ServeArgs, layers};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::serve::{self, Running};

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
        None => new_folder()?,
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
    let running = serve::start(Config::read(&layers(&serve_args)?)?).await?;
    let told = tokio::select! {
        told = story::tell(&running, output) => told.map(Some),
        () = serve::asked_to_stop() => Ok(None),
    };
    let result = match told {
        Ok(Some(scene)) if !args.once => stay(scene, &running, output).await,
        Ok(Some(scene)) if scene.all_acked => Ok(()),
        Ok(Some(_)) => Err(Failure::refused("not every partner acknowledged")
            .with_hint("the lines above say who and why; `hms-ess demo` again starts afresh")),
        Ok(None) => {
            output.note("\nstopping");
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    running.stop().await;
    result
}

/// Says what to try next and shows what comes of it until Ctrl-C.
async fn stay(mut scene: story::Scene<'_>, running: &Running, output: &Output) -> Result<()> {
    let profile = DemoProfile::write(running).await?;
    let said = match story::what_next(running, &profile.prefix(), output) {
        Ok(()) => tokio::select! {
            said = scene.go_on() => said,
            () = serve::asked_to_stop() => Ok(()),
        },
        Err(failure) => Err(failure),
    };
    profile.take_back();
    output.note(format_args!("\nstopping; what was recorded stays in {}", running.data_dir().display()));
    said
}

/// The profile by which the next commands find the demo's hub.
struct DemoProfile {
    path: PathBuf,
    written: Profile,
    before: Option<Profile>,
    is_default: bool,
}

impl DemoProfile {
    /// Writes it where clients look first; beside the demo's data when another hub answers to the profile that is there.
    async fn write(running: &Running) -> Result<Self> {
        let written = running.profile();
        let beside = running.data_dir().join("profile.json");
        let default = profile::path();
        // One that can't be read is somebody's all the same.
        let before = default.as_deref().map(profile::read);
        let (path, before, is_default) = match (default, before) {
            (Some(path), Some(Ok(before))) if !is_alive(before.as_ref(), &written).await => (path, before, true),
            _ => (std::path::absolute(&beside).unwrap_or(beside), None, false),
        };
        profile::write(&path, &written)?;
        Ok(Self { path, written, before, is_default })
    }

    /// What a command line begins with to use it.
    fn prefix(&self) -> String {
        if self.is_default { String::new() } else { format!("HMS_ESS_PROFILE={} ", self.path.display()) }
    }

    /// Leaves the profile as it was, unless somebody wrote another one meanwhile.
    fn take_back(&self) {
        if profile::read(&self.path).ok().flatten().as_ref() != Some(&self.written) {
            return;
        }
        // The demo is over either way; a profile that stays says only that no hub answers.
        let _ = match &self.before {
            Some(before) => profile::write(&self.path, before),
            None => {
                std::fs::remove_file(&self.path).map_err(|error| Failure::io("could not remove the profile", &error))
            }
        };
    }
}

/// Whether another hub than the demo's answers to the profile.
async fn is_alive(profile: Option<&Profile>, own: &Profile) -> bool {
    let Some(profile) = profile.filter(|profile| profile.hub != own.hub) else { return false };
    let Ok(uri) = profile.hub.parse::<http::Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let port = uri.port_u16().unwrap_or(443);
    let connect = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port));
    tokio::time::timeout(Duration::from_millis(500), connect).await.is_ok_and(|connected| connected.is_ok())
}

/// A new folder that nobody else can have made or can read.
fn new_folder() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!("hms-ess-demo-{:x}-{:x}", started.as_millis(), std::process::id());
    let path = std::env::temp_dir().join(name);
    // Not made recursively: a folder that is there already is somebody else's.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|error| Failure::io(format_args!("could not make {}", path.display()), &error))?;
    Ok(path)
}
