//! Legal holds: what they cover, placing and lifting them.

use ess_core::limits::HOLDS_MAX;
use ess_core::partner::Glob;
use ess_core::time::Time;

use super::db::{Db, Row, given};
use super::events::Reader;
use super::rows;
use crate::error::StoreError;
use crate::retention::{Hold, HoldOn, Lifted, NewHold};

type Result<T> = std::result::Result<T, StoreError>;

const PUT: &str = "insert into legal_hold (event, subject, at, actor, reason) values (?1, ?2, ?3, ?4, ?5) \
    returning number";
const LIFT: &str = "update legal_hold set lifted_at = ?2, lifted_by = ?3, lifted_why = ?4 \
    where number = ?1 and lifted_at is null";
const ALL: &str = "select number, event, subject, at, actor, reason, lifted_at, lifted_by, lifted_why from legal_hold \
    order by number";
const IN_FORCE: &str = "select event, subject from legal_hold where lifted_at is null";
const COUNT: &str = "select count(*) from legal_hold where lifted_at is null";

/// Everything that is under legal hold.
pub(super) struct Cover {
    events: Vec<String>,
    subjects: Vec<Glob>,
}

impl Cover {
    pub(super) fn read(db: Db<'_>) -> Result<Self> {
        let mut cover = Self { events: Vec::new(), subjects: Vec::new() };
        db.walk(IN_FORCE, given![], |row| {
            cover.events.extend(row.get::<Option<String>>(0)?);
            cover.subjects.extend(row.get::<Option<&str>>(1)?.map(Glob::trusted));
            Ok(true)
        })?;
        Ok(cover)
    }

    pub(super) fn covers(&self, id: &str, subject: &str) -> bool {
        self.events.iter().any(|event| event == id) || self.subjects.iter().any(|glob| glob.matches(subject))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.subjects.is_empty()
    }
}

/// Answers the hold's number.
pub(super) fn put(db: Db<'_>, hold: &NewHold) -> Result<u32> {
    let count: usize = db.query_row(COUNT, given![], |row| row.get(0))?;
    if count >= HOLDS_MAX {
        return Err(StoreError::Refused(format!("there are {count} legal holds, as many as there may be")));
    }
    let (event, subject) = match &hold.on {
        HoldOn::Event(id) => (Some(id), None),
        HoldOn::Subject(glob) => (None, Some(glob)),
    };
    db.query_row(PUT, given![event, subject, hold.at.as_micros(), hold.by, hold.reason], |row| row.get(0))
}

pub(super) fn lift(db: Db<'_>, number: u64, lifted: &Lifted) -> Result<()> {
    match db.execute(LIFT, given![number, lifted.at.as_micros(), lifted.by, lifted.reason])? {
        0 => Err(StoreError::Refused(format!("there is no legal hold number {number}"))),
        _ => Ok(()),
    }
}

/// All of them, lifted ones too, in the order in which they were placed.
pub(crate) fn holds(reader: &Reader<'_>) -> Result<Vec<Hold>> {
    reader.db.query(ALL, given![], read)
}

fn read(row: &Row<'_>) -> Result<Hold> {
    let on = match (row.get(1)?, row.get(2)?) {
        (Some(id), _) => HoldOn::Event(id),
        (None, Some(glob)) => HoldOn::Subject(glob),
        (None, None) => return Err(rows::damaged(1)),
    };
    let lifted = match rows::time(row, 6)? {
        Some(at) => Some(Lifted { at, by: row.get(7)?, reason: row.get(8)? }),
        None => None,
    };
    let at = Time::from_micros(row.get(3)?);
    Ok(Hold { number: row.get(0)?, on, at, by: row.get(4)?, reason: row.get(5)?, lifted })
}
