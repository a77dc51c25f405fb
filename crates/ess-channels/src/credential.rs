//! How the hub logs in at a partner, with the secrets resolved.
//!
//! A secret is never printed, logged or part of a failure's reason, and is wiped when it is dropped.

use zeroize::Zeroize;

/// A partner's login, resolved from its configuration.
#[derive(Clone)]
pub enum Credential {
    /// None.
    None,
    /// `Authorization: Bearer`.
    Bearer(String),
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OAuth2 {
        /// Where tokens are had; dialled under the same guard as the partner.
        token_url: String,
        /// Client id.
        client_id: String,
        /// Client secret.
        client_secret: String,
        /// Scope, if any.
        scope: Option<String>,
    },
    /// A user's name and password, for what is not HTTP.
    Password {
        /// User name; absent when it stands in the address.
        user: Option<String>,
        /// Password.
        password: String,
    },
    /// A private key (SSH).
    Key {
        /// User name; absent when it stands in the address.
        user: Option<String>,
        /// The key, PEM or OpenSSH form.
        key: String,
        /// What the key is locked with.
        passphrase: Option<String>,
    },
    /// TLS client certificate.
    Mtls {
        /// Certificate chain, PEM.
        cert_pem: String,
        /// Private key, PEM.
        key_pem: String,
    },
}

impl Drop for Credential {
    fn drop(&mut self) {
        match self {
            Credential::None => {}
            Credential::Bearer(token) => token.zeroize(),
            Credential::Basic { password, .. } | Credential::Password { password, .. } => password.zeroize(),
            Credential::Key { key, passphrase, .. } => {
                key.zeroize();
                passphrase.zeroize();
            }
            Credential::OAuth2 { client_secret, .. } => client_secret.zeroize(),
            Credential::Mtls { key_pem, .. } => key_pem.zeroize(),
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::None => "None",
            Credential::Bearer(_) => "Bearer(hidden)",
            Credential::Basic { .. } => "Basic(hidden)",
            Credential::OAuth2 { .. } => "OAuth2(hidden)",
            Credential::Password { .. } => "Password(hidden)",
            Credential::Key { .. } => "Key(hidden)",
            Credential::Mtls { .. } => "Mtls(hidden)",
        })
    }
}
