//! Heartbeats: a partner that has heard nothing for a while is told that the hub is there and how far its counter is, so that it
//! sees a gap even when nothing follows. They are no deliveries: nobody acknowledges one, and a failure is not counted against the
//! partner.

use std::sync::Mutex;

use ess_core::id::{Digest, EventId, Seq, Subject, Version};
use ess_core::message::{Message, message_id};

use crate::cells::Body;
use crate::deliver::Delivery;

use crate::registry::Registered;

/// What a heartbeat says.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// The highest counter that the partner was sent.
    pub partner_seq: u64,
    /// The newest event of the log.
    pub sequence: Seq,
}

impl Delivery {
    /// Sends one heartbeat; what comes back is not judged.
    pub async fn beat(&self, registered: &Registered, beat: Beat) {
        let Ok(channel) = &registered.channel else { return };
        let message = self.heartbeat(registered, beat);
        let deadline = tokio::time::Instant::now() + registered.partner.timeout;
        let receipt = channel.send(&message, deadline).await;
        tracing::debug!(partner.id = %registered.partner.id, ?receipt, "heartbeat");
    }

    fn heartbeat(&self, registered: &Registered, beat: Beat) -> Message {
        let now = self.clock.now();
        let timestamp = now.as_micros() / 1_000_000;
        let id = message_id(uuid::Uuid::now_v7(), false);
        let text = serde_json::json!({
            "heartbeat": true,
            "partner": registered.partner.id.as_str(),
            "partner_seq": beat.partner_seq,
            "sequence": beat.sequence.0,
            "time": now.to_string(),
        })
        .to_string();
        let bytes = bytes::Bytes::from(text);
        let body = Body {
            digest: Digest::of(&bytes),
            bytes,
            content_type: "application/json".to_owned(),
            extension: "json",
            headers: Vec::new(),
            scripts: [].into(),
            signature: Mutex::default(),
        };
        let signatures = self.workshop.signatures(registered, &id, timestamp, &body, now);
        let mut headers: Vec<(String, String)> = [
            ("webhook-id", id.clone()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signatures),
            ("x-hms-heartbeat", "true".to_owned()),
            ("x-hms-partner-seq", beat.partner_seq.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        headers.extend(registered.partner.headers.iter().cloned());
        Message {
            id,
            event_id: EventId::trusted("HMS-ESS-HEARTBEAT"),
            subject: Subject::trusted("HMS-ESS-HEARTBEAT"),
            version: Version(1),
            extension: body.extension,
            content_type: body.content_type,
            headers,
            body: body.bytes,
            body_digest: body.digest,
            test: false,
            replay: false,
            partner_seq: Some(beat.partner_seq),
            attempt: 1,
        }
    }
}
