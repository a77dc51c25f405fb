//! Where Ops are told: the configured targets, checked.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Quiet;
use crate::partner::{
    Auth, ChannelKind, Part, SecretRef, Secrets, expected, invalid, is_mail_address, read_auth, write_auth,
};
use crate::problem::{Code, Problem};

/// The log and the hub's own happenings: told of all trouble, whatever is configured.
pub const LOG: &str = "log";

/// Targets of a hub.
const TARGETS_MAX: usize = 64;
/// Characters of a target's name.
const NAME_CHARS_MAX: usize = 64;
/// Recipients of one target.
const RECIPIENTS_MAX: usize = 50;
/// Where PagerDuty takes events.
const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// A configured target.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// What partners call it.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
    /// When it is told urgent things only.
    pub quiet: Option<Quiet>,
    /// What routine trouble counts as there; urgent trouble is `critical`.
    pub severity: Severity,
}

/// What a target is.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetKind {
    /// A signed POST, as partners get them.
    Webhook {
        /// Where to.
        url: SecretRef,
        /// `whsec_…`.
        secret: SecretRef,
        /// How the hub logs in.
        auth: Option<Auth>,
    },
    /// A mail.
    Email {
        /// `smtp://HOST:PORT` (STARTTLS) or `smtps://HOST:PORT`.
        url: String,
        /// The sender.
        from: String,
        /// The recipients.
        to: Vec<String>,
        /// User and password.
        auth: Option<Auth>,
        /// `smtp://` without TLS: for a relay in the hub's own network.
        is_plain: bool,
    },
    /// PagerDuty Events API v2.
    PagerDuty {
        /// Where to.
        url: SecretRef,
        /// The integration's key.
        routing_key: SecretRef,
    },
    /// An incoming webhook as Slack, Mattermost, Rocket.Chat and others have it.
    Slack {
        /// Where to; it is a secret itself.
        url: SecretRef,
    },
    /// Prometheus' Alertmanager, API v2.
    Alertmanager {
        /// Its address.
        url: SecretRef,
        /// How the hub logs in.
        auth: Option<Auth>,
    },
}

/// How grave trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Wake somebody.
    Critical,
    /// Somebody must act.
    Error,
    /// Somebody should look.
    Warning,
    /// Good to know.
    Info,
}

const SEVERITIES: [(&str, Severity); 4] = [
    ("critical", Severity::Critical),
    ("error", Severity::Error),
    ("warning", Severity::Warning),
    ("info", Severity::Info),
];

/// Each kind with the fields that it has beside `type`, `quiet` and `severity`.
const KINDS: [(&str, &[&str]); 5] = [
    ("webhook", &["url", "secret", "auth"]),
    ("email", &["url", "from", "to", "auth", "tls"]),
    ("pagerduty", &["url", "routing_key"]),
    ("slack", &["url"]),
    ("alertmanager", &["url", "auth"]),
];

/// Reads `targets:`, a map of names to targets.
///
/// # Errors
/// A field that is missing, unknown or out of bounds, which is named.
pub fn read_targets(value: &Value) -> Result<BTreeMap<String, Target>, Problem> {
    let map = match value {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(map) => map,
        other => return Err(expected("targets", "a map of names to targets", other)),
    };
    if map.len() > TARGETS_MAX {
        return Err(invalid("targets", &format!("expected {TARGETS_MAX} targets at most")));
    }
    map.iter().map(|(name, value)| Ok((name.clone(), Target::read(name, value)?))).collect()
}

impl Target {
    fn read(name: &str, value: &Value) -> Result<Self, Problem> {
        let path = format!("targets.{name}");
        let is_plain_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.chars().all(is_plain_word);
        if !is_name || name == LOG {
            return Err(invalid(&path, "a target's name is 1 to 64 of A-Z a-z 0-9 . _ -, and not `log`"));
        }
        let every: Vec<&str> = KINDS.iter().flat_map(|(_, fields)| fields.iter().copied()).collect();
        let common = ["type", "quiet", "severity"];
        let part = Part::of(value, &path, &[&common[..], &every].concat())?;
        let words: Vec<(&str, usize)> = KINDS.iter().enumerate().map(|(at, (word, _))| (*word, at)).collect();
        let kinds = KINDS.map(|(word, _)| word).join(", ");
        if part.get("type").is_none() {
            return Err(invalid(&part.path("type"), &format!("say what it is, one of {kinds}")));
        }
        let (word, fields) = KINDS[part.word("type", 0, &words)?];
        // Again, now by its kind: a field that belongs to another kind is not silently ignored.
        let part = Part::of(value, &path, &[&common[..], fields].concat())?;
        let quiet = part.text("quiet")?.map(|text| Quiet::parse(&text)).transpose();
        Ok(Self {
            name: name.to_owned(),
            kind: read_kind(word, &part)?,
            quiet: quiet.map_err(|wrong| invalid(&part.path("quiet"), &wrong))?,
            severity: part.word("severity", Severity::Error, &SEVERITIES)?,
        })
    }

