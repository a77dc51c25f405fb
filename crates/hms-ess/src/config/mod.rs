//! Configuration: defaults, then a file, then the environment, then flags; the only reader of the process' environment and files.
//!
//! Every key is documented in docs/configuration.md; an unknown one is refused with the nearest known one.

mod file;
mod keys;
pub(crate) mod profile;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ess_core::nearest::nearest;
use ess_core::partner::{AllowDir, AllowNet, SecretRef};
use ess_core::retention::Keep;
use ess_core::script::Bounds;
use ess_hub::EscalationOptions;

use crate::failure::{Failure, Result};
use crate::wire::ServerUrl;
pub(crate) use keys::KEYS;
use values::Values;
pub(crate) use values::targets;

/// Flags of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Address of the API [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Data directory; made when it is not there [default: hms-ess-data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// PostgreSQL server that keeps the store, such as postgres://ess@db.example/ess; the data directory's own database without it.
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// The hub's own certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<String>,
    /// The key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<String>,
    /// More names for the certificate that the hub makes itself; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_name: Vec<String>,
    /// Speak plain HTTP.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    pub(crate) http: bool,
    /// Configuration file, YAML [default: HMS_ESS_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address range that partners may have beside public ones, such as 10.0.0.0/8; may be repeated.
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_net: Vec<String>,
    /// Directory that `file` partners may have, with all beneath it; may be repeated.
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_dir: Vec<String>,
    /// The way out to partners, http://HOST:PORT (CONNECT) or socks5://HOST:PORT.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// Address of /metrics, or `off` [default: 127.0.0.1:9100].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics_listen: Option<String>,
    /// More certificates to trust at partners, PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) partner_ca: Vec<String>,
    /// Log on stderr: text or json.
    #[arg(long, value_name = "FORM")]
    pub(crate) log: Option<String>,
}

/// What `serve` runs with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Address of the API.
    pub(crate) listen: SocketAddr,
    /// Address for those outside.
    pub(crate) public_url: Option<String>,
    /// Data directory.
    pub(crate) data: PathBuf,
    /// Own certificate and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// More names for the certificate that the hub makes.
    pub(crate) tls_names: Vec<String>,
    /// Plain HTTP.
    pub(crate) http: bool,
    /// Address ranges that may be dialled.
    pub(crate) allow_net: AllowNet,
    /// Directories that `file` partners may have.
    pub(crate) allow_dir: AllowDir,
    /// The way out to partners.
    pub(crate) proxy: Option<ProxyKeys>,
    /// Address of /metrics.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// More certificates to trust at partners.
    pub(crate) partner_ca: Vec<PathBuf>,
    /// JSON log lines.
    pub(crate) log_json: bool,
    /// PostgreSQL server that keeps the store.
    pub(crate) store: Option<ServerUrl>,
    /// File of the sealing key.
    pub(crate) seal_key: Option<PathBuf>,
    /// What it is called among the hubs that share its store.
    pub(crate) node_name: Option<String>,
    /// How long it may go unheard before the others take its partners over.
    pub(crate) node_lease: Duration,
    /// Ceiling of the database file.
    pub(crate) store_bytes_max: Option<u64>,
    /// Publishes are refused below this much free space.
    pub(crate) free_bytes_min: u64,
    /// Evaluation processes.
    pub(crate) script_workers: usize,
    /// How much a script may take.
    pub(crate) script_bounds: Bounds,
    /// How long everything is still answered after `/readyz` said that the hub is about to stop.
    pub(crate) drain_delay: Duration,
    /// How long an orderly stop may take.
    pub(crate) stop_within: Duration,
    /// How often the ledger's checkpoint is signed.
    pub(crate) checkpoint_every: Duration,
    /// Directory that checkpoints are written to as well.
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// File that checkpoints are added to as well.
    pub(crate) checkpoint_file: Option<PathBuf>,
    /// Address that checkpoints are POSTed to as well.
    pub(crate) checkpoint_url: Option<String>,
    /// Where the bearer token for it is.
    pub(crate) checkpoint_token: Option<SecretRef>,
    /// What is kept for how long.
    pub(crate) keep: Keep,
    /// How often it is looked for what is older.
    pub(crate) retention_every: Duration,
    /// Whom to tell of trouble.
    pub(crate) escalation: EscalationOptions,
    /// The collector that spans go to.
    pub(crate) otel_url: Option<String>,
    /// Where the bearer token for it is.
    pub(crate) otel_token: Option<SecretRef>,
    /// Which share of the events is traced whose publisher does not say.
    pub(crate) otel_share: f64,
}

