//! `hms-ess serve`: the hub as a process.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use ess_http::ServerOptions;
use ess_hub::Hub;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::profile::{self, Profile};
use crate::config::{Config, ServeArgs, layers, unknown_variables};
use crate::failure::{Failure, Result};
use crate::notify::{self, Stage};
use crate::output::Output;
use crate::{tls, wire};

/// How often the certificate's files are looked at.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// A hub that listens.
pub(crate) struct Running {
    /// The engine.
    pub(crate) hub: Hub,
    /// Its URL as it says it: scheme and the address that it listens on.
    pub(crate) listening: String,
    /// Its URL for clients on this machine.
    pub(crate) url: String,
    /// Its first admin token.
    pub(crate) token: String,
    config: Config,
    stop: watch::Sender<bool>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: &ServeArgs, output: &Output) -> Result<()> {
    let config = Config::read(&layers(args)?)?;
    start_log(config.log_json);
    for warning in
        unknown_variables(std::env::vars().map(|(name, _)| name).collect::<Vec<_>>().iter().map(String::as_str))
    {
        tracing::warn!("{warning}");
    }
    let running = start(config).await?;
    if let Err(failure) = write_profile(&running) {
        // It is a convenience for clients; a full disk is no reason not to serve.
        tracing::warn!("{}; clients need --hub or HMS_ESS_HUB, and HMS_ESS_TOKEN", failure.detail);
    }
    let mut stop = std::pin::pin!(asked_to_stop());
    // Asked once before the hub says that it is ready: a signal right after the line finds somebody who listens.
    tokio::select! {
        biased;
        () = &mut stop => {}
        () = std::future::ready(()) => {
            output.line(format_args!("listening on {}", running.listening))?;
            notify::tell(Stage::Ready);
            stop.await;
        }
    }
    wind_down(running).await
}

/// Tells balancers first, then stops in good order; a second signal, or twice the bound, ends it at once.
async fn wind_down(running: Running) -> Result<()> {
    notify::tell(Stage::Stopping);
    running.hub.begin_draining();
    let (delay, bound) = (running.config.drain_delay, running.config.stop_within);
    let stopping = async {
        if !delay.is_zero() {
            tracing::info!("asked to stop: /readyz says so from now on, and all else is answered for {delay:?} more");
            // The time that was configured for balancers to notice, however soon they do.
            tokio::time::sleep(delay).await;
        }
        running.stop().await;
    };
    tokio::select! {
        () = stopping => Ok(()),
        () = asked_to_stop() => {
            Err(Failure::refused("stopped at once, as asked twice; what was in flight is sent again at the next start"))
        }
        // The last bound of the stop, whatever hangs.
        () = tokio::time::sleep(delay + bound * 2) => {
            Err(Failure::refused("the hub did not stop in time; what was in flight is sent again at the next start"))
        }
    }
}

/// Starts a hub that listens.
pub(crate) async fn start(config: Config) -> Result<Running> {
    // What partners are told is nobody else's business on this machine.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data)
        .map_err(|error| Failure::io(format_args!("could not make {}", config.data.display()), &error))?;
    let tls = match (&config.tls, config.http) {
        (_, true) => None,
        (Some((cert, key)), false) => Some(tls::Served::from_files(cert, key)?),
        (None, false) => Some(tls::Served::from_own_ca(&config.data, &config.tls_names, config.listen.ip())?),
    };
    let listener = listen(config.listen, "--listen").await?;
    let address = listener.local_addr().map_err(|error| Failure::io("could not listen", &error))?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(listen(address, "--metrics-listen").await?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (listening, url) = (format!("{scheme}://{address}"), format!("{scheme}://{}", dialled(address)));
    let hub = wire::hub(&config, &url).await?;
    let token = wire::admin_token(&hub, &config.data).await?;
    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // The sender that is gone means the same.
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let tls_config = tls.as_ref().map(|tls| tls.config.clone());
    let serving = ess_http::serve(listener, tls_config, hub.clone(), ServerOptions::default(), wait(stopped.clone()));
    let mut servers = vec![spawn(serving)];
    if let Some(tls) = tls {
        note_certificate(&hub, &tls);
        servers.push(tokio::spawn(renew(tls, hub.clone(), stopped.clone())));
    }
    if let Some(listener) = metrics {
        servers.push(spawn(ess_http::serve_metrics(listener, hub.clone(), wait(stopped))));
    }
    Ok(Running { hub, listening, url, token, config, stop, servers })
}

impl Running {
    /// Stops listening, lets what is in flight end within the bound, and closes the store.
    pub(crate) async fn stop(self) {
        let bound = self.config.stop_within;
        // Nobody listening is as good as stopped.
        let _ = self.stop.send(true);
        let servers = async {
            for server in self.servers {
                drop(server.await);
            }
        };
        // One bound for both; an API request that takes half of it will not end by itself.
        let began = tokio::time::Instant::now();
        drop(tokio::time::timeout(bound / 2, servers).await);
        self.hub.stop(bound.saturating_sub(began.elapsed())).await;
    }

    /// What a client must know to use the hub.
    pub(crate) fn profile(&self) -> Profile {
        let has_own_ca = !self.config.http && self.config.tls.is_none();
        let ca = has_own_ca.then(|| self.config.data.join("tls/ca.pem"));
        Profile {
            hub: self.url.clone(),
            token: Some(self.token.clone()),
            ca: ca.map(|ca| std::path::absolute(&ca).unwrap_or(ca)),
            aliases: BTreeMap::from([("https://hub.sandbox.gov".to_owned(), self.url.clone())]),
        }
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.config.data
    }
}

/// Looks for a new certificate, or makes one, every hour and on SIGHUP.
async fn renew(tls: tls::Served, hub: Hub, mut stopped: watch::Receiver<bool>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            _ = hangup.recv() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        match tls.reload() {
            Ok(true) => {
                note_certificate(&hub, &tls);
                tracing::info!("a new certificate is shown from now on");
            }
            Ok(false) => {}
            Err(failure) => tracing::error!("the old certificate is kept: {}", failure.detail),
        }
    }
}

/// The metrics tell when it ends; what can't be read is not watched.
fn note_certificate(hub: &Hub, tls: &tls::Served) {
    match tls.ends() {
        Some(ends) => hub.note_certificate(ends),
        None => tracing::warn!("could not read when the hub's certificate ends; no metric tells it"),
    }
}

/// Where clients on this machine reach a hub that listens here: a hub on all addresses is dialled on loopback.
fn dialled(listening: SocketAddr) -> SocketAddr {
    if listening.ip().is_unspecified() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listening.port())
    } else {
        listening
    }
}

/// Lets the clients of this user find the hub.
pub(crate) fn write_profile(running: &Running) -> Result<()> {
    match profile::path() {
        Some(path) => profile::write(&path, &running.profile()),
        None => Ok(()),
    }
}

fn spawn<E: std::fmt::Display>(
    server: impl Future<Output = std::result::Result<(), E>> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!("the server ended: {error}");
        }
    })
}

async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::io(format_args!("could not listen on {address}"), &error)
            .with_hint(format!("name another address with {flag} ADDR; port 0 takes a free one"))
    })
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Log lines go to stderr; `RUST_LOG` chooses, `info` by default.
pub(crate) fn start_log(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(Output::from_terminal(json).error_colour)
        .with_writer(std::io::stderr);
    // A second start in one process keeps the first log.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
