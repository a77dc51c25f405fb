//! How the hub logs in at a partner, in its document.

use serde_json::{Value, json};

use super::channel::checked_http_url;
use super::document::Secrets;
use super::part::{Part, invalid};
use super::{Auth, ChannelKind, SecretRef};
use crate::problem::Problem;

/// Every word that `auth` may begin with, whatever the channel.
const WORDS: [&str; 8] = ["bearer", "basic", "oauth2", "mtls", "user", "password", "key", "passphrase"];

pub(crate) fn read_auth(value: &Value, channel: ChannelKind) -> Result<Auth, Problem> {
    let part = Part::of(value, "auth", &WORDS)?;
    let fitting = channel.rule().auths;
    if let Some(word) = part.map.keys().find(|word| !fitting.contains(&word.as_str())) {
        let why = format!("{} does not log in so", channel.word());
        let hint = match fitting {
            [] => "leave `auth` away".to_owned(),
            fitting => format!("known there are {}", fitting.join(", ")),
        };
        return Err(invalid(&part.path(word), &why).with_hint(hint));
    }
    let secret = |part: &Part<'_>, name: &str| part.need_text(name).map(|text| SecretRef::parse(&text));
    let user = part.text("user")?;
    if part.get("key").is_some() {
        only(&part, &["user", "key", "passphrase"])?;
        let passphrase = part.text("passphrase")?.map(|text| SecretRef::parse(&text));
        return Ok(Auth::Key { user, key: secret(&part, "key")?, passphrase });
    }
    if part.get("password").is_some() {
        only(&part, &["user", "password"])?;
        if user.is_none() && matches!(channel, ChannelKind::Amqp | ChannelKind::Kafka) {
            return Err(invalid("auth.user", "a password needs a user there"));
        }
        return Ok(Auth::Password { user, password: secret(&part, "password")? });
    }
    if part.map.len() != 1 || user.is_some() {
        return Err(invalid("auth", &format!("expected exactly one way to log in, of {}", fitting.join(", "))));
    }
    if part.get("bearer").is_some() {
        return secret(&part, "bearer").map(Auth::Bearer);
    }
    if let Some(value) = part.get("basic") {
        let basic = Part::of(value, "auth.basic", &["user", "password"])?;
        return Ok(Auth::Basic { user: basic.need_text("user")?, password: secret(&basic, "password")? });
    }
    if let Some(value) = part.get("oauth2") {
        let oauth = Part::of(value, "auth.oauth2", &["token_url", "client_id", "client_secret", "scope"])?;
        return Ok(Auth::OAuth2 {
            token_url: checked_http_url(&oauth.need_text("token_url")?, "auth.oauth2.token_url")?,
            client_id: oauth.need_text("client_id")?,
            client_secret: secret(&oauth, "client_secret")?,
            scope: oauth.text("scope")?,
        });
    }
    let mtls = Part::of(part.get("mtls").unwrap_or(&Value::Null), "auth.mtls", &["cert", "key"])?;
    Ok(Auth::Mtls { cert: secret(&mtls, "cert")?, key: secret(&mtls, "key")? })
}

/// Refuses what belongs to another way to log in.
fn only(part: &Part<'_>, fitting: &[&str]) -> Result<(), Problem> {
    match part.map.keys().find(|word| !fitting.contains(&word.as_str())) {
        Some(word) => {
            Err(invalid(&part.path(word), &format!("expected only {} beside each other", fitting.join(", "))))
        }
        None => Ok(()),
    }
}

pub(crate) fn write_auth(auth: &Auth, secrets: Secrets) -> Value {
    match auth {
        Auth::Bearer(token) => json!({"bearer": token.write(secrets)}),
        Auth::Basic { user, password } => json!({"basic": {"user": user, "password": password.write(secrets)}}),
        Auth::OAuth2 { token_url, client_id, client_secret, scope } => json!({"oauth2": {
            "token_url": token_url, "client_id": client_id, "client_secret": client_secret.write(secrets), "scope": scope,
        }}),
        Auth::Password { user, password } => {
            let mut document = json!({"password": password.write(secrets)});
            put(&mut document, "user", user.clone());
            document
        }
        Auth::Key { user, key, passphrase } => {
            let mut document = json!({"key": key.write(secrets)});
            put(&mut document, "user", user.clone());
            put(&mut document, "passphrase", passphrase.as_ref().map(|passphrase| passphrase.write(secrets)));
            document
        }
        Auth::Mtls { cert, key } => json!({"mtls": {"cert": cert.write(secrets), "key": key.write(secrets)}}),
    }
}

fn put(document: &mut Value, name: &str, value: Option<String>) {
    if let Some(value) = value {
        document[name] = json!(value);
    }
}

impl SecretRef {
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some(("env", name)) => SecretRef::Env(name.to_owned()),
            Some(("file", path)) => SecretRef::File(path.to_owned()),
            _ => SecretRef::Inline(text.to_owned()),
        }
    }

    pub(crate) fn write(&self, secrets: Secrets) -> String {
        match (self, secrets) {
            (SecretRef::Env(name), _) => format!("env:{name}"),
            (SecretRef::File(path), _) => format!("file:{path}"),
            (SecretRef::Inline(text), Secrets::Shown) => text.clone(),
            (SecretRef::Inline(_), Secrets::Masked) => "(sealed)".to_owned(),
        }
    }
}