/// The way out to partners.
#[derive(Debug, Clone)]
pub(crate) struct ProxyKeys {
    /// Where it is.
    pub(crate) url: String,
    /// Where its login is.
    pub(crate) login: Option<SecretRef>,
    /// Who is dialled without it.
    pub(crate) except: Vec<String>,
}

/// A value as it was written, and where.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The text.
    pub(crate) text: String,
    /// `default`, `hub.yaml:3`, `HMS_ESS_LISTEN` or `--listen`.
    pub(crate) source: String,
}

/// All keys with their values and sources.
pub(crate) type Layers = BTreeMap<&'static str, Written>;

/// Where systemd wants to be told how the hub stands, if it runs under it.
pub(crate) fn notify_socket() -> Option<std::ffi::OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Lays file, environment and flags over the defaults.
pub(crate) fn layers(args: &ServeArgs) -> Result<Layers> {
    let mut layers: Layers = KEYS
        .iter()
        .map(|(key, text)| (*key, Written { text: (*text).to_owned(), source: "default".to_owned() }))
        .collect();
    let file = args.config.clone().or_else(|| std::env::var_os("HMS_ESS_CONFIG").map(PathBuf::from));
    if let Some(file) = file {
        read_file(&file, &mut layers)?;
    }
    for (key, _) in KEYS {
        let name = format!("HMS_ESS_{}", key.to_ascii_uppercase());
        if let Ok(text) = std::env::var(&name)
            && !text.is_empty()
        {
            layers.insert(key, Written { text, source: name });
        }
    }
    let mut flag = |key: &'static str, text: Option<String>| {
        if let Some(text) = text {
            layers.insert(key, Written { text, source: format!("--{}", key.replace('_', "-")) });
        }
    };
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
    flag("listen", args.listen.clone());
    flag("data", args.data.clone());
    flag("store", args.store.clone());
    flag("tls_cert", args.tls_cert.clone());
    flag("tls_key", args.tls_key.clone());
    flag("tls_name", list(&args.tls_name));
    flag("http", args.http.then(|| "true".to_owned()));
    flag("allow_net", list(&args.allow_net));
    flag("allow_dir", list(&args.allow_dir));
    flag("proxy", args.proxy.clone());
    flag("metrics_listen", args.metrics_listen.clone());
    flag("partner_ca", list(&args.partner_ca));
    flag("log", args.log.clone());
    Ok(layers)
}

fn read_file(file: &Path, layers: &mut Layers) -> Result<()> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::io(format_args!("could not read the configuration {name}"), &error))?;
    let written: file::Keys = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::usage(ess_core::partner_file::yaml_problem(&error, &name).detail))?;
    for file::Key { name: key, line, value } in written.0 {
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        let Some((key, _)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let failure = Failure::usage(format!("{name}:{line}: unknown key {key}"));
            return Err(match nearest(&key, &known) {
                Some(meant) => failure.with_hint(format!("did you mean `{meant}`?")),
                None => failure.with_hint(format!("known are {}", known.join(", "))),
            });
        };
        let source = format!("{name}:{line}");
        let written = if *key == "targets" { file::document(&value) } else { file::text(&value) };
        let text =
            written.ok_or_else(|| Failure::usage(format!("{source}: {key}: expected a value or a list of values")))?;
        layers.insert(key, Written { text, source });
    }
    Ok(())
}

/// Variables that look like ours and are not: most likely misspelt, so worth a warning and no more.
pub(crate) fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    const CLIENT: [&str; 5] = ["HMS_ESS_HUB", "HMS_ESS_TOKEN", "HMS_ESS_CA", "HMS_ESS_PROFILE", "HMS_ESS_CONFIG"];
    let mut known: Vec<String> = KEYS.iter().map(|(key, _)| format!("HMS_ESS_{}", key.to_ascii_uppercase())).collect();
    known.extend(CLIENT.map(str::to_owned));
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let ours = names.filter(|name| name.starts_with("HMS_ESS_") && !known.contains(name));
    ours.map(|name| match nearest(name, &known) {
        Some(meant) => format!("the environment variable {name} means nothing here; did you mean {meant}?"),
        None => format!("the environment variable {name} means nothing here"),
    })
    .collect()
}

