//! Partners, rules, tokens, settings and the audit trail. Each change goes in with its audit line or not at all.

use ess_core::id::{Digest, PartnerNo};
use ess_core::time::Time;

use super::db::{Db, Row, given};
use super::events::{self, Reader};
use super::{holds, retention, rows, tree, trouble};
use crate::error::StoreError;
use crate::retention::{Lifted, NewHold, Redaction};
use crate::seal::Seal;
use crate::types::{
    Audit, AuditLine, NewPartner, RuleKind, Start, StoredCheckpoint, StoredEscalation, StoredPartner, StoredRules,
    StoredToken,
};

type Result<T> = std::result::Result<T, StoreError>;

/// A signing secret and its end.
type Secret = (String, Option<Time>);

/// A change of the registry.
pub(crate) enum Deed {
    PutPartner(NewPartner),
    Pause(PartnerNo, Option<Time>),
    RemovePartner(PartnerNo, Time),
    PutSecrets(PartnerNo, Vec<Secret>),
    PutRule {
        kind: RuleKind,
        id: String,
        document: String,
    },
    RemoveRule {
        kind: RuleKind,
        id: String,
    },
    PutToken(StoredToken),
    RevokeToken {
        id: String,
        at: Time,
    },
    PutSetting {
        key: &'static str,
        value: Vec<u8>,
    },
    /// The next leaves of the ledger's tree.
    GrowTree {
        first: u64,
        leaves: Vec<Digest>,
    },
    PutCheckpoint(StoredCheckpoint),
    PutHold(NewHold),
    LiftHold(u64, Lifted),
    Redact(Redaction),
    PutEscalation(StoredEscalation),
    RemoveEscalation(StoredEscalation),
    /// The audit line alone.
    Note,
}

/// A change of the registry and who made it.
pub(crate) struct Act {
    pub(crate) deed: Deed,
    pub(crate) audit: Option<Audit>,
}

const INSERT_PARTNER: &str = "insert into partner (no, id, document, secrets, added_at) values (?1, ?2, ?3, ?4, ?5)";
const REPLACE_PARTNER: &str = "update partner set document = ?2, secrets = ?3 where no = ?1 and removed_at is null";
// Events recorded before it came are not sent to it.
const INSERT_LANE: &str = "insert into lane (partner, cursor, counted, failures) \
    values (?1, (select coalesce(max(seq), 0) from event), 0, 0)";
// Numbers are never given again: rows of removed partners stay.
const NEXT_PARTNER: &str = "select coalesce(max(no), 0) + 1 from partner";
const PAUSE: &str = "update partner set paused_since = ?2 where no = ?1";
const REMOVE_PARTNER: &str = "update partner set removed_at = ?2 where no = ?1 and removed_at is null";
const PUT_SECRETS: &str = "update partner set secrets = ?2 where no = ?1";
const PUT_TOKEN: &str = "insert into token \
    (id, hash, role, subjects, partner, note, created_at, expires_at, revoked_at) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) on conflict (id) do update set hash = excluded.hash, \
    role = excluded.role, subjects = excluded.subjects, partner = excluded.partner, note = excluded.note, \
    created_at = excluded.created_at, expires_at = excluded.expires_at, revoked_at = excluded.revoked_at";
const REVOKE_TOKEN: &str = "update token set revoked_at = coalesce(revoked_at, ?2) where id = ?1";
// What the hub chose first stays: two nodes may choose at once.
const PUT_SETTING: &str = "insert into setting (key, value) values (?1, ?2) on conflict (key) do nothing";
const SETTING: &str = "select value from setting where key = ?1";
const PUT_AUDIT: &str = "insert into audit (at, actor, act, object, reason) values (?1, ?2, ?3, ?4, ?5)";
const PARTNERS: &str = "select no, id, document, secrets, added_at, paused_since, removed_at from partner order by no";
const TOKENS: &str = "select id, hash, role, subjects, partner, note, created_at, expires_at, revoked_at \
    from token order by created_at, id";
pub(super) const AUDIT_AFTER: &str =
    "select number, at, actor, act, object, reason from audit where number > ?1 order by number limit ?2";

/// What is said to the table of one kind of rule.
struct RuleSql {
    put: &'static str,
    remove: &'static str,
    all: &'static str,
}

