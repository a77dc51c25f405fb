//! Partners that are ready to be delivered to, and the snapshot of now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ess_channels::{Channel, Credential, Dialer};
use ess_core::id::{Digest, PartnerId, PartnerNo, Subject, Version};
use ess_core::partner::{AckPolicy, Auth, Fallback, Partner, SecretRef, Tests};
use ess_core::signature::SigningSecret;
use ess_core::time::Time;

use crate::rules::Rules;
pub use crate::snapshot::Snapshot;

/// Finds a secret that a configuration names: an environment variable, a file, or the text itself.
pub type FindSecret = Arc<dyn Fn(&SecretRef) -> Result<String, String> + Send + Sync>;

/// A partner, ready to be delivered to.
#[derive(Debug)]
pub struct Registered {
    /// Its number in the store.
    pub no: PartnerNo,
    /// Its configuration.
    pub partner: Arc<Partner>,
    /// When it was added.
    pub added_at: Time,
    /// Since when it is paused.
    pub paused_since: Option<Time>,
    /// Its signing secrets, newest first, each with its end.
    pub secrets: Vec<(SigningSecret, Option<Time>)>,
    /// Digest of its adapter's text.
    pub adapter: Option<Digest>,
    /// The adapter looks at `$partner`, so that its bytes are for this partner only.
    pub is_own_shape: bool,
    /// The way to it; the reason when its configuration can't be used now, such as a secret that is not there.
    pub channel: Result<Arc<Channel>, String>,
    /// Another way for dry runs.
    pub test_channel: Option<Result<Arc<Channel>, String>>,
    /// Another way for what is not acknowledged for too long.
    pub fallback: Option<FallbackWay>,
}

/// The way that is tried when a partner's own brings no ACK.
#[derive(Debug, Clone)]
pub struct FallbackWay {
    /// The channel.
    pub channel: Result<Arc<Channel>, String>,
    /// What counts as the receipt there.
    pub ack: AckPolicy,
}

impl Registered {
    /// The same partner with another part changed; channels and their connections are kept.
    #[must_use]
    pub fn with(&self, paused_since: Option<Time>, secrets: Vec<(SigningSecret, Option<Time>)>) -> Self {
        Self {
            no: self.no,
            partner: self.partner.clone(),
            added_at: self.added_at,
            paused_since,
            secrets,
            adapter: self.adapter,
            is_own_shape: self.is_own_shape,
            channel: self.channel.clone(),
            test_channel: self.test_channel.clone(),
            fallback: self.fallback.clone(),
        }
    }

    /// The way for real events, or the one for dry runs.
    pub fn channel_for(&self, test: bool) -> &Result<Arc<Channel>, String> {
        match (&self.test_channel, test) {
            (Some(channel), true) => channel,
            _ => &self.channel,
        }
    }

    /// The version that it gets of an event.
    #[must_use]
    pub fn version_of(&self, subject: &Subject, published: Version) -> Version {
        self.partner.pinned_version(subject).unwrap_or(published)
    }
}

/// Opens a partner's channels.
pub struct Opener {
    /// The one that opens sockets.
    pub dialer: Dialer,
    /// Where secrets are.
    pub find_secret: FindSecret,
}

impl Opener {
    /// The partner, ready to be delivered to.
    #[must_use]
    pub fn register(
        &self,
        no: PartnerNo,
        partner: Arc<Partner>,
        added_at: Time,
        paused_since: Option<Time>,
        secrets: Vec<(SigningSecret, Option<Time>)>,
    ) -> Registered {
        let adapter = partner.adapter.as_deref().map(|text| ess_core::id::Digest::of(text.as_bytes()));
        let names_partner = partner.adapter.as_deref().is_some_and(|text| text.contains("$partner"));
        let channel = self.open(&partner, partner.url.as_deref().unwrap_or_default());
        let test_channel = match &partner.tests {
            Tests::To(url) => Some(self.open(&partner, url)),
            Tests::Deliver | Tests::Skip => None,
        };
        let fallback = partner.fallback.as_ref().map(|fallback| self.open_fallback(fallback));
        Registered {
            no,
            adapter,
            is_own_shape: names_partner,
            partner,
            added_at,
            paused_since,
            secrets,
            channel,
            test_channel,
            fallback,
        }
    }

