//! Values as they were written, each read as what it has to be; a wrong one is named with where it was written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ess_core::escalation::{Quiet, Target, read_targets};
use ess_core::limits::{EVENT_BYTES_MAX, SCRIPT_BYTES_MAX};
use ess_core::nearest::nearest;
use ess_core::partner::{AllowDir, SecretRef};
use ess_core::script::Bounds;
use ess_hub::EscalationOptions;

use super::{Layers, ProxyKeys};
use crate::failure::{Failure, Result};
use crate::wire::ServerUrl;

/// Values as they were written, read by what they have to be.
pub(super) struct Values<'a>(pub(super) &'a Layers);

impl<'a> Values<'a> {
    pub(super) fn text(&self, key: &str) -> &'a str {
        self.0[key].text.as_str()
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> Failure {
        let written = &self.0[key];
        Failure::usage(format!("{}: {key}: expected {expected}, found {:?}", written.source, written.text))
    }

    pub(super) fn items(&self, key: &str) -> Vec<String> {
        self.text(key).split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn directories(&self, key: &str) -> Result<AllowDir> {
        let dirs: Vec<PathBuf> = self.items(key).into_iter().map(PathBuf::from).collect();
        let is_plain = |dir: &PathBuf| {
            dir.is_absolute() && dir.components().all(|part| !matches!(part, std::path::Component::ParentDir))
        };
        if dirs.iter().all(is_plain) {
            Ok(AllowDir(dirs))
        } else {
            Err(self.wrong(key, "absolute directories such as /mnt/court, without `..`"))
        }
    }

    pub(super) fn address(&self, key: &str) -> Result<SocketAddr> {
        self.text(key).parse().map_err(|_| self.wrong(key, "an address such as 127.0.0.1:8443"))
    }

    pub(super) fn is_true(&self, key: &str) -> Result<bool> {
        match self.text(key) {
            "true" | "1" => Ok(true),
            "false" | "0" | "" => Ok(false),
            _ => Err(self.wrong(key, "true or false")),
        }
    }

    pub(super) fn optional(&self, key: &str) -> Option<&'a str> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// The address of the hub for those outside.
    pub(super) fn public_url(&self) -> Result<Option<String>> {
        let Some(url) = self.optional("public_url") else { return Ok(None) };
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || "?#\"<>@".contains(c);
        if host.is_empty() || host.starts_with('/') || url.contains(is_odd) {
            return Err(self.wrong("public_url", "an address such as https://hub.agency.example"));
        }
        Ok(Some(url.to_owned()))
    }

    /// The collector that spans go to, in a build that makes them.
    pub(super) fn collector(&self) -> Result<Option<String>> {
        let Some(url) = self.optional("otel_url") else { return Ok(None) };
        if !cfg!(feature = "otel") {
            let failure = self.wrong("otel_url", "nothing: this build has no OpenTelemetry");
            return Err(failure.with_hint("build it with `--features otel`, or leave otel_url away"));
        }
        Ok(Some(url.to_owned()))
    }

    /// A part of a whole.
    pub(super) fn share(&self, key: &str) -> Result<f64> {
        let share = self.text(key).parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        share.ok_or_else(|| self.wrong(key, "a number from 0 to 1, such as 0.1"))
    }

    /// The store's server. The error does not repeat the value: it may hold a password.
    pub(super) fn server(&self) -> Result<Option<ServerUrl>> {
        let Some(text) = self.optional("store") else { return Ok(None) };
        let wrong = || {
            let source = &self.0["store"].source;
            Failure::usage(format!("{source}: store: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE"))
                .with_hint("leave it away for the embedded store in the data directory")
        };
        ServerUrl::new(text).map(Some).ok_or_else(wrong)
    }

    /// Where a secret is; never the secret itself, which `config show` would print.
    pub(super) fn secret(&self, key: &str) -> Result<Option<SecretRef>> {
        let Some(text) = self.optional(key) else { return Ok(None) };
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Some(SecretRef::Env(name.to_owned()))),
            Some(("file", path)) if !path.is_empty() => Ok(Some(SecretRef::File(path.to_owned()))),
            _ => Err(Failure::usage(format!("{}: {key}: expected env:NAME or file:PATH", self.0[key].source))),
        }
    }

    /// The proxy; its other keys mean nothing without its address.
    pub(super) fn proxy(&self) -> Result<Option<ProxyKeys>> {
        let login = self.secret("proxy_login")?;
        let except = self.items("proxy_except");
        let Some(url) = self.optional("proxy") else {
            return match (login, except.as_slice()) {
                (None, []) => Ok(None),
                (Some(_), _) => Err(self.wrong("proxy_login", "nothing without `proxy`")),
                (None, _) => Err(self.wrong("proxy_except", "nothing without `proxy`")),
            };
        };
        Ok(Some(ProxyKeys { url: url.to_owned(), login, except }))
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        self.text(key).parse().map_err(|_| self.wrong(key, "a whole number"))
    }

    pub(super) fn within(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let value = self.text(key).parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    pub(super) fn span(&self, key: &str) -> Result<Duration> {
        ess_core::duration::parse(self.text(key)).map_err(|_| self.wrong(key, "a duration such as 10s"))
    }

    pub(super) fn lasting(&self, key: &str, least: &str, most: &str) -> Result<Duration> {
        let bound = |text: &str| ess_core::duration::parse(text).unwrap_or_default();
        let span = Some(self.span(key)?).filter(|span| (bound(least)..=bound(most)).contains(span));
        span.ok_or_else(|| self.wrong(key, &format!("{least} to {most}")))
    }

    /// The section `targets` and the keys around it.
    pub(super) fn escalation(&self) -> Result<EscalationOptions> {
        let targets = targets(self.0)?;
        let to = self.items("escalate_to");
        if let Some(unknown) = to.iter().find(|name| !targets.contains_key(*name)) {
            let names: Vec<&str> = targets.keys().map(String::as_str).collect();
            let source = &self.0["escalate_to"].source;
            let failure = Failure::usage(format!("{source}: escalate_to: there is no target {unknown}"));
            return Err(match nearest(unknown, &names) {
                Some(meant) => failure.with_hint(format!("did you mean `{meant}`?")),
                None if names.is_empty() => failure.with_hint("`targets` is empty; docs/operations.md shows one"),
                None => failure.with_hint(format!("known are {}", names.join(", "))),
            });
        }
        let quiet = match self.text("escalate_quiet") {
            "" => None,
            text => Some(
                Quiet::parse(text)
                    .map_err(|_| self.wrong("escalate_quiet", "hours such as 22:00-06:00 America/Chicago"))?,
            ),
        };
        Ok(EscalationOptions {
            targets,
            to,
            after: self.lasting("escalate_after", "1s", "365d")?,
            distance: self.lasting("escalate_distance", "1s", "7d")?,
            quiet,
        })
    }

    pub(super) fn script_bounds(&self) -> Result<Bounds> {
        Ok(Bounds {
            time: self.lasting("script_time", "1ms", "60s")?,
            stack_depth: self.within("script_depth", 10..=20_000)?,
            sequence_length_max: self.within("script_sequence_max", 1_000..=10_000_000)?,
            script_bytes_max: self.within("script_bytes_max", 1_024..=SCRIPT_BYTES_MAX)?,
            input_bytes_max: self.within("script_input_bytes_max", EVENT_BYTES_MAX..=64 << 20)?,
            output_bytes_max: self.within("script_output_bytes_max", 1_024..=64 << 20)?,
            memory_bytes_max: self.within("script_memory_bytes_max", 16 << 20..=1 << 30)?,
        })
    }
}

/// The section `targets`; a wrong field is named with its place.
pub(crate) fn targets(layers: &Layers) -> Result<BTreeMap<String, Target>> {
    let written = &layers["targets"];
    if written.text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let failed = |detail: String| Failure::usage(format!("{}: {detail}", written.source));
    // Never the text itself in the error: it may hold secrets.
    let value: serde_json::Value = serde_json::from_str(&written.text)
        .map_err(|_| failed("targets: expected a map of names to targets, in a variable as JSON".to_owned()))?;
    read_targets(&value).map_err(|problem| {
        let failure = failed(problem.detail);
        match problem.hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })
}