fn rule_sql(kind: RuleKind) -> RuleSql {
    match kind {
        RuleKind::Bridge => RuleSql {
            put: "insert into bridge (id, document) values (?1, ?2) \
                on conflict (id) do update set document = excluded.document",
            remove: "delete from bridge where id = ?1",
            all: "select document from bridge order by id",
        },
        RuleKind::Schema => RuleSql {
            put: "insert into json_schema (id, document) values (?1, ?2) \
                on conflict (id) do update set document = excluded.document",
            remove: "delete from json_schema where id = ?1",
            all: "select document from json_schema order by id",
        },
        RuleKind::Table => RuleSql {
            put: "insert into lookup_table (id, document) values (?1, ?2) \
                on conflict (id) do update set document = excluded.document",
            remove: "delete from lookup_table where id = ?1",
            all: "select document from lookup_table order by id",
        },
    }
}

/// Makes the change with its audit line; answers the partner's number where there is one.
pub(super) fn apply(db: Db<'_>, seal: &Seal, act: &Act) -> Result<u32> {
    let mut answer = 0;
    match &act.deed {
        Deed::PutPartner(partner) => answer = put_partner(db, seal, partner)?.0,
        Deed::Pause(no, since) => {
            db.execute(PAUSE, given![no.0, since.map(Time::as_micros)])?;
        }
        Deed::RemovePartner(no, at) => {
            db.execute(REMOVE_PARTNER, given![no.0, at.as_micros()])?;
        }
        Deed::PutSecrets(no, secrets) => {
            let sealed = seal.seal(&secrets_place(no.0), write_secrets(secrets).as_bytes())?;
            db.execute(PUT_SECRETS, given![no.0, sealed])?;
        }
        Deed::PutRule { kind, id, document } => {
            db.execute(rule_sql(*kind).put, given![id, document])?;
        }
        Deed::RemoveRule { kind, id } => {
            db.execute(rule_sql(*kind).remove, given![id])?;
        }
        Deed::PutToken(token) => put_token(db, token)?,
        Deed::RevokeToken { id, at } => {
            db.execute(REVOKE_TOKEN, given![id, at.as_micros()])?;
        }
        Deed::PutSetting { key, value } => {
            put_setting(db, seal, key, value)?;
        }
        Deed::GrowTree { first, leaves } => tree::grow(db, *first, leaves)?,
        Deed::PutCheckpoint(checkpoint) => tree::put_checkpoint(db, checkpoint)?,
        Deed::PutHold(hold) => answer = holds::put(db, hold)?,
        Deed::LiftHold(number, lifted) => holds::lift(db, *number, lifted)?,
        Deed::Redact(redaction) => retention::redact(db, redaction)?,
        Deed::PutEscalation(told) => trouble::put(db, told)?,
        Deed::RemoveEscalation(told) => trouble::remove(db, told)?,
        Deed::Note => {}
    }
    if let Some(audit) = &act.audit {
        let at = audit.at.as_micros();
        db.execute(PUT_AUDIT, given![at, audit.actor, audit.act, audit.object, audit.reason])?;
    }
    Ok(answer)
}

fn put_partner(db: Db<'_>, seal: &Seal, partner: &NewPartner) -> Result<PartnerNo> {
    let no: u32 = match partner.no {
        Some(no) => no.0,
        None => db.query_row(NEXT_PARTNER, given![], |row| row.get(0))?,
    };
    let document = seal.seal(&document_place(no), partner.document.as_bytes())?;
    let secrets = seal.seal(&secrets_place(no), write_secrets(&partner.secrets).as_bytes())?;
    if partner.no.is_none() {
        db.execute(INSERT_PARTNER, given![no, partner.id, document, secrets, partner.added_at.as_micros()])?;
        db.execute(INSERT_LANE, given![no])?;
    } else if db.execute(REPLACE_PARTNER, given![no, document, secrets])? == 0 {
        return Err(StoreError::Refused(format!("there is no partner number {no} to replace")));
    }
    Ok(PartnerNo(no))
}