impl Config {
    /// Reads every value; a wrong one is named with its source.
    pub(crate) fn read(layers: &Layers) -> Result<Self> {
        let values = Values(layers);
        let text = |key: &str| values.text(key);
        let mut nets = Vec::new();
        for net in values.items("allow_net") {
            nets.push(net.parse().map_err(|_| values.wrong("allow_net", "address ranges such as 10.0.0.0/8"))?);
        }
        let tls = match (text("tls_cert"), text("tls_key")) {
            ("", "") => None,
            (cert, key) if !cert.is_empty() && !key.is_empty() => Some((PathBuf::from(cert), PathBuf::from(key))),
            _ => return Err(values.wrong("tls_cert", "both tls_cert and tls_key")),
        };
        Ok(Self {
            listen: values.address("listen")?,
            public_url: values.public_url()?,
            data: PathBuf::from(text("data")),
            tls,
            tls_names: values.items("tls_name"),
            http: values.is_true("http")?,
            allow_net: AllowNet(nets),
            allow_dir: values.directories("allow_dir")?,
            proxy: values.proxy()?,
            metrics_listen: match text("metrics_listen") {
                "off" => None,
                _ => Some(values.address("metrics_listen")?),
            },
            partner_ca: values.items("partner_ca").into_iter().map(PathBuf::from).collect(),
            log_json: match text("log") {
                "json" => true,
                "text" => false,
                _ => return Err(values.wrong("log", "text or json")),
            },
            store: values.server()?,
            seal_key: values.optional("seal_key").map(PathBuf::from),
            node_name: values.optional("node_name").map(str::to_owned),
            node_lease: values.lasting("node_lease", "1s", "60s")?,
            store_bytes_max: match text("store_bytes_max") {
                "" => None,
                _ => Some(values.number("store_bytes_max")?),
            },
            free_bytes_min: values.number("free_bytes_min")?,
            script_workers: usize::try_from(values.number("script_workers")?.clamp(1, 64)).unwrap_or(2),
            script_bounds: values.script_bounds()?,
            drain_delay: values.lasting("drain_delay", "0s", "10m")?,
            stop_within: values.span("stop_within")?,
            checkpoint_every: values.lasting("checkpoint_every", "1s", "30d")?,
            checkpoint_dir: values.optional("checkpoint_dir").map(PathBuf::from),
            checkpoint_file: values.optional("checkpoint_file").map(PathBuf::from),
            checkpoint_url: values.optional("checkpoint_url").map(str::to_owned),
            checkpoint_token: values.secret("checkpoint_token")?,
            keep: Keep {
                events: values.lasting("keep_events", "1s", "100y")?,
                tests: values.lasting("keep_tests", "1s", "100y")?,
                attempts: values.lasting("keep_attempts", "1s", "100y")?,
                audit: values.lasting("keep_audit", "1s", "100y")?,
            },
            retention_every: values.lasting("retention_every", "1s", "30d")?,
            escalation: values.escalation()?,
            otel_url: values.collector()?,
            otel_token: values.secret("otel_token")?,
            otel_share: values.share("otel_share")?,
        })
    }
}

