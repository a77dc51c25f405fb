//! The links by which people acknowledge mails: made here, opened here, and taken as the partner's word once.
//!
//! To look at a link changes nothing. Who has the link speaks for the partner for this one delivery and for nothing else, and it is
//! never logged.

use std::time::Duration;

use ess_core::ack_link::{AckLink, LinkError, LinkKey};
use ess_core::bounce::Bounce;
use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{EventId, PartnerId, Seq, Subject};
use ess_core::letter::ACK_LINK;
use ess_core::problem::Problem;
use ess_core::receipt::Evidence;
use ess_core::time::Time;

use crate::acks::Word;
use crate::hub::Hub;
use crate::publish::unavailable;

/// How long a link is good: longer than any mail lies unread that still matters.
const GOOD_FOR: Duration = Duration::from_secs(30 * 86_400);

/// Makes links.
pub(crate) struct Links {
    key: LinkKey,
    /// The hub's address for those outside, without a slash at its end.
    base: String,
}

/// What a link is for, and what was said by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The event and its subject; none when the link is of a test of the address.
    pub event: Option<(EventId, Subject)>,
    /// A dry run.
    pub test: bool,
    /// For whom it is.
    pub partner: PartnerId,
    /// What was said.
    pub said: Option<LinkWord>,
}

/// What can be said by a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkWord {
    /// It is there.
    Acknowledged,
    /// It is refused.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Why nothing can be said by a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkProblem {
    /// It is none, or none any more.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What it is for can't be read or written now.
    #[error("{}", .0.detail)]
    Unavailable(Problem),
}

impl Links {
    pub(crate) fn new(seed: [u8; 32], public_url: &str) -> Self {
        Self { key: LinkKey::from_seed(seed), base: public_url.trim_end_matches('/').to_owned() }
    }

    /// The header that carries the link of a delivery to the channel.
    pub(crate) fn header(&self, delivery: DeliveryKey, now: Time) -> (String, String) {
        let token = AckLink { delivery, expires: now.after(GOOD_FOR) }.token(&self.key);
        (ACK_LINK.to_owned(), format!("{}/ack/{token}", self.base))
    }
}

impl Hub {
    /// What a link is for. Changes nothing.
    ///
    /// # Errors
    /// It is none of this hub's, has expired, or what it is for is gone.
    pub async fn link(&self, token: &str) -> Result<LinkView, LinkProblem> {
        let AckLink { delivery: key, .. } = AckLink::open(token, &self.delivery.links.key, self.now())?;
        let snapshot = self.delivery.registry.snapshot();
        // A partner that was removed has nothing to say any more.
        let registered = snapshot.by_no.get(&key.partner).ok_or(LinkError::Foreign)?;
        let partner = registered.partner.id.clone();
        if key.seq == Seq(0) {
            return Ok(LinkView { event: None, test: true, partner, said: None });
        }
        let store = &self.delivery.store;
        let failed = |error| LinkProblem::Unavailable(unavailable(&error));
        // What lanes recorded before this question is to be seen.
        store.record_durably(Vec::new()).await.map_err(failed)?;
        let recorded = store.event(key.seq).await.map_err(failed)?.ok_or(LinkError::Foreign)?;
        let deliveries = store.deliveries_of_event(key.seq).await.map_err(failed)?;
        let delivery = deliveries.into_iter().find(|delivery| delivery.key == key).ok_or(LinkError::Foreign)?;
        let said = match delivery.state {
            State::Acked => Some(LinkWord::Acknowledged),
            State::Nack => Some(LinkWord::Refused { reason: delivery.reason.unwrap_or_default() }),
            _ => None,
        };
        let content = &recorded.event.content;
        let event = Some((content.id.clone(), content.subject.clone()));
        Ok(LinkView { event, test: content.test, partner, said })
    }

    /// Takes the word of who has the link; durable when this returns. What was said before stays.
    ///
    /// # Errors
    /// As for [`Hub::link`].
    pub async fn answer_link(&self, token: &str, word: LinkWord) -> Result<LinkView, LinkProblem> {
        let before = self.link(token).await?;
        let Some((event, _)) = before.event.clone().filter(|_| before.said.is_none()) else { return Ok(before) };
        let AckLink { delivery: key, .. } = AckLink::open(token, &self.delivery.links.key, self.now())?;
        let snapshot = self.delivery.registry.snapshot();
        let registered = snapshot.by_no.get(&key.partner).ok_or(LinkError::Foreign)?;
        let test = before.test;
        let word = match word {
            LinkWord::Acknowledged => Word::Ack { event, test, digest: None },
            LinkWord::Refused { reason } => Word::Nack { event, test, reason, retryable: false },
        };
        let taken = self.take_word_of_round(word, registered, Evidence::Callback, key.round).await;
        taken.map_err(LinkProblem::Unavailable)?;
        self.link(token).await
    }

    /// Takes what a mail server says of a mail: a failure is a refusal in the partner's stead, anything else changes nothing. What
    /// was said before stays, as who acknowledged has the event. Durable when this returns.
    ///
    /// # Errors
    /// As for [`Hub::link`].
    pub async fn take_bounce(&self, bounce: &Bounce) -> Result<LinkView, LinkProblem> {
        match bounce.failure() {
            Some(reason) => self.answer_link(&bounce.link, LinkWord::Refused { reason }).await,
            None => self.link(&bounce.link).await,
        }
    }
}
