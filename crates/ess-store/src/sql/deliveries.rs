//! Questions about deliveries: of an event, given up, open.
//!
//! A delivery of the event's audience that has no row and no receipt is pending; nothing else says so.

use std::collections::HashMap;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{PartnerNo, Seq, Version};
use ess_core::lane::{OpenDelivery, OpenState};
use ess_core::time::Time;

use super::db::{Cell, Db, Row, given};
use super::events::{Reader, event};
use super::given_up::GivenUp;
use super::ledger::entries_of_event;
use super::rows;
use crate::error::StoreError;
use crate::ledger::{Entry, Word};
use crate::types::{StoredAttempt, StoredDelivery};

type Result<T> = std::result::Result<T, StoreError>;
type Found = HashMap<(PartnerNo, u32), StoredDelivery>;

pub(super) const OPEN_OF_EVENT: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where seq = ?1";
pub(super) const OPEN_TO: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where seq = ?1 and partner = ?2";
pub(super) const ENDED_TO: &str = "select partner, seq, round, state, at, reason, attempts, partner_seq, \
    message, sent_version, sent_digest from ended_delivery where seq = ?1 and partner = ?2";
pub(super) const OPEN_EVERYWHERE: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where (seq, partner, round) > (?1, ?2, ?3) and test = 0 \
    and partner in (select no from partner where removed_at is null) order by seq, partner, round limit ?4";
pub(super) const ENDED_OF_EVENT: &str = "select partner, seq, round, state, at, reason, attempts, partner_seq, \
    message, sent_version, sent_digest from ended_delivery where seq = ?1";
pub(super) const DEAD: &str = "select partner, seq, round, state, at, reason, attempts, partner_seq, \
    message, sent_version, sent_digest from ended_delivery where state in ('dead', 'nack') and test = 0 \
    and (seq, partner, round) > (?1, ?2, ?3) order by seq, partner, round limit ?4";
pub(super) const DEAD_OF_PARTNER: &str = "select partner, seq, round, state, at, reason, attempts, partner_seq, \
    message, sent_version, sent_digest from ended_delivery where state in ('dead', 'nack') and test = 0 \
    and partner = ?5 and (seq, partner, round) > (?1, ?2, ?3) and seq >= ?1 order by seq, round limit ?4";
pub(super) const ATTEMPTS_OF_EVENT: &str = "select partner, round, number, at, took, status, outcome, reason \
    from attempt where seq = ?1 order by partner, round, number, at";

/// Every delivery of an event: for its audience, and every replay.
pub(crate) fn deliveries_of_event(reader: &Reader<'_>, seq: Seq) -> Result<Vec<StoredDelivery>> {
    let Some(recorded) = event(reader, seq)? else { return Ok(Vec::new()) };
    let mut found = Found::new();
    for partner in recorded.audience.partners() {
        found.insert((*partner, 0), pending(DeliveryKey { seq, partner: *partner, round: 0 }));
    }
    let db = reader.db;
    for delivery in ended_where(db, ENDED_OF_EVENT, given![seq.0])? {
        found.insert((delivery.key.partner, delivery.key.round), delivery);
    }
    for open in db.query(OPEN_OF_EVENT, given![seq.0], rows::open_delivery)? {
        let delivery = from_open(open);
        found.insert((delivery.key.partner, delivery.key.round), delivery);
    }
    for entry in entries_of_event(db, seq)? {
        let key = (entry.partner, entry.round);
        match (&entry.word, found.get_mut(&key)) {
            // The partner's word stands, whatever else is on record.
            (Word::Ack, _) => {
                found.insert(key, from_entry(seq, &entry));
            }
            (Word::Nack(_), Some(ended)) => ended.evidence = Some(entry.evidence),
            (Word::Nack(_), None) => {}
        }
    }
    if let Some(gone) = &recorded.event.gone {
        // Lanes end them when they come to them; nothing of it is sent any more.
        for delivery in found.values_mut().filter(|delivery| !delivery.state.is_end()) {
            delivery.state = State::Cancelled;
            delivery.reason = Some(gone.told());
            (delivery.mend, delivery.due_at, delivery.ended_at) = (None, None, Some(gone.at));
        }
    }
    add_attempts(db, seq, &mut found)?;
    let given_up = GivenUp::read(db)?;
    let mut deliveries: Vec<StoredDelivery> = found.into_values().collect();
    for delivery in &mut deliveries {
        given_up.mark(delivery);
    }
    deliveries.sort_by_key(|delivery| (delivery.key.partner, delivery.key.round));
    Ok(deliveries)
}

