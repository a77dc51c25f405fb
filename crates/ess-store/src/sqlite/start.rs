//! What the store holds when it is opened.

use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;
use rusqlite::{Connection, Row, Transaction, params};

use super::rows;
use crate::error::StoreError;
use crate::seal::Seal;
use crate::types::{Start, StoredPartner, StoredToken};

pub(super) fn read(db: &Connection, seal: &Seal) -> Result<Start, StoreError> {
    let head = db.query_row("select coalesce(max(seq), 0) from event", [], |row| Ok(Seq(row.get(0)?)))?;
    let bridges = db
        .prepare("select document from bridge order by id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Start { partners: partners(db, seal)?, bridges, tokens: tokens(db)?, head })
}

fn partners(db: &Connection, seal: &Seal) -> Result<Vec<StoredPartner>, StoreError> {
    type Sealed = (u32, String, Vec<u8>, Vec<u8>, Time, Option<Time>, Option<Time>);
    let read = |row: &Row<'_>| -> rusqlite::Result<Sealed> {
        let added_at = Time::from_micros(row.get(4)?);
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, added_at, rows::time(row, 5)?, rows::time(row, 6)?))
    };
    let mut statement =
        db.prepare("select no, id, document, secrets, added_at, paused_since, removed_at from partner order by no")?;
    let mut partners = Vec::new();
    for row in statement.query_map([], read)? {
        let (no, id, document, secrets, added_at, paused_since, removed_at) = row?;
        let place = format!("partner/{no}");
        let text =
            |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| StoreError::Damaged(format!("{place} is not text")));
        partners.push(StoredPartner {
            no: PartnerNo(no),
            id,
            document: text(seal.unseal(&place, &document)?)?,
            secrets: read_secrets(&text(seal.unseal(&place, &secrets)?)?),
            added_at,
            paused_since,
            removed_at,
        });
    }
    Ok(partners)
}

/// Secrets as lines of `secret end`, the end in µs or `-`.
pub(super) fn write_secrets(secrets: &[(String, Option<Time>)]) -> String {
    let line = |(secret, end): &(String, Option<Time>)| {
        format!("{secret} {}\n", end.map_or_else(|| "-".to_owned(), |end| end.as_micros().to_string()))
    };
    secrets.iter().map(line).collect()
}

fn read_secrets(text: &str) -> Vec<(String, Option<Time>)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(secret, end)| (secret.to_owned(), end.parse().ok().map(Time::from_micros)))
        .collect()
}

fn tokens(db: &Connection) -> Result<Vec<StoredToken>, StoreError> {
    let read = |row: &Row<'_>| {
        let subjects: String = row.get(3)?;
        Ok(StoredToken {
            id: row.get(0)?,
            hash: row.get(1)?,
            role: row.get(2)?,
            subjects: subjects.lines().map(str::to_owned).collect(),
            partner: row.get(4)?,
            note: row.get(5)?,
            created_at: Time::from_micros(row.get(6)?),
            expires_at: rows::time(row, 7)?,
            revoked_at: rows::time(row, 8)?,
        })
    };
    let sql = "select id, hash, role, subjects, partner, note, created_at, expires_at, revoked_at from token";
    Ok(db.prepare(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn write_token(tx: &Transaction<'_>, token: &StoredToken) -> rusqlite::Result<()> {
    tx.execute(
        "insert or replace into token (id, hash, role, subjects, partner, note, created_at, expires_at, revoked_at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            token.id,
            token.hash,
            token.role,
            token.subjects.join("\n"),
            token.partner,
            token.note,
            token.created_at.as_micros(),
            token.expires_at.map(Time::as_micros),
            token.revoked_at.map(Time::as_micros),
        ],
    )?;
    Ok(())
}
