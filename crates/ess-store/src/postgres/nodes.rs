//! What several nodes keep in the database about themselves: their leases, who serves which partner, and their post.
//!
//! A node is given up by the others when its lease has lapsed, in a transaction that holds the head of the log. Every commit of
//! outcomes holds it too and looks whether its node is still there: what a node that was given up found out is never written down.
//! Time is the database's own, so that clocks of machines need not agree.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ess_core::id::{Digest, PartnerNo, Seq};
use ess_core::time::Time;
use tokio::sync::mpsc;

use super::connection::Server;
use super::desk::Desk;
use super::home::Home;
use super::keeper::LOCK_HEAD;
use super::link::Link;
use super::sessions::{self, Sessions};
use crate::error::StoreError;
use crate::nodes::{NodeLine, NodeNo, Notice, RegistryChanges, Sight, home_of};
use crate::seal::Seal;
use crate::sessions::SessionBounds;
use crate::sql::db::{Cell, Db, Row, given};
use crate::sql::events::Reader;
use crate::sql::registry;
use crate::types::StoredPartner;

type Result<T> = std::result::Result<T, StoreError>;

const JOIN: &str = "insert into node (name, version, lease_until, home) \
    values (?1, ?2, clock_timestamp() + ?3::bigint * interval '1 microsecond', ?4) returning no";
const REMOVE_FORMER: &str = "delete from node where home = ?1 returning no";
const RENEW: &str =
    "update node set lease_until = clock_timestamp() + ?2::bigint * interval '1 microsecond' where no = ?1";
const SET_LEAVING: &str = "update node set is_leaving = 1 where no = ?1";
const NODES: &str = "select no, name, version, (extract(epoch from began_at) * 1000000)::bigint, \
    (extract(epoch from lease_until - clock_timestamp()) * 1000000)::bigint, is_leaving from node order by no";
/// Every commit of whichever node moves its mark.
const HEAD: &str =
    "select seq, registry, terms, (select coalesce(sum(mark), 0) from writer)::bigint from head where one = 1";
const LEDGER_HEAD: &str = "select ledger, chain from head where one = 1";
const REMOVE: &str = "delete from node where no = ?1";
const REMOVE_LAPSED: &str = "delete from node \
    where lease_until < clock_timestamp() - ?2::bigint * interval '1 microsecond' and no <> ?1 returning no";
const STAYING: &str = "select no from node where is_leaving = 0 order by no";
const WITHOUT_SEAT: &str = "select p.no from partner p left join seat s on s.partner = p.no \
    left join node n on n.no = s.node where p.removed_at is null and n.no is null order by p.no";
const PUT_SEAT: &str = "insert into seat (partner, node) values (?1, ?2) \
    on conflict (partner) do update set node = excluded.node";
const FORGET_SEATS: &str = "delete from seat where not exists (select 1 from node where node.no = seat.node) \
    and exists (select 1 from partner where partner.no = seat.partner and partner.removed_at is not null)";
const NEXT_TERMS: &str = "update head set terms = terms + 1 where one = 1";
const TELL_SEATS: &str = "select pg_notify('hms_ess', 'seats')";
const SEATS: &str = "select s.partner from seat s join partner p on p.no = s.partner \
    where s.node = ?1 and p.removed_at is null order by s.partner";
const SEAT: &str = "select node from seat where partner = ?1";
const SEATS_OF: &str = "select partner, node from seat where partner = any(?1::bigint[])";
const SHARES: &str = "select s.node, count(*) from seat s join partner p on p.no = s.partner \
    where p.removed_at is null group by s.node";
const GIVE: &str = "update seat set node = given.target \
    from unnest(?1::bigint[], ?2::bigint[], ?3::bigint[]) given (partner, node, target) \
    where seat.partner = given.partner and seat.node = given.node \
    and exists (select 1 from node where node.no = given.target) returning seat.partner";
const CHANGED: &str = "select registry, rules, tokens from head where one = 1";
const CHANGED_PARTNERS: &str = "select p.no, p.id, p.document, p.secrets, p.added_at, p.paused_since, p.removed_at \
    from partner p join partner_change c on c.partner = p.no where c.number > ?1 order by p.no";
const SEND: &str = "insert into post (receiver, body) values (?1, ?2)";
const TELL_POST: &str = "select pg_notify('hms_ess', 'post ' || (?1::bigint)::text)";
const RECEIVE: &str = "delete from post where number in \
    (select number from post where receiver = ?1 order by number limit ?2) returning number, body";
