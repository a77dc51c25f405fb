//! A connection to an SSH server: the host's key checked against its pins, the hub logged in, SFTP begun.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_core::receipt::{Failure, Stage};
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, MethodKind, Preferred};
use russh_sftp::client::{Config as SftpConfig, RawSftpSession};
use tokio::time::Instant;

use super::leash::{Leash, leash};
use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::progress::Progress;
use crate::target::Target;

/// Answers of a server that asks for the password in a dialogue.
const PROMPTS_MAX: usize = 4;
/// The attempt's deadline ends a request long before the library does.
const REQUEST_SECONDS_MAX: u64 = 3_600;

/// Who logs in and whom it trusts.
pub(super) struct Login {
    user: String,
    means: Means,
    /// Keys (`ssh-ed25519 AAAA…`) and fingerprints (`SHA256:…`) of the host.
    pins: Arc<[String]>,
    config: Arc<client::Config>,
}

enum Means {
    Password(Credential),
    Key(Arc<PrivateKey>),
}

/// An open connection; it closes when it is dropped.
pub(super) struct Connection {
    pub(super) sftp: RawSftpSession,
    /// A plain rename never replaces a file, and there is one that does: what OpenSSH says by this extension.
    pub(super) has_posix_rename: bool,
    pub(super) has_fsync: bool,
    /// When it was last used.
    pub(super) used_at: Instant,
    handle: Handle<Host>,
    _leash: Leash,
}

/// What the host showed of itself.
struct Seen {
    key: String,
    fingerprint: String,
}

/// The checker of the host's key.
struct Host {
    pins: Arc<[String]>,
    /// Guards what was shown, for the words afterwards; held for a change.
    seen: Arc<Mutex<Option<Seen>>>,
}

impl client::Handler for Host {
    type Error = russh::Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else { return Ok(false) };
        let seen = Seen { key: line_of(key), fingerprint: key.fingerprint(HashAlg::Sha256).to_string() };
        let is_pinned = self.pins.iter().any(|pin| *pin == seen.key || *pin == seen.fingerprint);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(is_pinned)
    }
}

impl Login {
    pub(super) fn new(credential: Credential, target: &Target, pins: &[String]) -> Result<Login, ChannelError> {
        let refuse = |why: &str| ChannelError::Credential(why.to_owned());
        let (user, means) = match &credential {
            Credential::Password { user, .. } => (user.clone(), Means::Password(credential.clone())),
            Credential::Key { user, key, passphrase } => {
                let key = russh::keys::decode_secret_key(key, passphrase.as_deref())
                    .map_err(|_| refuse("the key cannot be read; is its passphrase right?"))?;
                (user.clone(), Means::Key(Arc::new(key)))
            }
            _ => return Err(refuse("sftp needs `auth: {key: …}` or `auth: {password: …}`")),
        };
        let user = user.or_else(|| target.user.clone());
        let user = user.ok_or_else(|| refuse("no user is named; write sftp://user@host/dir or `auth: {user: …}`"))?;
        let pinned: Vec<PublicKey> = pins.iter().filter_map(|pin| PublicKey::from_openssh(pin).ok()).collect();
        let mut config = client::Config { nodelay: true, ..client::Config::default() };
        if !pinned.is_empty() && pinned.len() == pins.len() {
            // A host may have several keys: it is asked for the one that is pinned.
            let keys: Vec<Algorithm> = Preferred::default()
                .key
                .iter()
                .filter(|algorithm| pinned.iter().any(|key| is_same_kind(algorithm, &key.algorithm())))
                .cloned()
                .collect();
            config.preferred = Preferred { key: Cow::Owned(keys), ..Preferred::default() };
        }
        Ok(Login { user, means, pins: pins.into(), config: Arc::new(config) })
    }

