//! The profile: which hub the clients on this machine talk to. Written by `serve` and `demo`, read by this program and by
//! the Python SDK.
//!
//! It holds a token, so it is readable by its owner only and replaced whole, never half-written.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::Globals;
use crate::failure::{Failure, Result};

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// The hub's URL.
    pub(crate) hub: String,
    /// A token for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Certificates to trust, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// Other names of hubs: the name that is asked for, and the URL that is dialled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) aliases: BTreeMap<String, String>,
}

/// One address of the hub that a client command talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The URL that is dialled.
    pub(crate) hub: String,
    /// The token, if any is known.
    pub(crate) token: Option<String>,
    /// Certificates to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
}

/// The client's environment, read in one place so that tests can hand in another.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientEnv {
    /// `HMS_ESS_HUB`.
    pub(crate) hub: Option<String>,
    /// `HMS_ESS_TOKEN`.
    pub(crate) token: Option<String>,
    /// `HMS_ESS_CA`.
    pub(crate) ca: Option<PathBuf>,
}

impl ClientEnv {
    /// Reads the process' environment; an empty variable counts as none.
    pub(crate) fn read() -> Self {
        Self { hub: text("HMS_ESS_HUB"), token: text("HMS_ESS_TOKEN"), ca: text("HMS_ESS_CA").map(PathBuf::from) }
    }
}

/// Where the profile lies: `HMS_ESS_PROFILE`, else beside the user's other configuration.
pub(crate) fn path() -> Option<PathBuf> {
    if let Some(path) = text("HMS_ESS_PROFILE") {
        return Some(PathBuf::from(path));
    }
    let folder = text("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| text("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(folder.join("hms-ess").join("profile.json"))
}

/// Reads the profile at `path`; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Profile>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::io(format_args!("could not read the profile {}", path.display()), &error));
        }
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::refused(format!("the profile {} is no profile: {error}", path.display()))
            .with_hint("delete it; `hms-ess serve` or `hms-ess demo` writes a new one")
    })
}

/// Writes the profile whole, readable by its owner only.
pub(crate) fn write(path: &Path, profile: &Profile) -> Result<()> {
    let tried =
        |error: &std::io::Error| Failure::io(format_args!("could not write the profile {}", path.display()), error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| tried(&error))?;
    }
    let text = serde_json::to_string_pretty(profile)
        .map_err(|error| Failure::refused(format!("could not write the profile: {error}")))?;
    write_private(path, (text + "\n").as_bytes()).map_err(|error| tried(&error))
}

/// Replaces a file whole, readable by its owner only.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Replaces a file whole: either the old or the new content is there, also after a power cut; the new one when this returns.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)?.sync_all()
}