const FORGET_POST: &str = "delete from post where at < clock_timestamp() - interval '5 minutes'";
const LISTEN: &str = "listen hms_ess";

/// Connections of a desk at most: one is enough unless the server does not answer.
const CONNECTIONS_MAX: usize = 4;
/// How often a lost ear is looked for again, and whether one was lost that hears nothing.
const EAR_AGAIN: Duration = Duration::from_millis(500);

/// The other hubs on this database; cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    server: Arc<Server>,
    seal: Arc<Seal>,
    /// Where leases and seats are asked for; apart, so that post never waits for them nor they for it.
    desk: Arc<Desk>,
    mail: Arc<Desk>,
    /// Kept for as long as anything of this process is a node.
    home: Arc<Option<Home>>,
}

impl Nodes {
    pub(super) fn new(server: Arc<Server>, seal: Arc<Seal>, home: Option<Home>) -> Self {
        let desk = || Desk::new(&server, CONNECTIONS_MAX);
        Self { desk: desk(), mail: desk(), home: Arc::new(home), seal, server }
    }

    /// The sessions of the dashboard, which all nodes know.
    #[must_use]
    pub fn sessions(&self, bounds: SessionBounds) -> Sessions {
        Sessions::new(Desk::new(&self.server, sessions::CONNECTIONS_MAX), self.seal.clone(), bounds)
    }

    /// Comes in as a node, with a lease of this length. Who was killed in this very directory has no lease any more, and its partners
    /// are to be shared out; answers whether there was one too.
    ///
    /// # Errors
    /// The database can't be asked now.
    pub async fn join(&self, name: String, version: String, lease: Duration) -> Result<(NodeNo, Option<NodeNo>)> {
        let home = self.home.as_ref().as_ref().map(|home| home.id);
        self.desk
            .ask(lease, move |link| {
                let db = Db::Postgres(link);
                let read = |row: &Row<'_>| Ok(NodeNo(row.get(0)?));
                let mut former = Vec::new();
                if let Some(home) = home {
                    // What it committed last is through, or never will be.
                    db.query_row(LOCK_HEAD, given![], |_| Ok(()))?;
                    former = db.query(REMOVE_FORMER, given![home], read)?;
                    if !former.is_empty() {
                        link.execute(NEXT_TERMS, given![])?;
                    }
                }
                let no = db.query_row(JOIN, given![name, version, micros(lease), home], read)?;
                tell(link, TELL_SEATS)?;
                Ok((no, former.pop()))
            })
            .await
    }

    /// Renews the lease from now on, and looks at who is there.
    ///
    /// # Errors
    /// The database can't be asked within the length of the lease.
    pub async fn renew(&self, me: NodeNo, lease: Duration) -> Result<Sight> {
        let sight = self
            .desk
            .ask(lease, move |link| {
                // A crash that forgets it forgets a moment.
                link.execute("set local synchronous_commit = off", given![])?;
                let is_in = link.execute(RENEW, given![me.0, micros(lease)])? == 1;
                let db = Db::Postgres(link);
                let nodes = db.query(NODES, given![], node_line)?;
                let read = |row: &Row<'_>| Ok((Seq(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?));
                let (head, registry, terms, commits) = db.query_row(HEAD, given![], read)?;
                Ok(Sight { is_in, nodes, head, registry, terms, commits })
            })
            .await?;
        self.server.has_peers.store(sight.nodes.len() > 1, Ordering::Relaxed);
        Ok(sight)
    }

