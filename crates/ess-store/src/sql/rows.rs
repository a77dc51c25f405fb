//! Rows to values and back; the numbers and words of the schema.

use std::sync::Arc;

use super::db::Row;
pub(super) use super::db::damaged;
use crate::error::StoreError;
use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::{Content, Event, Gone, GoneCause, Kind, Priority, Trace};
use ess_core::id::{Digest, EventId, PartnerNo, Seq, Subject, Version};
use ess_core::lane::{OpenDelivery, OpenState, Sent};
use ess_core::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

type Result<T> = std::result::Result<T, StoreError>;

/// The fields of an event that are rarely there, format 1.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rest {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    effective: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    references: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    docket_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    publisher: Option<String>,
}

impl Rest {
    pub(super) fn write(content: &Content, trace: &Trace) -> String {
        let rest = Rest {
            source: content.source.clone(),
            time: content.time.clone(),
            effective: content.effective.clone(),
            expires: content.expires.clone(),
            references: content.references.iter().map(ToString::to_string).collect(),
            traceparent: trace.traceparent.clone(),
            trace_id: trace.trace_id.clone(),
            docket_id: trace.docket_id.clone(),
            publisher: trace.publisher.clone(),
        };
        // Invariant: strings always serialise.
        serde_json::to_string(&rest).expect("an event's rest serialises")
    }
}

/// A place in the log as a database numbers it: cursors come from outside, and one past every row is past every row.
pub(super) fn place(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// The event of a row, and its audience's id. Columns: seq, id, test, subject, version, kind, priority, recorded_at, audience,
/// message, digest, rest, payload, gone_at, gone_by, gone_why.
pub(super) fn event(row: &Row<'_>) -> Result<(Event, i64)> {
    let rest: Rest = serde_json::from_str(row.get(11)?).map_err(|_| damaged(11))?;
    let payload: Box<RawValue> = RawValue::from_string(row.get(12)?).map_err(|_| damaged(12))?;
    let content = Content {
        id: EventId::trusted(row.get(1)?),
        test: row.get(2)?,
        subject: Subject::trusted(row.get(3)?),
        version: Version(row.get(4)?),
        kind: kind(row.get(5)?),
        priority: priority(row.get(6)?),
        payload: Arc::from(payload),
        source: rest.source,
        time: rest.time,
        effective: rest.effective,
        expires: rest.expires,
        references: rest.references.iter().map(|id| EventId::trusted(id)).collect(),
    };
    let trace = Trace {
        traceparent: rest.traceparent,
        trace_id: rest.trace_id,
        docket_id: rest.docket_id,
        publisher: rest.publisher,
    };
    let event = Event {
        seq: Seq(row.get(0)?),
        recorded_at: Time::from_micros(row.get(7)?),
        content,
        trace,
        content_digest: row.get(10)?,
        message_uuid: row.get(9)?,
        gone: gone(row, 13)?,
    };
    Ok((event, row.get(8)?))
}

/// Why the payload of an event's row is not there any more. Columns from `first` on: gone_at, gone_by, gone_why.
pub(super) fn gone(row: &Row<'_>, first: usize) -> Result<Option<Gone>> {
    let Some(at) = time(row, first)? else { return Ok(None) };
    let cause = match (row.get(first + 1)?, row.get(first + 2)?) {
        (Some(by), Some(reason)) => GoneCause::Redacted { by, reason },
        _ => GoneCause::Expired,
    };
    Ok(Some(Gone { at, cause }))
}

/// An open delivery of a row. Columns: partner, seq, round, subject, test, kind, priority, state, attempts, resends, due_at,
/// first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, fallback_at, recorded_at.
pub(super) fn open_delivery(row: &Row<'_>) -> Result<OpenDelivery> {
    let state = match row.get(7)? {
        "pending" => OpenState::Pending,
        "retrying" => OpenState::Retrying,
        "awaiting_ack" => OpenState::AwaitingAck,
        "blocked" => OpenState::Blocked,
        _ => return Err(damaged(7)),
    };
    let sent = match (row.get::<Option<u32>>(16)?, row.get(17)?) {
        (Some(version), Some(body_digest)) => {
            let scripts = row.get::<Option<&[u8]>>(18)?.map(digests).unwrap_or_default();
            Some(Sent { version: Version(version), body_digest, scripts: scripts.into() })
        }
        _ => None,
    };
    Ok(OpenDelivery {
        key: key(row)?,
        subject: Subject::trusted(row.get(3)?),
        test: row.get(4)?,
        recorded_at: time(row, 20)?.unwrap_or_default(),
        kind: kind(row.get(5)?),
        priority: priority(row.get(6)?),
        state,
        attempts: row.get(8)?,
        resends: row.get(9)?,
        due_at: time(row, 10)?,
        first_failed_at: time(row, 11)?,
        partner_seq: row.get(12)?,
        reason: row.get(13)?,
        mend: row.get(14)?,
        message_uuid: row.get(15)?,
        sent,
        fallback_at: time(row, 19)?,
    })
}

/// The first three columns: partner, seq, round.
pub(super) fn key(row: &Row<'_>) -> Result<DeliveryKey> {
    Ok(DeliveryKey { partner: PartnerNo(row.get(0)?), seq: Seq(row.get(1)?), round: row.get(2)? })
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Option<Time>> {
    Ok(row.get::<Option<i64>>(column)?.map(Time::from_micros))
}

pub(super) fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks_exact(32).filter_map(|chunk| chunk.try_into().ok().map(Digest)).collect()
}

pub(super) fn ended_state(word: &str) -> Option<State> {
    [State::Nack, State::Dead, State::Superseded, State::Cancelled].into_iter().find(|state| state.word() == word)
}

pub(super) fn open_word(state: OpenState) -> &'static str {
    match state {
        OpenState::Pending => "pending",
        OpenState::Retrying => "retrying",
        OpenState::AwaitingAck => "awaiting_ack",
        OpenState::Blocked => "blocked",
    }
}

