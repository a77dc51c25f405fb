//! What lies on this machine: configuration, data directory, disk, store, certificates. Needs no hub.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::finding::{self, Finding};
use crate::config::{Config, ServeArgs, layers, profile, unknown_variables};
use crate::failure::plain;
use crate::output;

/// An fsync that takes longer makes every publish wait.
const SYNC_SLOW_MS: u128 = 100;

/// Looks at all of it.
pub(crate) fn examine(args: &ServeArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let read = layers(args).and_then(|layers| Config::read(&layers).map(|config| (layers, config)));
    let (mut data, config) = match read {
        Ok((layers, config)) => {
            let set = layers.values().filter(|written| written.source != "default").count();
            findings.push(Finding::ok("configuration", format!("{} keys are read, {set} of them set", layers.len())));
            let known = (layers["data"].source != "default").then(|| config.data.clone());
            (known.or_else(dir_of_profile).unwrap_or_else(|| config.data.clone()), Some(config))
        }
        Err(failure) => {
            let hint = failure.hint.unwrap_or_else(|| "`hms-ess config show` prints every key".to_owned());
            let why = "the hub does not start with it";
            findings.push(Finding::fail("configuration", failure.detail, why, hint));
            (dir_of_profile().unwrap_or_else(|| PathBuf::from("hms-ess-data")), None)
        }
    };
    if let (Some(named), None) = (&args.data, &config) {
        data = PathBuf::from(named);
    }
    let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    for warning in unknown_variables(names.iter().map(String::as_str)) {
        findings.push(Finding::warn("configuration", warning, "it is most likely misspelt", "correct or unset it"));
    }
    if !data.join("ess.db").exists() {
        let what =
            format!("no data directory at {}: its disk, store and certificates were not looked at", data.display());
        let why = "the hub runs on another machine, or keeps its data elsewhere";
        findings.push(Finding::warn("disk", what, why, "run doctor on the hub's machine, with --data DIR"));
        return findings;
    }
    let least = config.as_ref().map_or(0, |config| config.free_bytes_min);
    findings.extend(disk(&data, least));
    findings.push(store(&data));
    findings.extend(certificates(&data, config.as_ref()));
    findings
}

/// The profile's hub has its certificates in DIR/tls: DIR is its data directory.
fn dir_of_profile() -> Option<PathBuf> {
    let profile = profile::read(&profile::path()?).ok()??;
    let ca = profile.ca?;
    ca.ends_with("tls/ca.pem").then(|| ca.parent()?.parent().map(Path::to_owned)).flatten()
}

fn disk(data: &Path, least: u64) -> Vec<Finding> {
    let dir = data.display().to_string();
    let mut findings = Vec::new();
    match rustix::fs::statvfs(data) {
        Ok(found) => findings.push(finding::space(&dir, found.f_bavail.saturating_mul(found.f_frsize), least)),
        Err(error) => findings.push(Finding::fail(
            "disk",
            format!("{dir} can't be looked at: {error}"),
            "the hub could not tell when it is full",
            "check the mount and its permissions",
        )),
    }
    let began = Instant::now();
    findings.push(match sync(data) {
        Err(error) => Finding::fail(
            "disk",
            format!("{dir} does not keep what is written: {}", plain(&error)),
            "the hub answers a publish only when it is on the disk",
            "run doctor as the hub's user; else mend the mount or the disk",
        ),
        Ok(()) => {
            let took = began.elapsed();
            let what = format!("a write to {dir} was synced in {}", output::span(took));
            if took.as_millis() > SYNC_SLOW_MS {
                let why = "each publish waits for one; something else keeps the disk busy, or it is slow";
                Finding::warn(
                    "disk",
                    what,
                    why,
                    "move the data directory to a faster disk, or find out what writes so much",
                )
            } else {
                Finding::ok("disk", what)
            }
        }
    });
    findings
}

/// Writes a small file through to the disk and removes it.
fn sync(data: &Path) -> std::io::Result<()> {
    let path = data.join(format!(".doctor.{}", std::process::id()));
    let mut file = std::fs::File::create_new(&path)?;
    let synced = file.write_all(b"hms-ess doctor\n").and_then(|()| file.sync_all());
    std::fs::remove_file(&path)?;
    synced
}

fn store(data: &Path) -> Finding {
    match ess_store::glance(data) {
        Ok(None) => Finding::ok("store", "there is none yet"),
        Ok(Some(found)) if found.faults.is_empty() => {
            let size = finding::bytes(found.bytes);
            let how =
                if found.is_whole { "its structure is sound" } else { "it opens; too large to be read whole here" };
            Finding::ok("store", format!("{size}, {how}"))
        }
        Ok(Some(found)) => Finding::fail(
            "store",
            format!("the store is damaged: {}", found.faults.join("; ")),
            "a disk lost or changed what was written",
            "stop the hub, keep a copy of the data directory, and restore the last backup",
        ),
        Err(error) => Finding::fail(
            "store",
            format!("the store can't be read: {error}"),
            "it belongs to another user, or is no store",
            "run doctor as the hub's user; if that does not help, restore the last backup",
        ),
    }
}

fn certificates(data: &Path, config: Option<&Config>) -> Vec<Finding> {
    if config.is_some_and(|config| config.http) {
        return vec![Finding::warn(
            "certificate",
            "the hub speaks plain HTTP",
            "whoever can read the network reads tokens and payloads",
            "leave `http` away unless a proxy in front of the hub does TLS",
        )];
    }
    let own = [data.join("tls/hub.pem"), data.join("tls/ca.pem")];
    let (files, renews_itself) = match config.and_then(|config| config.tls.as_ref()) {
        Some((cert, _)) => (vec![cert.clone()], false),
        None => (own.to_vec(), true),
    };
    files.iter().map(|file| certificate(file, renews_itself)).collect()
}

fn certificate(file: &Path, renews_itself: bool) -> Finding {
    let name = file.display().to_string();
    let read = std::fs::read(file).map_err(|error| plain(&error)).and_then(|pem| {
        let first = CertificateDer::pem_slice_iter(&pem).next().and_then(std::result::Result::ok);
        first.ok_or_else(|| "it holds no certificate".to_owned())
    });
    let ends = read.and_then(|der| ends_s(&der).ok_or_else(|| "it can't be read as a certificate".to_owned()));
    match ends {
        Ok(ends) => finding::certificate(&name, ends, now_s(), renews_itself),
        Err(why) => Finding::fail(
            "certificate",
            format!("{name}: {why}"),
            "the hub can't show it",
            "see docs/configuration.md, `tls_cert`",
        ),
    }
}

/// When a certificate ends, in seconds of the epoch.
pub(crate) fn ends_s(der: &[u8]) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// This machine's clock, in seconds of the epoch.
pub(crate) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
