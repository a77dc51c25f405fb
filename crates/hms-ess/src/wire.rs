//! Wiring: the one place where store, channels, engine and HTTP meet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Channel, Credential, Dialer, DialerOptions, ProxyOptions};
use ess_core::access::{Principal, Role};
use ess_core::partner::Partner;
use ess_hub::scripts::{Scripts, ScriptsOptions};
use ess_hub::{Hub, HubOptions, NodeOptions, NotaryOptions, Place, RetentionOptions, TracesOptions};
pub(crate) use ess_store::ServerUrl;
use ess_store::{Copied, Options, Store};

use crate::config::{Config, find_secret};
use crate::failure::{Failure, Result};

/// Outcomes wait this long for others before they are committed together.
const OUTCOME_WINDOW: Duration = Duration::from_millis(25);
/// Reading connections of the embedded store, and of one at a server, which is further away.
const READERS: usize = 2;
const READERS_OF_SERVER: usize = 4;

/// Copies the store of a stopped hub into an empty database.
pub(crate) fn copy_store(from: &Path, to: &ServerUrl) -> Result<Copied> {
    ess_store::copy_store(from, to).map_err(|error| {
        Failure::refused(error.to_string())
            .with_hint("stop the hub of the directory, and give the copy an empty database; docs/scale.md")
    })
}

/// Opens the store and starts the engine of a hub that listens at this URL.
pub(crate) async fn hub(config: &Config, url: &str) -> Result<Hub> {
    let refused = |error: &dyn std::fmt::Display| Failure::refused(error.to_string());
    let options = Options {
        dir: config.data.clone(),
        outcome_window: OUTCOME_WINDOW,
        readers: if config.store.is_some() { READERS_OF_SERVER } else { READERS },
        bytes_max: config.store_bytes_max,
        server: config.store.clone(),
        seal_key: config.seal_key.clone(),
    };
    let opened = Store::open(&options).map_err(|error| {
        refused(&error).with_hint(match &config.store {
            None => {
                "name another directory with --data, stop the hub that has this one open, or free and mend the disk"
            }
            Some(_) => "docs/scale.md says how the database, its role, its certificate and the sealing key are set up",
        })
    })?;
    let mut extra_roots_pem = Vec::new();
    for file in &config.partner_ca {
        extra_roots_pem.push(std::fs::read(file).map_err(|error| {
            Failure::io(format_args!("could not read the certificates {}", file.display()), &error)
        })?);
    }
    let dialer = Dialer::new(DialerOptions {
        allow: config.allow_net.clone(),
        allow_dir: config.allow_dir.clone(),
        extra_roots_pem,
        system_roots: true,
        user_agent: concat!("hms-ess/", env!("CARGO_PKG_VERSION")).to_owned(),
        proxy: proxy(config)?,
    })
    .map_err(|error| refused(&error))?;
    let places = checkpoint_places(config, &dialer)?;
    let traces = traces(config, &dialer)?;
    let scripts = Scripts::start(ScriptsOptions {
        workers: config.script_workers,
        bounds: config.script_bounds.clone(),
        ..script_options()?
    });
    let options = HubOptions {
        opened,
        dir: config.data.clone(),
        dialer,
        public_url: config.public_url.clone().unwrap_or_else(|| url.to_owned()),
        scripts,
        find_secret: Arc::new(find_secret),
        free_bytes_min: config.free_bytes_min,
        notary: NotaryOptions { every: config.checkpoint_every, places },
        retention: RetentionOptions { keep: config.keep, every: config.retention_every },
        escalation: config.escalation.clone(),
        traces,
        node: NodeOptions {
            name: config.node_name.clone().unwrap_or_else(|| node_name(url)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lease: config.node_lease,
        },
    };
    Hub::start(options).await.map_err(|error| refused(&error))
}

/// The machine and where the hub listens on it.
fn node_name(url: &str) -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    format!("{machine}/{address}")
}