    /// The document, as `read_targets` takes it.
    #[must_use]
    pub fn to_json(&self, secrets: Secrets) -> Value {
        let mut document = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                document.insert(name.to_owned(), value);
            }
        };
        put("type", json!(self.kind.word()));
        let login = |auth: &Option<Auth>| auth.as_ref().map_or(Value::Null, |auth| write_auth(auth, secrets));
        match &self.kind {
            TargetKind::Webhook { url, secret, auth } => {
                put("url", json!(url.write(Secrets::Shown)));
                put("secret", json!(secret.write(secrets)));
                put("auth", login(auth));
            }
            TargetKind::Email { url, from, to, auth, is_plain } => {
                put("url", json!(url));
                put("from", json!(from));
                put("to", json!(to));
                put("auth", login(auth));
                put("tls", if *is_plain { json!("none") } else { Value::Null });
            }
            TargetKind::PagerDuty { url, routing_key } => {
                put("url", json!(url.write(Secrets::Shown)));
                put("routing_key", json!(routing_key.write(secrets)));
            }
            TargetKind::Slack { url } => put("url", json!(url.write(secrets))),
            TargetKind::Alertmanager { url, auth } => {
                put("url", json!(url.write(Secrets::Shown)));
                put("auth", login(auth));
            }
        }
        put("quiet", self.quiet.as_ref().map_or(Value::Null, |quiet| json!(quiet.as_str())));
        put("severity", json!(self.severity.word()));
        Value::Object(document)
    }
}

impl TargetKind {
    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            TargetKind::Webhook { .. } => "webhook",
            TargetKind::Email { .. } => "email",
            TargetKind::PagerDuty { .. } => "pagerduty",
            TargetKind::Slack { .. } => "slack",
            TargetKind::Alertmanager { .. } => "alertmanager",
        }
    }
}

impl Severity {
    /// Its word, the same at PagerDuty and in alerts.
    #[must_use]
    pub fn word(self) -> &'static str {
        SEVERITIES.iter().find(|(_, severity)| *severity == self).map_or("error", |(word, _)| word)
    }
}

fn read_kind(word: &str, part: &Part<'_>) -> Result<TargetKind, Problem> {
    let secret = |name: &str, hint: &str| {
        if part.get(name).is_some_and(|value| !value.is_string()) {
            // What stands there may be the secret: it is not shown.
            return Err(invalid(&part.path(name), "expected a text in quotes"));
        }
        let text = part.text(name)?.filter(|text| !text.is_empty());
        let missing = || invalid(&part.path(name), "this field is missing").with_hint(hint);
        text.map(|text| SecretRef::parse(&text)).ok_or_else(missing)
    };
    let url = || {
        let url = secret("url", "say where it is: https://…")?;
        check_url(&url, part)?;
        Ok::<_, Problem>(url)
    };
    let channel = if word == "email" { ChannelKind::Email } else { ChannelKind::Webhook };
    let auth = || part.get("auth").map(|auth| read_auth(auth, channel)).transpose();
    Ok(match word {
        "webhook" => {
            let hint = "messages are signed; name the secret that the receiver checks, such as env:OPS_SECRET (whsec_ and base64)";
            TargetKind::Webhook { url: url()?, secret: secret("secret", hint)?, auth: auth()? }
        }
        "email" => read_email(part, auth()?)?,
        "pagerduty" => TargetKind::PagerDuty {
            url: if part.get("url").is_some() { url()? } else { SecretRef::Inline(PAGERDUTY_URL.to_owned()) },
            routing_key: secret("routing_key", "name the integration's key, such as env:PAGERDUTY_KEY")?,
        },
        "slack" => TargetKind::Slack { url: url()? },
        _ => TargetKind::Alertmanager { url: url()?, auth: auth()? },
    })
}