/// Finds a partner's secret on the hub's machine.
pub(crate) fn find_secret(secret: &SecretRef) -> std::result::Result<String, String> {
    match secret {
        SecretRef::Inline(text) => Ok(text.clone()),
        SecretRef::Env(name) => {
            std::env::var(name).map_err(|_| format!("the environment variable {name} is not set for the hub"))
        }
        SecretRef::File(path) => std::fs::read_to_string(path)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| format!("could not read {path} on the hub's machine: {}", crate::failure::plain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "listen: 127.0.0.1:1\nallow_net: [10.0.0.0/8, 127.0.0.0/8]\nstop_within: 3s\n").unwrap();
        let args = ServeArgs { config: Some(file), listen: Some("127.0.0.1:2".to_owned()), ..ServeArgs::default() };
        let layers = layers(&args).unwrap();
        assert_eq!(layers["listen"].source, "--listen");
        let config = Config::read(&layers).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.allow_net.0.len(), 2);
        assert_eq!(config.stop_within, Duration::from_secs(3));
        assert_eq!(config.metrics_listen.unwrap().port(), 9100);
    }

    #[test]
    fn the_bounds_of_scripts_are_the_engines_unless_written_and_stay_within_reason() {
        let config = Config::read(&layers(&ServeArgs::default()).unwrap()).unwrap();
        assert_eq!(config.script_bounds, Bounds::default());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::read(&layers(&ServeArgs { config: Some(file.clone()), ..ServeArgs::default() }).unwrap())
        };
        let config = read("script_time: 200ms\nscript_memory_bytes_max: 134217728\n").unwrap();
        assert_eq!(config.script_bounds.time, Duration::from_millis(200));
        assert_eq!(config.script_bounds.memory_bytes_max, 128 << 20);
        for wrong in ["script_time: 2h", "script_depth: 1", "script_output_bytes_max: 1e9"] {
            let failure = read(wrong).unwrap_err();
            assert!(failure.detail.contains("hub.yaml:1: script_"), "{}", failure.detail);
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_the_nearest_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "listen: 127.0.0.1:1\nalow_net: x\n").unwrap();
        let args = ServeArgs { config: Some(file), ..ServeArgs::default() };
        let failure = layers(&args).unwrap_err();
        assert!(failure.detail.ends_with("hub.yaml:2: unknown key alow_net"), "{}", failure.detail);
        assert_eq!(failure.hint.as_deref(), Some("did you mean `allow_net`?"));
    }

    #[test]
    fn a_key_is_found_by_its_own_line_and_not_by_one_that_begins_like_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "# log: json\nstore_bytes_max: 1000\nlog: yaml\n").unwrap();
        let layers = layers(&ServeArgs { config: Some(file), ..ServeArgs::default() }).unwrap();
        let failure = Config::read(&layers).unwrap_err();
        assert!(failure.detail.contains("hub.yaml:3: log: expected text or json"), "{}", failure.detail);
    }

    #[test]
    fn a_value_that_is_no_value_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(&file, "listen: {host: here}\n").unwrap();
        let failure = layers(&ServeArgs { config: Some(file), ..ServeArgs::default() }).unwrap_err();
        assert!(failure.detail.ends_with("hub.yaml:1: listen: expected a value or a list of values"));
    }

    #[test]
    fn a_misspelt_variable_is_named_with_what_was_meant() {
        let names = ["HMS_ESS_LISTN", "HMS_ESS_LISTEN", "HMS_ESS_TOKEN", "HOME"];
        let found = unknown_variables(names.into_iter());
        assert_eq!(found, ["the environment variable HMS_ESS_LISTN means nothing here; did you mean HMS_ESS_LISTEN?"]);
    }

    #[test]
    fn a_proxys_login_is_never_written_out_and_means_nothing_without_the_proxy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::read(&layers(&ServeArgs { config: Some(file.clone()), ..ServeArgs::default() }).unwrap())
        };
        let proxy = "proxy: http://proxy.example:3128\n";
        let read_proxy =
            read(&format!("{proxy}proxy_login: env:LOGIN\nproxy_except: [.court.example, 10.0.0.0/8]")).unwrap();
        let keys = read_proxy.proxy.unwrap();
        assert_eq!((keys.url.as_str(), keys.except.len()), ("http://proxy.example:3128", 2));
        assert!(read("").unwrap().proxy.is_none());
        let failure = read(&format!("{proxy}proxy_login: hub:s3cret")).unwrap_err();
        assert!(failure.detail.contains("env:NAME") && !failure.detail.contains("s3cret"), "{}", failure.detail);
        let failure = read("proxy_except: [10.0.0.0/8]").unwrap_err();
        assert!(failure.detail.contains("nothing without `proxy`"), "{}", failure.detail);
    }

    #[test]
    fn the_targets_of_the_operators_page_are_taken_and_a_wrong_one_is_named_with_its_line() {
        let page = include_str!("../../../../docs/operations.md");
        let example = page.split("```yaml\n").find(|block| block.starts_with("# hub.yaml")).unwrap();
        let example = example.split("```").next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::read(&layers(&ServeArgs { config: Some(file.clone()), ..ServeArgs::default() }).unwrap())
        };
        let escalation = read(example).unwrap().escalation;
        let kinds: Vec<&str> = escalation.targets.values().map(|target| target.kind.word()).collect();
        assert_eq!(kinds, ["alertmanager", "slack", "webhook", "email", "pagerduty"]);
        assert_eq!(escalation.to, ["ops-email", "pager"]);
        let failure = read(&example.replace("routing_key", "routing_kye")).unwrap_err();
        assert!(failure.detail.ends_with("hub.yaml:2: targets.pager.routing_kye: unknown field"), "{}", failure.detail);
        assert_eq!(failure.hint.as_deref(), Some("did you mean `routing_key`?"));
        let failure = read(&example.replace("[ops-email, pager]", "[ops-mail]")).unwrap_err();
        assert!(failure.detail.contains("escalate_to: there is no target ops-mail"), "{}", failure.detail);
        let failure = read("targets: {a: {type: slack, url: 7}}").unwrap_err();
        assert!(failure.detail.contains("targets.a.url: expected a text"), "{}", failure.detail);
    }

    #[test]
    fn each_key_is_documented() {
        let page = include_str!("../../../../docs/configuration.md");
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for (key, default) in KEYS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert!(cells[2].starts_with(&format!("`HMS_ESS_{}`", key.to_ascii_uppercase())), "{row}");
            let flag = key.replace('_', "-");
            let flag = if flags.contains(&flag.as_str()) { format!("`--{flag}`") } else { String::new() };
            assert_eq!(cells[3], flag, "{row}");
            assert!(default.is_empty() || cells[4] == format!("`{default}`"), "{row}");
        }
    }
}