    /// Gives up nodes whose lease has lapsed for so long, and gives partners that nobody serves to those who stay; answers whom it gave up.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn settle(&self, me: NodeNo, grace: Duration, within: Duration) -> Result<Vec<NodeNo>> {
        self.desk.ask(within, move |link| settle(link, me, grace)).await
    }

    /// Says that this node hands its partners over and goes.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn begin_to_leave(&self, me: NodeNo, within: Duration) -> Result<()> {
        self.desk
            .ask(within, move |link| {
                link.execute(SET_LEAVING, given![me.0])?;
                tell(link, TELL_SEATS)
            })
            .await
    }

    /// Goes. Partners that were not handed over are the others' to take.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn leave(&self, me: NodeNo, within: Duration) -> Result<()> {
        self.desk
            .ask(within, move |link| {
                Db::Postgres(link).query_row(LOCK_HEAD, given![], |_| Ok(()))?;
                link.execute(REMOVE, given![me.0])?;
                link.execute(NEXT_TERMS, given![])?;
                tell(link, TELL_SEATS)
            })
            .await
    }

    /// The partners that a node serves.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn seats(&self, node: NodeNo, within: Duration) -> Result<Vec<PartnerNo>> {
        self.desk
            .ask(within, move |link| Db::Postgres(link).query(SEATS, given![node.0], |row| Ok(PartnerNo(row.get(0)?))))
            .await
    }

    /// Who serves a partner.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn seat_of(&self, partner: PartnerNo, within: Duration) -> Result<Option<NodeNo>> {
        self.mail
            .ask(within, move |link| {
                Db::Postgres(link).query_one(SEAT, given![partner.0], |row| Ok(NodeNo(row.get(0)?)))
            })
            .await
    }

    /// Who serves each of these partners; those that nobody serves are left out.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn seats_of(&self, partners: Vec<PartnerNo>, within: Duration) -> Result<Vec<(PartnerNo, NodeNo)>> {
        self.mail
            .ask(within, move |link| {
                let all: Vec<[Cell<'_>; 1]> = partners.iter().map(|no| [Cell::Int(i64::from(no.0))]).collect();
                let mut seats = Vec::with_capacity(all.len());
                link.each_of(SEATS_OF, &all, |row| {
                    seats.push((PartnerNo(row.get(0)?), NodeNo(row.get(1)?)));
                    Ok(())
                })?;
                Ok(seats)
            })
            .await
    }

    /// All nodes, each with how many partners it serves.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn list(&self, within: Duration) -> Result<Vec<(NodeLine, u64)>> {
        self.mail
            .ask(within, |link| {
                let db = Db::Postgres(link);
                let nodes = db.query(NODES, given![], node_line)?;
                let shares: Vec<(u64, u64)> = db.query(SHARES, given![], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let share = |no: NodeNo| shares.iter().find(|(node, _)| *node == no.0).map_or(0, |(_, count)| *count);
                Ok(nodes.into_iter().map(|node| (node.clone(), share(node.no))).collect())
            })
            .await
    }

    /// Hands partners over that this node serves and has nothing under way for. Of one whose new node is gone nothing changes.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn give(&self, me: NodeNo, given: Vec<(PartnerNo, NodeNo)>, within: Duration) -> Result<()> {
        self.desk
            .ask(within, move |link| {
                let (me, mut all) = (Cell::Int(number(me.0)), Vec::with_capacity(given.len()));
                for (partner, to) in &given {
                    all.push([Cell::Int(i64::from(partner.0)), me, Cell::Int(number(to.0))]);
                }
                link.each_of(GIVE, &all, |_| Ok(()))?;
                tell(link, TELL_SEATS)
            })
            .await
    }

    /// What was changed in the registry after so many changes.
    ///
    /// # Errors
    /// The database can't be asked within this time, or what it says can't be read.
    pub async fn registry_since(&self, known: u64, within: Duration) -> Result<RegistryChanges> {
        let seal = self.seal.clone();
        self.desk
            .ask(within, move |link| {
                // One snapshot: what is changed meanwhile is asked for next time, and nothing is seen half.
                link.execute("set transaction isolation level repeatable read", given![])?;
                let db = Db::Postgres(link);
                let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                let (number, rules, tokens): (u64, u64, u64) = db.query_row(CHANGED, given![], read)?;
                let partners: Vec<StoredPartner> =
                    db.query(CHANGED_PARTNERS, given![known], |row| registry::partner(row, &seal))?;
                let rules = (rules > known).then(|| registry::rules(db)).transpose()?;
                let tokens = (tokens > known).then(|| registry::tokens(db)).transpose()?;
                Ok(RegistryChanges { number, partners, rules, tokens })
            })
            .await
    }

    /// Sends letters to other nodes. Nothing is known of their arrival.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn send(&self, letters: Vec<(NodeNo, Vec<u8>)>, within: Duration) -> Result<()> {
        self.mail
            .ask(within, move |link| {
                link.execute("set local synchronous_commit = off", given![])?;
                let cells = |(to, body): &(NodeNo, Vec<u8>)| (number(to.0), body.clone());
                let rows: Vec<(i64, Vec<u8>)> = letters.iter().map(cells).collect();
                let all: Vec<[Cell<'_>; 2]> =
                    rows.iter().map(|(to, body)| [Cell::Int(*to), Cell::Blob(body)]).collect();
                link.insert_all(SEND, &all)?;
                let mut receivers: Vec<i64> = rows.iter().map(|(to, _)| *to).collect();
                receivers.sort_unstable();
                receivers.dedup();
                for to in receivers {
                    Db::Postgres(link).query_row(TELL_POST, given![to], |_| Ok(()))?;
                }
                Ok(())
            })
            .await
    }

    /// Takes letters to a node, in the order in which they were sent, at most so many.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn receive(&self, me: NodeNo, limit: usize, within: Duration) -> Result<Vec<Vec<u8>>> {
        self.mail
            .ask(within, move |link| {
                link.execute("set local synchronous_commit = off", given![])?;
                let read = |row: &Row<'_>| Ok((row.get::<i64>(0)?, row.get::<Vec<u8>>(1)?));
                let mut letters = Db::Postgres(link).query(RECEIVE, given![me.0, limit], read)?;
                letters.sort_by_key(|(number, _)| *number);
                Ok(letters.into_iter().map(|(_, body)| body).collect())
            })
            .await
    }

    /// Throws letters away that nobody took.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn clear_post(&self, within: Duration) -> Result<()> {
        self.mail.ask(within, |link| link.execute(FORGET_POST, given![]).map(drop)).await
    }

    /// Hears what is told to all nodes, for ever: an ear that was lost is found again, and `Notice::Lost` says so.
    pub async fn listen(self, to: mpsc::UnboundedSender<Notice>) {
        loop {
            let server = self.server.clone();
            let (ear, mut heard) = mpsc::unbounded_channel();
            let opened = tokio::task::spawn_blocking(move || {
                let connection = server.connect_with(Some(ear))?;
                server.wait(connection.client.batch_execute(LISTEN))?;
                Ok::<_, StoreError>(connection)
            });
            // Held for as long as it is heard.
            let connection = match opened.await {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => {
                    // A server that is away says nothing of its return.
                    tokio::time::sleep(EAR_AGAIN).await;
                    continue;
                }
            };
            if to.send(Notice::Lost).is_err() {
                return;
            }
            loop {
                match tokio::time::timeout(EAR_AGAIN, heard.recv()).await {
                    Ok(Some(notice)) => {
                        if to.send(notice).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    // The server that it listens to may have been replaced.
                    Err(_) if connection.is_closed() => break,
                    Err(_) => {}
                }
            }
            drop(connection);
        }
    }
}