fn read_email(part: &Part<'_>, auth: Option<Auth>) -> Result<TargetKind, Problem> {
    let missing = |name: &str, hint: &str| invalid(&part.path(name), "this field is missing").with_hint(hint);
    let url =
        part.text("url")?.ok_or_else(|| missing("url", "name the mail server: smtp://HOST:587 or smtps://HOST"))?;
    if !url.starts_with("smtp://") && !url.starts_with("smtps://") {
        return Err(invalid(&part.path("url"), "a mail server's address begins with smtp:// or smtps://"));
    }
    let from = part.text("from")?.ok_or_else(|| missing("from", "name the sender's address"))?;
    let to = match part.get("to") {
        Some(Value::String(one)) => vec![one.clone()],
        _ => part.texts("to")?.ok_or_else(|| missing("to", "name the recipients"))?,
    };
    if to.is_empty() || to.len() > RECIPIENTS_MAX {
        return Err(invalid(&part.path("to"), &format!("expected 1 to {RECIPIENTS_MAX} addresses")));
    }
    let wrong = |name: &str, text: &str| invalid(&part.path(name), &format!("{text:?} is no mail address"));
    if !is_mail_address(&from) {
        return Err(wrong("from", &from));
    }
    if let Some(bad) = to.iter().find(|address| !is_mail_address(address)) {
        return Err(wrong("to", bad));
    }
    if !matches!(auth, None | Some(Auth::Password { user: Some(_), .. })) {
        return Err(invalid(&part.path("auth"), "a mail server takes `{user: …, password: …}`"));
    }
    let is_plain = part.word("tls", false, &[("required", false), ("none", true)])?;
    if is_plain && (auth.is_some() || url.starts_with("smtps:")) {
        return Err(invalid(&part.path("tls"), "without TLS there is neither smtps:// nor a password"));
    }
    Ok(TargetKind::Email { url, from, to, auth, is_plain })
}

fn check_url(url: &SecretRef, part: &Part<'_>) -> Result<(), Problem> {
    let is_web = |text: &str| text.starts_with("https://") || text.starts_with("http://");
    match url {
        SecretRef::Inline(text) if !is_web(text) => {
            let problem = Problem::new(Code::Invalid, format!("{}: expected https://…", part.path("url")));
            Err(problem
                .with_field(part.path("url"))
                .with_hint("an address that is a secret stands as env:NAME or file:PATH"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Target, Problem> {
        read_targets(&json!({"ops": value})).map(|targets| targets["ops"].clone())
    }

    #[test]
    fn each_kind_is_read_and_written_back_without_its_secrets() {
        for (document, secret) in [
            (
                json!({"type": "webhook", "url": "https://o.example", "secret": "whsec_hunter2", "severity": "info"}),
                "hunter2",
            ),
            (
                json!({"type": "email", "url": "smtps://m.example", "from": "hub@x.example", "to": ["a@x.example"],
                "auth": {"user": "u", "password": "hunter2"}, "quiet": "22:00-06:00 UTC", "severity": "error"}),
                "hunter2",
            ),
            (
                json!({"type": "pagerduty", "url": "https://p.example", "routing_key": "hunter2", "severity": "error"}),
                "hunter2",
            ),
            (json!({"type": "slack", "url": "https://s.example/hunter2", "severity": "error"}), "hunter2"),
            (json!({"type": "alertmanager", "url": "http://a.example", "severity": "warning"}), "hunter2"),
        ] {
            let target = read(document.clone()).unwrap();
            assert_eq!(target.to_json(Secrets::Shown), document);
            assert!(!target.to_json(Secrets::Masked).to_string().contains(secret));
        }
    }

    #[track_caller]
    fn check_refused(document: Value, field: &str, hint: &str) {
        let problem = read(document).expect_err(field);
        assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
        assert!(problem.hint.unwrap_or_default().contains(hint) || problem.detail.contains(hint), "{}", problem.detail);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_meant() {
        check_refused(json!({"type": "pagerdty"}), "targets.ops.type", "did you mean `pagerduty`?");
        check_refused(json!({}), "targets.ops.type", "webhook, email, pagerduty, slack, alertmanager");
        let slack = json!({"type": "slack", "url": "https://s.example", "quie": "x"});
        check_refused(slack, "targets.ops.quie", "did you mean `quiet`?");
        check_refused(json!({"type": "slack", "url": "https://s", "secret": "x"}), "targets.ops.secret", "known here");
        check_refused(json!({"type": "webhook", "url": "https://s"}), "targets.ops.secret", "env:OPS_SECRET");
        check_refused(json!({"type": "slack", "url": "hooks.slack.com/x"}), "targets.ops.url", "https://");
        check_refused(json!({"type": "slack", "url": "https://s", "quiet": "at night"}), "targets.ops.quiet", "22:00");
        let mail = |from: &str| json!({"type": "email", "url": "smtp://m", "from": from, "to": "ops@x.example"});
        check_refused(mail("hub@x.example\r\nBcc: all@x"), "targets.ops.from", "no mail address");
        assert!(read(mail("hub@x.example")).is_ok());
        assert_eq!(read_targets(&json!({"log": {"type": "slack"}})).unwrap_err().field.as_deref(), Some("targets.log"));
    }
}
