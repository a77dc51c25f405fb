//! One commit, row by row: changes of the registry, then events, then outcomes.

use std::collections::HashMap;
use std::time::Duration;

use ess_core::id::{Digest, PartnerNo, Seq};

use super::apply::Outcomes;
use super::db::{Db, given};
use super::events::{self, Audiences, Reader};
use super::ledger;
use super::registry::{self, Act};
use crate::error::StoreError;
use crate::seal::Seal;
use crate::types::{Change, NewEvent, Recorded};

type Result<T> = std::result::Result<T, StoreError>;

/// What the next commit goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) seq: Seq,
    pub(crate) ledger: u64,
    pub(crate) chain: Digest,
}

impl Heads {
    /// From the tables themselves.
    pub(crate) fn read(db: Db<'_>) -> Result<Self> {
        let (ledger, chain) = ledger::head(db)?;
        Ok(Self { seq: events::head(db)?, ledger, chain })
    }
}

/// What is known from earlier commits and need not be asked for again.
#[derive(Default)]
pub(crate) struct Known {
    /// Audiences by their digest.
    pub(crate) audiences: HashMap<Digest, i64>,
    /// `lane.reached`.
    pub(crate) reached: HashMap<PartnerNo, Seq>,
}

/// What is to be written together.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) seal: &'a Seal,
    pub(crate) acts: &'a [Act],
    pub(crate) news: &'a [NewEvent],
    pub(crate) changes: &'a [Change],
    pub(crate) known: &'a Known,
}

/// Whether items of a commit share its fate, or each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Together,
    OneByOne,
}

/// What a commit wrote.
pub(crate) struct Written {
    pub(crate) heads: Heads,
    pub(crate) audiences: HashMap<Digest, i64>,
    pub(crate) reached: HashMap<PartnerNo, Seq>,
    pub(crate) places: Vec<Result<Place>>,
    pub(crate) answers: Vec<Result<u32>>,
    /// Why the last refused outcome was refused.
    pub(crate) refused: Option<StoreError>,
    /// The outcomes were left out: the node was given up.
    pub(crate) is_out: bool,
    /// How long the commit itself took.
    pub(crate) took: Duration,
}

/// Where a publish stands after its commit.
pub(crate) enum Place {
    New(Seq),
    Duplicate(Recorded),
    Conflict(Recorded),
}

impl Written {
    pub(crate) fn from(heads: Heads) -> Self {
        Self {
            heads,
            audiences: HashMap::new(),
            reached: HashMap::new(),
            places: Vec::new(),
            answers: Vec::new(),
            refused: None,
            is_out: false,
            took: Duration::ZERO,
        }
    }
}

/// Writes it all in the transaction that this is.
pub(crate) fn write<'a>(db: Db<'a>, mode: Mode, work: &'a Work<'a>, heads: Heads) -> Result<Written> {
    let mut written = Written::from(heads);
    for act in work.acts {
        let answer = alone(mode, db, || registry::apply(db, work.seal, act))?;
        written.answers.push(answer);
    }
    let is_appended = mode == Mode::Together && append(db, work, &mut written)?;
    for new in work.news.iter().filter(|_| !is_appended) {
        let place = alone(mode, db, || publish(db, new, &work.known.audiences, &mut written))?;
        written.places.push(place);
    }
    let mut outcomes = Outcomes::begin(db, mode, work)?;
    for change in work.changes {
        if let Err(error) = alone(mode, db, || outcomes.apply(change))? {
            // Trying it again gives the same answer for ever.
            tracing::error!(%error, ?change, "an outcome breaks a rule of the schema and is left out");
            written.refused = Some(error);
        }
    }
    written.reached = outcomes.finish(&mut written.heads)?;
    Ok(written)
}

/// One item: under `OneByOne` a refusal is the item's own answer, and what it wrote is taken back.
fn alone<T>(mode: Mode, db: Db<'_>, write: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    if mode == Mode::Together {
        return write().map(Ok);
    }
    db.execute("savepoint item", given![])?;
    let written = write();
    match &written {
        Ok(_) => {}
        Err(StoreError::Refused(_) | StoreError::Damaged(_)) => {
            db.execute("rollback to item", given![])?;
        }
        Err(error) => return Err(error.clone()),
    }
    db.execute("release item", given![])?;
    Ok(written)
}

/// Appends all of it at once, where each statement is a way to a server and back; false when one of them is not new.
fn append(db: Db<'_>, work: &Work<'_>, written: &mut Written) -> Result<bool> {
    let Db::Postgres(link) = db else { return Ok(false) };
    if work.news.len() < 2 || !events::are_all_new(link, work.news)? {
        return Ok(false);
    }
    let mut all = Vec::with_capacity(work.news.len());
    for new in work.news {
        let digest = new.audience.digest();
        let audience = match work.known.audiences.get(&digest).or_else(|| written.audiences.get(&digest)) {
            Some(id) => *id,
            None => *written.audiences.entry(digest).or_insert(events::intern(db, &new.audience)?),
        };
        written.heads.seq = Seq(written.heads.seq.0 + 1);
        all.push((written.heads.seq, new, audience));
        written.places.push(Ok(Place::New(written.heads.seq)));
    }
    events::insert_all(db, &all)?;
    Ok(true)
}

fn publish(db: Db<'_>, new: &NewEvent, known: &HashMap<Digest, i64>, written: &mut Written) -> Result<Place> {
    if let Some((seq, digest)) = events::identity(db, new)? {
        // What this transaction sees may be rolled back: it is not remembered.
        let reader = Reader { db, audiences: &Audiences::default() };
        let first = events::event(&reader, seq)?;
        let first = first.ok_or_else(|| StoreError::Damaged(format!("event {seq} is in an index only")))?;
        return Ok(if digest == new.content_digest { Place::Duplicate(first) } else { Place::Conflict(first) });
    }
    let digest = new.audience.digest();
    let audience = match known.get(&digest).or_else(|| written.audiences.get(&digest)) {
        Some(id) => *id,
        None => events::intern(db, &new.audience)?,
    };
    let seq = Seq(written.heads.seq.0 + 1);
    events::insert(db, seq, new, audience)?;
    if !known.contains_key(&digest) {
        written.audiences.insert(digest, audience);
    }
    written.heads.seq = seq;
    Ok(Place::New(seq))
}
