//! The rows that the outcomes of one commit change at a server: the last word on each is kept, and all are written at the end by a
//! few statements, where one for each outcome is a way there and back. The embedded database writes each at once, which is as good.

use std::collections::{BTreeMap, HashSet};

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Health, OpenDelivery, Tried};
use ess_core::time::Time;

use super::apply::{
    INSERT_ATTEMPT, INSERT_ENDED, UPSERT_CURSOR, UPSERT_HEALTH, UPSERT_OPEN, UPSERT_REACHED, attempt_cells,
    cursor_cells, ended_cells, health_cells, key_cells, open_cells, reached_cells, scripts_of,
};
use super::db::Row;
use crate::error::StoreError;
use crate::postgres::Link;
use crate::types::Change;

type Result<T> = std::result::Result<T, StoreError>;

const TAKE_OPEN: &str = "delete from open_delivery o \
    using unnest(?1::bigint[], ?2::bigint[], ?3::bigint[]) gone (partner, seq, round) \
    where o.partner = gone.partner and o.seq = gone.seq and o.round = gone.round returning o.partner, o.seq, o.round";
const TAKE_ENDED: &str = "delete from ended_delivery o \
    using unnest(?1::bigint[], ?2::bigint[], ?3::bigint[]) gone (partner, seq, round) \
    where o.partner = gone.partner and o.seq = gone.seq and o.round = gone.round returning o.partner, o.seq, o.round";

/// How a delivery ended.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    pub(super) open: &'a OpenDelivery,
    pub(super) state: State,
    pub(super) at: Time,
    pub(super) reason: &'a str,
}

/// What is to be written of each row; nothing of a delivery is that its row goes.
pub(super) struct ChangedRows<'a> {
    link: Link<'a>,
    /// Deliveries with an ACK in this commit whose rows were there before it, and are gone already.
    taken: HashSet<DeliveryKey>,
    open: BTreeMap<DeliveryKey, Option<&'a OpenDelivery>>,
    ended: BTreeMap<DeliveryKey, Option<Ended<'a>>>,
    attempts: BTreeMap<(DeliveryKey, u32, Time), &'a Tried>,
    cursors: BTreeMap<PartnerNo, (Seq, u64)>,
    healths: BTreeMap<PartnerNo, Health>,
    reached: BTreeMap<PartnerNo, Seq>,
}

impl<'a> ChangedRows<'a> {
    /// Takes out the rows of what these changes acknowledge: whether there were any decides about a second ACK.
    pub(super) fn begin(link: Link<'a>, changes: &[Change]) -> Result<Self> {
        let acked = changes.iter().filter_map(|change| match change {
            Change::Acked(receipt) if receipt.has_rows => Some(receipt.key),
            _ => None,
        });
        let acked: Vec<DeliveryKey> = acked.collect();
        let mut taken = take(link, TAKE_OPEN, &acked)?;
        taken.extend(take(link, TAKE_ENDED, &acked)?);
        Ok(Self {
            link,
            taken,
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            attempts: BTreeMap::new(),
            cursors: BTreeMap::new(),
            healths: BTreeMap::new(),
            reached: BTreeMap::new(),
        })
    }

    /// Lets go of an acknowledged delivery's rows; whether it had one.
    pub(super) fn let_go(&mut self, key: DeliveryKey) -> bool {
        let was_open = self.open.remove(&key).is_some_and(|row| row.is_some());
        let was_ended = self.ended.remove(&key).is_some_and(|row| row.is_some());
        self.taken.remove(&key) | was_open | was_ended
    }

    pub(super) fn put_open(&mut self, open: &'a OpenDelivery) {
        self.open.insert(open.key, Some(open));
    }

    pub(super) fn delete_open(&mut self, key: DeliveryKey) {
        self.open.insert(key, None);
    }

    pub(super) fn put_ended(&mut self, ended: Ended<'a>) {
        self.ended.insert(ended.open.key, Some(ended));
    }

    pub(super) fn delete_ended(&mut self, key: DeliveryKey) {
        self.ended.insert(key, None);
    }

    pub(super) fn put_attempt(&mut self, key: DeliveryKey, tried: &'a Tried) {
        self.attempts.insert((key, tried.number, tried.at), tried);
    }

    pub(super) fn put_cursor(&mut self, partner: PartnerNo, cursor: Seq, counted: u64) {
        self.cursors.insert(partner, (cursor, counted));
    }

    pub(super) fn put_health(&mut self, partner: PartnerNo, health: Health) {
        self.healths.insert(partner, health);
    }

    pub(super) fn put_reached(&mut self, partner: PartnerNo, reached: Seq) {
        self.reached.insert(partner, reached);
    }

    /// Writes them all.
    pub(super) fn write(self) -> Result<()> {
        let link = self.link;
        let reached: Vec<_> = self.reached.iter().map(|(partner, reached)| reached_cells(*partner, *reached)).collect();
        link.insert_all(UPSERT_REACHED, &reached)?;
        let cursors = self.cursors.iter().map(|(partner, (cursor, counted))| cursor_cells(*partner, *cursor, *counted));
        link.insert_all(UPSERT_CURSOR, &cursors.collect::<Vec<_>>())?;
        let healths: Vec<_> = self.healths.iter().map(|(partner, health)| health_cells(*partner, *health)).collect();
        link.insert_all(UPSERT_HEALTH, &healths)?;

        let gone: Vec<_> = self.open.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| *key).collect();
        take(link, TAKE_OPEN, &gone)?;
        let gone: Vec<_> = self.ended.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| *key).collect();
        take(link, TAKE_ENDED, &gone)?;

        let open: Vec<_> = self.open.values().flatten().map(|open| (*open, scripts_of(open))).collect();
        let open: Vec<_> = open.iter().map(|(open, scripts)| open_cells(open, scripts.as_deref())).collect();
        link.insert_all(UPSERT_OPEN, &open)?;
        let ended: Vec<_> = self.ended.values().flatten().map(ended_cells).collect();
        link.insert_all(INSERT_ENDED, &ended)?;
        let attempts: Vec<_> = self.attempts.iter().map(|((key, ..), tried)| attempt_cells(*key, tried)).collect();
        link.insert_all(INSERT_ATTEMPT, &attempts)
    }
}

/// Deletes the rows of these deliveries; those that had one.
fn take(link: Link<'_>, sql: &'static str, keys: &[DeliveryKey]) -> Result<HashSet<DeliveryKey>> {
    let mut taken = HashSet::new();
    link.each_of(sql, &keys.iter().map(|key| key_cells(*key)).collect::<Vec<_>>(), |row: &Row<'_>| {
        taken.insert(DeliveryKey { partner: PartnerNo(row.get(0)?), seq: Seq(row.get(1)?), round: row.get(2)? });
        Ok(())
    })?;
    Ok(taken)
}