    /// Connects, checks the host, logs in and begins SFTP.
    pub(super) async fn connect(
        &self,
        dialer: &Dialer,
        target: &Target,
        progress: &Progress,
    ) -> Result<Connection, Failure> {
        let stream = dialer.dial(target, None, progress).await?;
        progress.enter(Stage::Auth);
        let (leash, stream) = leash(stream);
        let seen = Arc::default();
        let host = Host { pins: Arc::clone(&self.pins), seen: Arc::clone(&seen) };
        let connected = client::connect_stream(Arc::clone(&self.config), stream, host).await;
        let mut handle = connected.map_err(|error| {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            auth(self.host_words(seen.as_ref(), &error, &target.host))
        })?;
        self.log_in(&mut handle).await?;
        let mut channel = handle.channel_open_session().await.map_err(|error| auth(words(&error)))?;
        channel.request_subsystem(true, "sftp").await.map_err(|error| auth(words(&error)))?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => return Err(auth("the server has no sftp for this user".to_owned())),
                Some(_) => {}
                None => return Err(auth("connection closed while sftp was asked for".to_owned())),
            }
        }
        let config = SftpConfig { request_timeout_secs: REQUEST_SECONDS_MAX, ..SftpConfig::default() };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = sftp.init().await.map_err(|error| auth(format!("sftp did not begin: {error}")))?;
        let has = |name: &str| version.extensions.get(name).is_some_and(|version| version == "1");
        Ok(Connection {
            has_posix_rename: has("posix-rename@openssh.com"),
            has_fsync: has("fsync@openssh.com"),
            sftp,
            used_at: Instant::now(),
            handle,
            _leash: leash,
        })
    }

    async fn log_in(&self, handle: &mut Handle<Host>) -> Result<(), Failure> {
        let user = self.user.as_str();
        let result = match &self.means {
            Means::Key(key) => {
                let hash = handle.best_supported_rsa_hash().await.map_err(|error| auth(words(&error)))?.flatten();
                handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::clone(key), hash)).await
            }
            Means::Password(credential) => {
                let Credential::Password { password, .. } = credential else {
                    return Err(auth("no password is given".to_owned()));
                };
                let result = handle.authenticate_password(user, password.as_str()).await;
                match &result {
                    Ok(AuthResult::Failure { remaining_methods, .. })
                        if remaining_methods.contains(&MethodKind::KeyboardInteractive) =>
                    {
                        answer_prompts(handle, user, password).await
                    }
                    _ => result,
                }
            }
        };
        match result.map_err(|error| auth(words(&error)))? {
            AuthResult::Success => Ok(()),
            AuthResult::Failure { remaining_methods, .. } => {
                let left: Vec<String> =
                    remaining_methods.iter().map(|method| String::from(<&str>::from(method))).collect();
                let means = if matches!(self.means, Means::Key(_)) { "key" } else { "password" };
                Err(auth(format!("the server does not take the {means} of {user}; it takes {}", left.join(", "))))
            }
        }
    }

    /// Why a connection ended before the log-in; most often the host's key.
    fn host_words(&self, seen: Option<&Seen>, error: &russh::Error, host: &str) -> String {
        match seen {
            Some(Seen { key, fingerprint }) if self.pins.is_empty() => format!(
                "the host key of {host} is not pinned; it showed {fingerprint}; if that is the partner's, add \
                 `host_key: \"{key}\"`"
            ),
            Some(Seen { fingerprint, .. }) if matches!(error, russh::Error::UnknownKey) => format!(
                "the host key of {host} is another than the pinned one: it showed {fingerprint}; ask the partner before \
                 `host_key` is changed"
            ),
            _ => match error {
                russh::Error::NoCommonAlgo { .. } if !self.pins.is_empty() => {
                    format!("{host} has no key of the pinned kind, or no algorithm in common with the hub")
                }
                error => words(error),
            },
        }
    }
}

impl Connection {
    /// Whether the server has closed it, by all that is known here.
    pub(super) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }
}

/// Servers that take no `password` often ask for it in a dialogue.
async fn answer_prompts(handle: &mut Handle<Host>, user: &str, password: &str) -> Result<AuthResult, russh::Error> {
    let mut step = handle.authenticate_keyboard_interactive_start(user, None::<String>).await?;
    for _ in 0..PROMPTS_MAX {
        match step {
            KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                return Ok(AuthResult::Failure { remaining_methods, partial_success });
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answers = prompts.iter().take(PROMPTS_MAX).map(|_| password.to_owned()).collect();
                step = handle.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
    Err(russh::Error::NotAuthenticated)
}

fn is_same_kind(a: &Algorithm, b: &Algorithm) -> bool {
    a == b || matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

/// The key as it stands in `known_hosts`, without host and comment.
fn line_of(key: &PublicKey) -> String {
    let line = key.to_openssh().unwrap_or_default();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn auth(reason: String) -> Failure {
    Failure { stage: Stage::Auth, reason }
}

fn words(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP | russh::Error::RecvError | russh::Error::SendError => {
            "connection closed by the ssh server".to_owned()
        }
        russh::Error::IO(error) => crate::wire::io_words(error),
        other => format!("ssh: {other}").to_lowercase(),
    }
}

/// How long an idle connection is kept.
pub(super) const IDLE_MAX: Duration = crate::limits::IDLE_MAX;
