//! The closed set of channels. Which one a partner has is decided when it is opened, never by what travels.

use ess_core::message::Message;
use ess_core::partner::ChannelKind;
use ess_core::receipt::Receipt;
use tokio::time::Instant;

use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::webhook::Webhook;

/// Why a channel or the dialer could not be set up. A partner's failure is not one of these, but a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address cannot be used.
    #[error("the address cannot be used: {0}")]
    Url(String),
    /// A secret, certificate or key cannot be used.
    #[error("the login cannot be used: {0}")]
    Credential(String),
    /// The trusted certificates cannot be used.
    #[error("the trusted certificates cannot be used: {0}")]
    Roots(String),
    /// An option cannot be used.
    #[error("the option cannot be used: {0}")]
    Option(String),
}

/// A way to one partner, with connections of its own. Shared through an `Arc`.
#[derive(Debug)]
pub enum Channel {
    /// HTTP POST.
    Webhook(Webhook),
}

impl Channel {
    /// Sets a channel up; nothing is dialled yet. At most `connections_max` idle connections are kept.
    ///
    /// # Errors
    ///
    /// The address or the login cannot be used.
    pub fn open(
        kind: ChannelKind,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
        connections_max: usize,
    ) -> Result<Channel, ChannelError> {
        match kind {
            ChannelKind::Webhook => Webhook::open(url, &credential, dialer, connections_max).map(Channel::Webhook),
        }
    }

    /// Sends the message once and reports what came back, by `deadline` at the latest.
    ///
    /// Dropping the future ends the attempt and closes its connection.
    pub async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        match self {
            Channel::Webhook(webhook) => webhook.send(message, deadline).await,
        }
    }

    /// Closes connections that have been idle for a minute. To be called every few seconds.
    pub fn sweep(&self) {
        match self {
            Channel::Webhook(webhook) => webhook.sweep(),
        }
    }
}
