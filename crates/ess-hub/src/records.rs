//! What lanes write down, in the store's terms.

use ess_core::delivery::DeliveryKey;
use ess_core::id::{Digest, PartnerNo, Version};
use ess_core::lane::Record;
use ess_store::{AckReceipt, Change};

/// Adds the changes that a record stands for.
pub fn push(changes: &mut Vec<Change>, partner: PartnerNo, record: Record) {
    match record {
        Record::Opened(open) => changes.push(Change::Opened(open)),
        Record::Failed { open, tried } => changes.push(Change::AttemptFailed { open, tried }),
        Record::Acked { seq, round, attempt, evidence, partner_seq, sent, has_rows, tried: _, at } => {
            let (version, body_digest, scripts) = match sent {
                Some(sent) => (sent.version, sent.body_digest, sent.scripts),
                // An ACK for something that was never sent in this run: the bytes are not known.
                None => (Version(0), Digest([0; 32]), [].into()),
            };
            let key = DeliveryKey { seq, partner, round };
            changes.push(Change::Acked(AckReceipt {
                key,
                at,
                attempt,
                evidence,
                body_digest,
                version,
                scripts,
                partner_seq,
                has_rows,
            }));
        }
        Record::Ended { open, ended } => changes.push(Change::Ended {
            open,
            state: ended.state,
            at: ended.at,
            reason: ended.reason,
            evidence: ended.evidence,
            tried: ended.tried,
        }),
        Record::Cursor { cursor, counted } => changes.push(Change::CursorMoved { partner, cursor, counted }),
        Record::Health(health) => changes.push(Change::HealthChanged { partner, health }),
    }
}