/// The addresses of the hub that a command means, each once: flag, environment, profile, in this order; then their aliases.
pub(crate) fn targets(globals: &Globals, env: &ClientEnv, profile: Option<&Profile>) -> Result<Vec<Target>> {
    let known = profile.map(|profile| profile.hub.as_str());
    let asked = globals.hub.as_deref().or(env.hub.as_deref()).or(known).unwrap_or_default();
    let mut targets: Vec<Target> = Vec::new();
    for asked in addresses(asked) {
        let target = target(asked, globals, env, profile);
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.is_empty() {
        return Err(Failure::refused("no hub is known here")
            .with_hint("start one with `hms-ess serve` or `hms-ess demo`, or name one with --hub URL or HMS_ESS_HUB"));
    }
    Ok(targets)
}

fn target(asked: &str, globals: &Globals, env: &ClientEnv, profile: Option<&Profile>) -> Target {
    let dialled = profile
        .and_then(|profile| {
            let same = |name: &str| name.trim_end_matches('/') == asked;
            profile.aliases.iter().find(|(name, _)| same(name)).map(|(_, url)| url.as_str())
        })
        .unwrap_or(asked)
        .trim_end_matches('/')
        .to_owned();
    // A token never goes to a hub that it was not made for.
    let own = profile.filter(|profile| addresses(&profile.hub).any(|home| home == dialled));
    Target {
        token: env.token.clone().or_else(|| own.and_then(|profile| profile.token.clone())),
        ca: globals.ca.clone().or_else(|| env.ca.clone()).or_else(|| own.and_then(|profile| profile.ca.clone())),
        hub: dialled,
    }
}

/// The addresses in a text that parts them by commas.
fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|part| part.trim().trim_end_matches('/')).filter(|part| !part.is_empty())
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globals(hub: Option<&str>) -> Globals {
        Globals { json: false, hub: hub.map(str::to_owned), ca: None, reason: None }
    }

    fn local() -> Profile {
        Profile {
            hub: "https://127.0.0.1:8443".into(),
            token: Some("hms_local".into()),
            ca: Some("/data/tls/ca.pem".into()),
            aliases: BTreeMap::from([("https://hub.sandbox.gov".into(), "https://127.0.0.1:8443".into())]),
        }
    }

    fn found(hub: Option<&str>, env: &ClientEnv, profile: &Profile) -> Vec<Target> {
        targets(&globals(hub), env, Some(profile)).unwrap()
    }

    #[test]
    fn an_alias_leads_to_the_local_hub_with_its_token() {
        let [target] = found(Some("https://hub.sandbox.gov/"), &ClientEnv::default(), &local()).try_into().unwrap();
        assert_eq!(target.hub, "https://127.0.0.1:8443");
        assert_eq!(target.token.as_deref(), Some("hms_local"));
        assert_eq!(target.ca, Some("/data/tls/ca.pem".into()));
    }

    #[test]
    fn the_profiles_token_stays_with_the_profiles_hub() {
        let two = found(Some("https://elsewhere.gov,https://127.0.0.1:8443"), &ClientEnv::default(), &local());
        assert_eq!((&two[0].token, &two[0].ca), (&None, &None));
        assert_eq!(two[1].token.as_deref(), Some("hms_local"));
    }

    #[test]
    fn commas_part_addresses_and_each_is_tried_once() {
        let asked = " https://b.gov/, https://hub.sandbox.gov,,https://127.0.0.1:8443 ,https://b.gov";
        let hubs: Vec<String> =
            found(Some(asked), &ClientEnv::default(), &local()).into_iter().map(|target| target.hub).collect();
        assert_eq!(hubs, ["https://b.gov", "https://127.0.0.1:8443"]);
        let both = Profile { hub: "https://a.gov,https://b.gov".into(), ..local() };
        let tokens: Vec<_> = found(None, &ClientEnv::default(), &both).into_iter().map(|one| one.token).collect();
        assert_eq!(tokens, [Some("hms_local".to_owned()), Some("hms_local".to_owned())]);
    }

    #[test]
    fn the_flag_beats_the_environment_which_beats_the_profile() {
        let env = ClientEnv { hub: Some("https://from.env".into()), token: Some("hms_env".into()), ca: None };
        let from_flag = found(Some("https://from.flag"), &env, &local());
        assert_eq!(from_flag[0].hub, "https://from.flag");
        assert_eq!(from_flag[0].token.as_deref(), Some("hms_env"));
        assert_eq!(found(None, &env, &local())[0].hub, "https://from.env");
        assert_eq!(found(None, &ClientEnv::default(), &local())[0].hub, "https://127.0.0.1:8443");
    }

    #[test]
    fn no_hub_anywhere_says_how_to_get_one() {
        for nothing in [None, Some(" , ")] {
            let failure = targets(&globals(nothing), &ClientEnv::default(), None).unwrap_err();
            assert!(failure.hint.unwrap().contains("hms-ess demo"));
        }
    }

    #[test]
    fn a_written_profile_is_private_and_reads_back() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/profile.json");
        write(&path, &local()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(local()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&folder.path().join("none.json")).unwrap(), None);
    }
}