/// The deliveries of one partner for one event, however many others it is for.
pub(crate) fn deliveries_to(reader: &Reader<'_>, seq: Seq, partner: PartnerNo) -> Result<Vec<StoredDelivery>> {
    let db = reader.db;
    let mut found = Found::new();
    found.insert((partner, 0), pending(DeliveryKey { seq, partner, round: 0 }));
    for delivery in ended_where(db, ENDED_TO, given![seq.0, partner.0])? {
        found.insert((partner, delivery.key.round), delivery);
    }
    for open in db.query(OPEN_TO, given![seq.0, partner.0], rows::open_delivery)? {
        let delivery = from_open(open);
        found.insert((partner, delivery.key.round), delivery);
    }
    for entry in entries_of_event(db, seq)?.into_iter().filter(|entry| entry.partner == partner) {
        match (&entry.word, found.get_mut(&(partner, entry.round))) {
            (Word::Ack, _) => {
                found.insert((partner, entry.round), from_entry(seq, &entry));
            }
            (Word::Nack(_), Some(ended)) => ended.evidence = Some(entry.evidence),
            (Word::Nack(_), None) => {}
        }
    }
    add_attempts(db, seq, &mut found)?;
    let given_up = GivenUp::read(db)?;
    let mut deliveries: Vec<StoredDelivery> = found.into_values().collect();
    for delivery in &mut deliveries {
        given_up.mark(delivery);
    }
    deliveries.sort_by_key(|delivery| delivery.key.round);
    Ok(deliveries)
}

fn add_attempts(db: Db<'_>, seq: Seq, found: &mut Found) -> Result<()> {
    db.walk(ATTEMPTS_OF_EVENT, given![seq.0], |row| {
        let Some(delivery) = found.get_mut(&(PartnerNo(row.get(0)?), row.get(1)?)) else { return Ok(true) };
        delivery.attempts.push(StoredAttempt {
            number: row.get(2)?,
            at: Time::from_micros(row.get(3)?),
            took: std::time::Duration::from_micros(row.get(4)?),
            status: row.get(5)?,
            outcome: row.get(6)?,
            reason: row.get(7)?,
        });
        Ok(true)
    })
}

pub(crate) fn dead_letters(
    reader: &Reader<'_>,
    (partner, event): (Option<PartnerNo>, Option<Seq>),
    after: DeliveryKey,
    limit: usize,
) -> Result<Vec<StoredDelivery>> {
    if let Some(event) = event {
        return dead_letters_of_event(reader, (partner, event), after, limit);
    }
    let (seq, no, round) = (rows::place(after.seq), after.partner.0, after.round);
    let mut given_up = GivenUp::read(reader.db)?;
    let mut found = match partner {
        None => ended_where(reader.db, DEAD, given![seq, no, round, limit])?,
        Some(of) => {
            given_up.keep_only(of);
            ended_where(reader.db, DEAD_OF_PARTNER, given![seq, no, round, limit, of.0])?
        }
    };
    found.extend(given_up.dead_letters(reader, after, limit)?);
    found.sort_by_key(|delivery| (delivery.key.seq, delivery.key.partner, delivery.key.round));
    found.truncate(limit);
    Ok(found)
}