    fn open_fallback(&self, fallback: &Fallback) -> FallbackWay {
        let channel = self.open(&fallback.partner, fallback.partner.url.as_deref().unwrap_or_default());
        FallbackWay { channel, ack: fallback.partner.ack.clone() }
    }

    fn open(&self, partner: &Partner, url: &str) -> Result<Arc<Channel>, String> {
        let credential = self.credential(partner.auth.as_ref())?;
        Channel::open(partner, url, credential, &self.dialer).map(Arc::new).map_err(|error| error.to_string())
    }

    /// A login with its secrets.
    pub(crate) fn credential(&self, auth: Option<&Auth>) -> Result<Credential, String> {
        let find = |secret: &SecretRef| (self.find_secret)(secret);
        Ok(match auth {
            None => Credential::None,
            Some(Auth::Bearer(token)) => Credential::Bearer(find(token)?),
            Some(Auth::Basic { user, password }) => Credential::Basic { user: user.clone(), password: find(password)? },
            Some(Auth::OAuth2 { token_url, client_id, client_secret, scope }) => Credential::OAuth2 {
                token_url: token_url.clone(),
                client_id: client_id.clone(),
                client_secret: find(client_secret)?,
                scope: scope.clone(),
            },
            Some(Auth::Password { user, password }) => {
                Credential::Password { user: user.clone(), password: find(password)? }
            }
            Some(Auth::Key { user, key, passphrase }) => Credential::Key {
                user: user.clone(),
                key: find(key)?,
                passphrase: passphrase.as_ref().map(find).transpose()?,
            },
            Some(Auth::Mtls { cert, key }) => Credential::Mtls { cert_pem: find(cert)?, key_pem: find(key)? },
        })
    }
}

/// The current snapshot, and the right to change it.
#[derive(Debug, Default)]
pub struct Registry {
    /// Guards the pointer; held for a clone or a swap.
    current: RwLock<Arc<Snapshot>>,
    /// Changes come one after the other: read, write to the store, swap.
    pub changing: tokio::sync::Mutex<()>,
    /// Among several nodes: how many changes of the store's registry the snapshot has, at least.
    number: AtomicU64,
}

impl Registry {
    /// The snapshot of now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many changes of the store's registry the snapshot has, at least. To be read before the snapshot.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The snapshot has so many changes from now on.
    pub fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Release);
    }

    /// Puts partners into the next snapshot, in place of those of the same ids.
    pub fn put_all(&self, registered: Vec<Arc<Registered>>) {
        if registered.is_empty() {
            return;
        }
        let now = self.snapshot();
        let mut partners = now.partners.clone();
        partners.extend(registered.into_iter().map(|one| (one.partner.id.clone(), one)));
        self.swap(Snapshot::new(partners, now.former.clone(), now.rules.clone()));
    }

    /// Puts a partner into the next snapshot, in place of one of the same id.
    pub fn put(&self, registered: Arc<Registered>) {
        self.put_all(vec![registered]);
    }

    /// Leaves a partner out of the next snapshot.
    pub fn remove(&self, id: &PartnerId) {
        let now = self.snapshot();
        let mut partners = now.partners.clone();
        let mut former = now.former.as_ref().clone();
        if let Some(removed) = partners.remove(id) {
            former.insert(removed.no, id.clone());
        }
        self.swap(Snapshot::new(partners, Arc::new(former), now.rules.clone()));
    }

    /// Other rules; what the ones before made is not taken for theirs.
    pub fn set_rules(&self, rules: Rules) {
        let now = self.snapshot();
        let rules = Arc::new(Rules { generation: now.rules.generation + 1, ..rules });
        self.swap(Snapshot::new(now.partners.clone(), now.former.clone(), rules));
    }

    /// The whole, at the start.
    pub fn swap(&self, next: Snapshot) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}