fn settle(link: Link<'_>, me: NodeNo, grace: Duration) -> Result<Vec<NodeNo>> {
    let db = Db::Postgres(link);
    // No outcome is written down while this goes on, and whoever writes next sees it.
    db.query_row(LOCK_HEAD, given![], |_| Ok(()))?;
    let lapsed = db.query(REMOVE_LAPSED, given![me.0, micros(grace)], |row| Ok(NodeNo(row.get(0)?)))?;
    let staying = db.query(STAYING, given![], |row| Ok(NodeNo(row.get(0)?)))?;
    let homeless = db.query(WITHOUT_SEAT, given![], |row| Ok(PartnerNo(row.get(0)?)))?;
    link.execute(FORGET_SEATS, given![])?;
    let mut all = Vec::with_capacity(homeless.len());
    for partner in homeless {
        if let Some(home) = home_of(partner, &staying) {
            all.push([Cell::Int(i64::from(partner.0)), Cell::Int(number(home.0))]);
        }
    }
    link.insert_all(PUT_SEAT, &all)?;
    if !lapsed.is_empty() || !all.is_empty() {
        link.execute(NEXT_TERMS, given![])?;
        tell(link, TELL_SEATS)?;
    }
    Ok(lapsed)
}

/// How many receipts there are, and the head of their chain.
pub(crate) fn ledger_head(reader: &Reader<'_>) -> Result<(u64, Digest)> {
    reader.db.query_row(LEDGER_HEAD, given![], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn tell(link: Link<'_>, sql: &'static str) -> Result<()> {
    Db::Postgres(link).query_row(sql, given![], |_| Ok(()))
}

fn node_line(row: &Row<'_>) -> Result<NodeLine> {
    let left: i64 = row.get(4)?;
    Ok(NodeLine {
        no: NodeNo(row.get(0)?),
        name: row.get(1)?,
        version: row.get(2)?,
        began_at: Time::from_micros(row.get(3)?),
        lease_left: u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_micros),
        is_leaving: row.get(5)?,
    })
}

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn number(no: u64) -> i64 {
    i64::try_from(no).unwrap_or(i64::MAX)
}
