//! A partner's inbox: what a partner that fetches gets when it asks.

use std::time::Duration;

use ess_core::id::PartnerId;
use ess_core::message::Message;
use ess_core::problem::{Code, Problem};
use tokio::time::Instant;

use crate::cluster::Call;
use crate::hub::Hub;

/// How soon a new inbox is looked for when one was closed.
const REOPEN: Duration = Duration::from_millis(50);

/// What one question brought.
#[derive(Debug)]
pub struct Fetched {
    /// The messages, in their order.
    pub messages: Vec<Message>,
    /// How long they are this asker's alone.
    pub lease: Duration,
}

impl Hub {
    /// At most `most` messages as soon as there are any, none when the span is over. Each is this asker's alone until its
    /// `ack.within` is over; then, without an ACK, it is offered again.
    ///
    /// # Errors
    /// There is no such partner, or it is not one that fetches.
    pub async fn take_from_inbox(&self, partner: &PartnerId, most: usize, wait: Duration) -> Result<Fetched, Problem> {
        let deadline = Instant::now() + wait;
        loop {
            let registered = self.delivery.registry.snapshot().partner(partner)?.clone();
            let no = registered.no;
            let rest = deadline.saturating_duration_since(Instant::now());
            if let Some(answer) = self.ask_server(no, || Call::Take { partner: no, most, wait: rest }).await? {
                return answer.fetched();
            }
            let channel = registered.channel.as_ref().ok();
            let Some(pull) = channel.and_then(|channel| channel.pull()) else {
                let word = registered.partner.channel.word();
                let detail = format!("{partner} is reached by {word} and has no inbox");
                return Err(Problem::new(Code::Conflict, detail)
                    .with_hint("a partner that fetches its events itself has `channel: pull`"));
            };
            let lease = registered.partner.ack.within;
            if let Some(messages) = pull.take(most, deadline).await {
                return Ok(Fetched { messages, lease });
            }
            // Closed: the partner was changed and has a new inbox, or the hub stops.
            if Instant::now() >= deadline {
                return Ok(Fetched { messages: Vec::new(), lease });
            }
            tokio::time::sleep(REOPEN).await;
        }
    }
}