pub(super) fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Change => 0,
        Kind::Correction => 1,
        Kind::Retraction => 2,
    }
}

pub(super) fn kind(number: i64) -> Kind {
    match number {
        1 => Kind::Correction,
        2 => Kind::Retraction,
        _ => Kind::Change,
    }
}

pub(super) fn priority_number(priority: Priority) -> i64 {
    i64::from(priority == Priority::Urgent)
}

pub(super) fn priority(number: i64) -> Priority {
    if number == 1 { Priority::Urgent } else { Priority::Routine }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_what_is_rarely_there_stays_as_it_is() {
        let mut content = Content {
            id: EventId::trusted("A-V1"),
            version: Version(1),
            subject: Subject::trusted("A"),
            payload: Arc::from(RawValue::from_string("1".to_owned()).unwrap()),
            source: None,
            time: None,
            effective: None,
            expires: None,
            priority: Priority::Routine,
            references: Vec::new(),
            kind: Kind::Change,
            test: false,
        };
        assert_eq!(Rest::write(&content, &Trace::default()), "{}");
        content.source = Some("s".to_owned());
        content.time = Some("t".to_owned());
        content.effective = Some("f".to_owned());
        content.expires = Some("x".to_owned());
        content.references = vec![EventId::trusted("A-V0")];
        let trace = Trace {
            traceparent: Some("p".to_owned()),
            trace_id: Some("i".to_owned()),
            docket_id: Some("d".to_owned()),
            publisher: Some("k".to_owned()),
        };
        let golden = r#"{"source":"s","time":"t","effective":"f","expires":"x","references":["A-V0"],"traceparent":"p","trace_id":"i","docket_id":"d","publisher":"k"}"#;
        assert_eq!(Rest::write(&content, &trace), golden);
    }
}