/// The way out, with its login found.
fn proxy(config: &Config) -> Result<Option<ProxyOptions>> {
    let Some(keys) = &config.proxy else { return Ok(None) };
    let login = keys.login.as_ref().map(find_secret).transpose();
    let login = login.map_err(|why| Failure::usage(format!("proxy_login: {why}")))?;
    Ok(Some(ProxyOptions { url: keys.url.clone(), login, except: keys.except.clone() }))
}

/// Where spans go: a collector is spoken to as a partner is.
fn traces(config: &Config, dialer: &Dialer) -> Result<Option<TracesOptions>> {
    let Some(url) = &config.otel_url else { return Ok(None) };
    let wrong = |key: &str, why: &dyn std::fmt::Display| Failure::usage(format!("{key}: {why}"));
    let credential = match &config.otel_token {
        None => Credential::None,
        Some(secret) => Credential::Bearer(find_secret(secret).map_err(|why| wrong("otel_token", &why))?),
    };
    let url = format!("{}/v1/traces", url.trim_end_matches('/'));
    let document = serde_json::json!({"id": "traces", "channel": "webhook", "url": url});
    let partner = Partner::from_json(&document).map_err(|problem| wrong("otel_url", &problem.detail))?;
    let channel = Channel::open(&partner, &url, credential, dialer).map_err(|why| wrong("otel_url", &why))?;
    Ok(Some(TracesOptions { channel: Arc::new(channel), share: config.otel_share }))
}

/// Where the ledger's checkpoints go as well; disks first, as a URL may hang.
fn checkpoint_places(config: &Config, dialer: &Dialer) -> Result<Vec<Place>> {
    let dir = config.checkpoint_dir.clone().map(Place::Directory);
    let file = config.checkpoint_file.clone().map(Place::File);
    let mut places: Vec<Place> = dir.into_iter().chain(file).collect();
    if let Some(url) = &config.checkpoint_url {
        let wrong = |key: &str, why: &dyn std::fmt::Display| Failure::usage(format!("{key}: {why}"));
        let credential = match &config.checkpoint_token {
            None => Credential::None,
            Some(secret) => Credential::Bearer(find_secret(secret).map_err(|why| wrong("checkpoint_token", &why))?),
        };
        // An archive is spoken to as a partner is.
        let document = serde_json::json!({"id": "ledger-archive", "channel": "webhook", "url": url});
        let partner = Partner::from_json(&document).map_err(|problem| wrong("checkpoint_url", &problem.detail))?;
        let channel = Channel::open(&partner, url, credential, dialer);
        places.push(Place::Url(Arc::new(channel.map_err(|why| wrong("checkpoint_url", &why))?)));
    }
    Ok(places)
}

/// Scripts run in processes of this same program, also when an upgrade has put another one in its place: two versions need not
/// understand each other.
pub(crate) fn script_options() -> Result<ScriptsOptions> {
    let program = match PathBuf::from("/proc/self/exe") {
        own if own.exists() => own,
        _ => std::env::current_exe().map_err(|error| Failure::io("could not find this program", &error))?,
    };
    Ok(ScriptsOptions::of_program(program, vec!["script-worker".to_owned()]))
}

/// The first admin token, made on the first start and kept in DIR/admin.token.
pub(crate) async fn admin_token(hub: &Hub, dir: &Path) -> Result<String> {
    let path = dir.join("admin.token");
    if let Ok(text) = std::fs::read_to_string(&path)
        && hub.authenticate(text.trim()).is_some()
    {
        return Ok(text.trim().to_owned());
    }
    let by = Principal { token_id: "first-start".to_owned(), role: Role::Admin, expires_at: None };
    let made = hub
        .create_token(Role::Admin, "first admin token".to_owned(), None, Some("the hub's first start".to_owned()), &by)
        .await;
    let (text, _) = made.map_err(|problem| Failure::refused(problem.detail))?;
    crate::config::profile::write_private(&path, format!("{text}\n").as_bytes())
        .map_err(|error| Failure::io(format_args!("could not write {}", path.display()), &error))?;
    Ok(text)
}