fn put_token(db: Db<'_>, token: &StoredToken) -> Result<()> {
    db.execute(
        PUT_TOKEN,
        given![
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

/// What the store holds when it is opened.
pub(crate) fn start(db: Db<'_>, seal: &Seal) -> Result<Start> {
    let head = events::head(db)?;
    Ok(Start {
        partners: partners(db, seal)?,
        rules: rules(db)?,
        tokens: tokens(db)?,
        head,
        escalations: trouble::all(db)?,
        registry: 0,
    })
}

/// All rules.
pub(crate) fn rules(db: Db<'_>) -> Result<StoredRules> {
    let all = |kind| -> Result<Vec<String>> { db.query(rule_sql(kind).all, given![], |row| row.get(0)) };
    Ok(StoredRules { bridges: all(RuleKind::Bridge)?, schemas: all(RuleKind::Schema)?, tables: all(RuleKind::Table)? })
}

fn partners(db: Db<'_>, seal: &Seal) -> Result<Vec<StoredPartner>> {
    db.query(PARTNERS, given![], |row| partner(row, seal))
}

/// A partner, of the columns that `PARTNERS` names.
pub(crate) fn partner(row: &Row<'_>, seal: &Seal) -> Result<StoredPartner> {
    let no: u32 = row.get(0)?;
    let text = |place: String, sealed: &[u8]| {
        String::from_utf8(seal.unseal(&place, sealed)?).map_err(|_| StoreError::Damaged(format!("{place} is not text")))
    };
    Ok(StoredPartner {
        no: PartnerNo(no),
        id: row.get(1)?,
        document: text(document_place(no), row.get(2)?)?,
        secrets: read_secrets(&text(secrets_place(no), row.get(3)?)?),
        added_at: Time::from_micros(row.get(4)?),
        paused_since: rows::time(row, 5)?,
        removed_at: rows::time(row, 6)?,
    })
}

/// All tokens.
pub(crate) fn tokens(db: Db<'_>) -> Result<Vec<StoredToken>> {
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
    db.query(TOKENS, given![], read)
}

/// Writes a setting, sealed.
pub(crate) fn put_setting(db: Db<'_>, seal: &Seal, key: &str, value: &[u8]) -> Result<()> {
    db.execute(PUT_SETTING, given![key, seal.seal(&setting_place(key), value)?])?;
    Ok(())
}

pub(crate) fn setting(reader: &Reader<'_>, seal: &Seal, key: &str) -> Result<Option<Vec<u8>>> {
    setting_of(reader.db, seal, key)
}

/// A sealed setting.
pub(crate) fn setting_of(db: Db<'_>, seal: &Seal, key: &str) -> Result<Option<Vec<u8>>> {
    let sealed: Option<Vec<u8>> = db.query_one(SETTING, given![key], |row| row.get(0))?;
    sealed.map(|sealed| seal.unseal(&setting_place(key), &sealed)).transpose()
}

pub(crate) fn audit(reader: &Reader<'_>, after: u64, limit: usize) -> Result<Vec<AuditLine>> {
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    reader.db.query(AUDIT_AFTER, given![after, limit], audit_line)
}

pub(super) fn audit_line(row: &Row<'_>) -> Result<AuditLine> {
    Ok(AuditLine {
        number: row.get(0)?,
        at: Time::from_micros(row.get(1)?),
        actor: row.get(2)?,
        act: row.get(3)?,
        object: row.get(4)?,
        reason: row.get(5)?,
    })
}

fn document_place(no: u32) -> String {
    format!("partner/{no}/document")
}

fn secrets_place(no: u32) -> String {
    format!("partner/{no}/secrets")
}

fn setting_place(key: &str) -> String {
    format!("setting/{key}")
}

/// Secrets as lines of `secret end`, the end in µs or `-`.
fn write_secrets(secrets: &[Secret]) -> String {
    let line = |(secret, end): &Secret| {
        format!("{secret} {}\n", end.map_or_else(|| "-".to_owned(), |end| end.as_micros().to_string()))
    };
    secrets.iter().map(line).collect()
}

fn read_secrets(text: &str) -> Vec<Secret> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(secret, end)| (secret.to_owned(), end.parse().ok().map(Time::from_micros)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sealed_text_of_secrets_stays_as_it_is() {
        let secrets = vec![("whsec_a".to_owned(), None), ("whsec_b".to_owned(), Some(Time::from_micros(5)))];
        assert_eq!(write_secrets(&secrets), "whsec_a -\nwhsec_b 5\n");
        assert_eq!(read_secrets(&write_secrets(&secrets)), secrets);
    }
}
