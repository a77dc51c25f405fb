//! Partners that are given up: what waits for them counts as dead letters, by derivation. Nothing is written for each delivery.

use std::collections::{BTreeMap, HashMap, HashSet};

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;

use super::db::{Db, given};
use super::deliveries::{from_open, pending};
use super::events::Reader;
use super::lane::place;
use super::rows;
use crate::error::StoreError;
use crate::types::StoredDelivery;

type Result<T> = std::result::Result<T, StoreError>;

/// Events that are looked at for dead letters, in one question.
const SCAN_MAX: usize = 1_000_000;

pub(super) const GIVEN_UP: &str = "select partner, gave_up_at, first_failed_at from lane \
    where gave_up_at is not null and partner in (select no from partner where removed_at is null)";
pub(super) const OPEN_GIVEN_UP: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where partner = ?1 and (seq, round) > (?2, ?3) and test = 0 \
    and state in ('pending', 'retrying') order by seq, round limit ?4";
const CURSOR: &str = "select cursor from lane where partner = ?1";
pub(super) const AUDIENCES_FROM: &str = "select seq, audience, case when test = 1 or gone_at is not null then 1 else 0 end \
    from event where seq >= ?1 order by seq limit ?2";

/// Partners that are given up, with the words for it.
pub(super) struct GivenUp(BTreeMap<PartnerNo, String>);

impl GivenUp {
    pub(super) fn read(db: Db<'_>) -> Result<Self> {
        let mut known = BTreeMap::new();
        db.walk(GIVEN_UP, given![], |row| {
            let since = rows::time(row, 2)?.or(rows::time(row, 1)?).unwrap_or_default();
            known.insert(PartnerNo(row.get(0)?), words(since));
            Ok(true)
        })?;
        Ok(Self(known))
    }

    /// What waits for a partner that is given up is a dead letter.
    pub(super) fn mark(&self, delivery: &mut StoredDelivery) {
        let waits = matches!(delivery.state, State::Pending | State::Retrying);
        if waits && let Some(reason) = self.0.get(&delivery.key.partner) {
            delivery.state = State::Dead;
            delivery.waits = true;
            delivery.reason = Some(match &delivery.reason {
                Some(last) => format!("{reason}; last: {last}"),
                None => reason.clone(),
            });
        }
    }

    pub(super) fn keep_only(&mut self, partner: PartnerNo) {
        self.0.retain(|known, _| *known == partner);
    }

    /// Dead letters that wait for these partners, in the order of the log, after a place.
    pub(super) fn dead_letters(
        &self,
        reader: &Reader<'_>,
        after: DeliveryKey,
        limit: usize,
    ) -> Result<Vec<StoredDelivery>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.open(reader.db, after, limit)?;
        found.extend(self.pending(reader, after, limit)?);
        found.sort_by_key(|delivery| delivery.key);
        found.truncate(limit);
        for delivery in &mut found {
            self.mark(delivery);
        }
        Ok(found)
    }

    /// Those with records of their own.
    fn open(&self, db: Db<'_>, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>> {
        let (place, mut found) = (rows::place(after.seq), Vec::new());
        for partner in self.0.keys() {
            // A place between two partners of one event: what the greater ones have at it comes after it.
            let round = if *partner > after.partner { -1 } else { i64::from(after.round) };
            let round = if *partner < after.partner { i64::MAX } else { round };
            let given = given![partner.0, place, round, limit];
            found.extend(db.query(OPEN_GIVEN_UP, given, |row| rows::open_delivery(row).map(from_open))?);
        }
        Ok(found)
    }

    /// Those that the log alone knows of.
    fn pending(&self, reader: &Reader<'_>, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>> {
        let mut found = Vec::new();
        let mut begun: HashMap<PartnerNo, (Seq, HashSet<Seq>)> = HashMap::new();
        let from = rows::place(after.seq.max(self.first_cursor(reader.db)?));
        reader.db.walk(AUDIENCES_FROM, given![from, SCAN_MAX], |row| {
            if row.get(2)? {
                return Ok(true);
            }
            let seq = Seq(row.get(0)?);
            let audience = reader.audience(row.get(1)?)?;
            for partner in self.0.keys().filter(|partner| audience.contains(**partner)) {
                let key = DeliveryKey { seq, partner: *partner, round: 0 };
                if (key.seq, key.partner, key.round) <= (after.seq, after.partner, after.round) {
                    continue;
                }
                if !begun.contains_key(partner) {
                    let place = place(reader.db, *partner)?;
                    begun.insert(*partner, (place.cursor, place.done.into_iter().collect()));
                }
                let (cursor, done) = &begun[partner];
                if seq > *cursor && !done.contains(&seq) {
                    found.push(pending(key));
                }
            }
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    fn first_cursor(&self, db: Db<'_>) -> Result<Seq> {
        let mut first = Seq(u64::MAX);
        for partner in self.0.keys() {
            first = first.min(Seq(db.query_row(CURSOR, given![partner.0], |row| row.get(0))?));
        }
        Ok(first)
    }
}

fn words(since: Time) -> String {
    format!("given up: the partner has been offline since {since}; it goes out when the partner answers")
}