/// Of one event there is one for each partner and round: few enough to pick from.
fn dead_letters_of_event(
    reader: &Reader<'_>,
    (partner, event): (Option<PartnerNo>, Seq),
    after: DeliveryKey,
    limit: usize,
) -> Result<Vec<StoredDelivery>> {
    if reader.is_dry_run(event)? {
        return Ok(Vec::new());
    }
    let mut found = deliveries_of_event(reader, event)?;
    found.retain(|delivery| {
        matches!(delivery.state, State::Dead | State::Nack)
            && partner.is_none_or(|of| of == delivery.key.partner)
            && (delivery.key.seq, delivery.key.partner, delivery.key.round) > (after.seq, after.partner, after.round)
    });
    found.truncate(limit);
    Ok(found)
}

/// Open deliveries with records of their own, oldest first, dry runs left out.
pub(crate) fn open_everywhere(reader: &Reader<'_>, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>> {
    let place = rows::place(after.seq);
    let given = given![place, after.partner.0, after.round, limit];
    let mut found = reader.db.query(OPEN_EVERYWHERE, given, |row| rows::open_delivery(row).map(from_open))?;
    let given_up = GivenUp::read(reader.db)?;
    for delivery in &mut found {
        given_up.mark(delivery);
    }
    Ok(found)
}

fn ended_where(db: Db<'_>, sql: &'static str, given: &[Cell<'_>]) -> Result<Vec<StoredDelivery>> {
    let read = |row: &Row<'_>| {
        let mut delivery = pending(rows::key(row)?);
        delivery.state = rows::ended_state(row.get(3)?).ok_or_else(|| rows::damaged(3))?;
        delivery.ended_at = rows::time(row, 4)?;
        delivery.reason = row.get(5)?;
        delivery.attempts_made = row.get(6)?;
        delivery.partner_seq = row.get(7)?;
        delivery.message_uuid = row.get(8)?;
        delivery.version = row.get::<Option<u32>>(9)?.map(Version);
        delivery.body_digest = row.get(10)?;
        Ok(delivery)
    };
    db.query(sql, given, read)
}

pub(super) fn pending(key: DeliveryKey) -> StoredDelivery {
    StoredDelivery {
        key,
        state: State::Pending,
        attempts_made: 0,
        due_at: None,
        reason: None,
        mend: None,
        ended_at: None,
        evidence: None,
        body_digest: None,
        version: None,
        scripts: [].into(),
        partner_seq: None,
        message_uuid: None,
        waits: false,
        attempts: Vec::new(),
    }
}

pub(super) fn from_open(open: OpenDelivery) -> StoredDelivery {
    let mut delivery = pending(open.key);
    delivery.state = match open.state {
        OpenState::Pending => State::Pending,
        OpenState::Retrying => State::Retrying,
        OpenState::AwaitingAck => State::AwaitingAck,
        OpenState::Blocked => State::Blocked,
    };
    delivery.attempts_made = open.attempts;
    delivery.due_at = open.due_at;
    delivery.reason = open.reason;
    delivery.mend = open.mend;
    delivery.partner_seq = open.partner_seq;
    delivery.message_uuid = open.message_uuid;
    if let Some(sent) = open.sent {
        delivery.version = Some(sent.version);
        delivery.body_digest = Some(sent.body_digest);
        delivery.scripts = sent.scripts;
    }
    delivery
}

fn from_entry(seq: Seq, entry: &Entry) -> StoredDelivery {
    let mut delivery = pending(DeliveryKey { seq, partner: entry.partner, round: entry.round });
    delivery.state = State::Acked;
    delivery.attempts_made = entry.attempt;
    delivery.ended_at = Some(entry.at);
    delivery.evidence = Some(entry.evidence);
    delivery.body_digest = Some(entry.body_digest);
    delivery.version = Some(entry.version);
    delivery.scripts = entry.scripts.clone();
    delivery.partner_seq = entry.partner_seq;
    delivery
}
