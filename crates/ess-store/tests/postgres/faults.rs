//! What is special to a server: it may be gone and come back, and a commit's answer may be lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::State;
use ess_core::id::Seq;
use ess_store::{Options, Publication, ServerUrl, Store, StoreError};

use crate::proxy::{Cut, Proxy};
use crate::server::{self, Server};
use crate::support::{Open, acked, audit, event, key, open, opened, options, partner};

/// Bound of every wait.
const WITHIN: Duration = Duration::from_secs(60);
/// Twice and more of what anybody waits for a server that says nothing.
const SILENT_WITHIN: Duration = Duration::from_secs(20);

/// A store that reaches its server by a way that can be cut.
fn open_by(proxy: &Proxy) -> Open {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = proxy.url(&server::database().unwrap());
    let options = Options { server: ServerUrl::new(&url), ..options(dir.path()) };
    opened(dir, Some(url), &options)
}

/// Publishes until the store takes it; answers its place and whether it was in the log already.
async fn publish_at_last(open: &Open, id: &str) -> (Seq, bool) {
    let tried = async {
        loop {
            match open.store.publish(event(id, "1", 1)).await {
                Ok(Publication::Recorded(event)) => return (event.seq, false),
                Ok(Publication::Duplicate { first }) => return (first.event.seq, true),
                Ok(Publication::Conflict { .. }) => panic!("{id} is the same each time"),
                Err(error) => assert!(!matches!(error, StoreError::Refused(_)), "{error}"),
            }
            // Between two tries; `WITHIN` bounds them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WITHIN, tried).await.expect("the store takes it at last")
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_out_and_never_made_twice() {
    let proxy = Proxy::start(server::server().port);
    let mut open = open_by(&proxy);
    open.add_partners(1).await;
    for (number, cut) in [Cut::After, Cut::Before, Cut::After, Cut::Before].into_iter().enumerate() {
        let seq = open.publish(&format!("A-{number}"), 1).await;
        assert_eq!(seq, Seq(2 * number as u64 + 1));
        // Outcomes and an event in the commit that is cut.
        proxy.cut_at_next_commit(cut);
        open.store.record(vec![acked(key(seq, 1))]);
        let (second, _) = publish_at_last(&open, &format!("B-{number}")).await;
        assert_eq!(second, Seq(2 * number as u64 + 2), "{cut:?}: without a gap, and once");
        open.record(Vec::new()).await;
        let (size, _) = open.store.verify_ledger().await.unwrap();
        assert_eq!(size, number as u64 + 1, "{cut:?}: each receipt once");
    }
    assert!(open.store.failing().is_none());
    // The lanes hear of every event once, in the order of the log.
    let mut told = Vec::new();
    while let Ok(recorded) = open.recorded.try_recv() {
        told.extend(recorded.iter().map(|recorded| recorded.event.seq.0));
    }
    assert_eq!(told, (1..=8).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_change_of_the_registry_whose_answer_was_lost_is_answered_by_what_became_of_it() {
    let proxy = Proxy::start(server::server().port);
    let open = open_by(&proxy);
    proxy.cut_at_next_commit(Cut::After);
    let added = open.store.put_partner(partner("P1"), audit("partner.add")).await;
    assert_eq!(added.unwrap().0, 1, "it was made, so it is answered");
    proxy.cut_at_next_commit(Cut::Before);
    open.store.put_partner(partner("P2"), audit("partner.add")).await.unwrap_err();
    let added = async {
        loop {
            match open.store.put_partner(partner("P2"), audit("partner.add")).await {
                Ok(no) => return no.0,
                Err(error) => assert!(!matches!(error, StoreError::Refused(_)), "{error}"),
            }
            // Between two tries; `WITHIN` bounds them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(WITHIN, added).await.unwrap(), 2, "it was not made, and is made now");
}

/// A store at a server that the test may stop, with an event for one partner.
async fn of_its_own() -> (Server, Open, Seq) {
    let server = Server::start();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = server.database();
    let options = Options { server: ServerUrl::new(&url), ..options(dir.path()) };
    let open = opened(dir, Some(url), &options);
    open.add_partners(1).await;
    let first = open.publish("A-1", 1).await;
    (server, open, first)
}

#[tokio::test]
async fn a_server_that_is_gone_and_comes_back_costs_nothing_that_was_answered() {
    let (server, open, first) = of_its_own().await;
    server.kill();
    let refused = open.store.publish(event("A-2", "1", 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_) | StoreError::Shaken(_)), "{refused}");
    assert!(open.store.failing().is_some() && !open.store.records());
    open.store.event(first).await.unwrap_err();
    // An outcome of the time without a database is kept.
    open.store.record(vec![acked(key(first, 1))]);
    server.start_again();
    assert_eq!(publish_at_last(&open, "A-2").await, (Seq(2), false), "nothing half-done, and no gap");
    open.record(Vec::new()).await;
    let states: Vec<State> =
        open.store.deliveries_of_event(first).await.unwrap().iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [State::Acked]);
    assert!(open.store.failing().is_none() && open.store.records());
    open.store.verify_ledger().await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_within_a_bound_by_everybody() {
    let (server, open, first) = of_its_own().await;
    let store = &open.store;
    server.freeze();
    // Many more than there are connections; one after the other they would take minutes.
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let store = store.clone();
        asked.spawn(async move { store.event(first).await.map(drop) });
    }
    let reads = async {
        for answer in asked.join_all().await {
            let refused = answer.unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable(_) | StoreError::Shaken(_)), "{refused}");
        }
    };
    let changed = store.put_partner(partner("P2"), audit("partner.add"));
    let recorded = store.record_durably(vec![acked(key(first, 1))]);
    let all = async { tokio::join!(reads, changed, recorded) };
    let ((), changed, recorded) = tokio::time::timeout(SILENT_WITHIN, all).await.expect("nobody waits for longer");
    for refused in [changed.unwrap_err(), recorded.unwrap_err()] {
        assert!(matches!(refused, StoreError::Unanswered(_)), "it is open whether it was done: {refused}");
    }
    server.thaw();
    let heard = async {
        while store.event(first).await.is_err() {
            // Between two tries; `WITHIN` bounds them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WITHIN, heard).await.expect("it is heard again");
    assert!(store.silence() < Duration::from_secs(8), "it is over for whoever asks next");
    // What was kept meanwhile is written now, once.
    open.record(Vec::new()).await;
    assert_eq!(store.verify_ledger().await.unwrap().0, 1);
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let open = open();
    let theirs = "select c.table_name || '.' || c.column_name || case when c.is_nullable = 'NO' then ' not null' else '' end \
        from information_schema.columns c where c.table_schema = 'public' \
        and c.table_name not in ('head', 'writer', 'schema_step', 'node', 'seat', 'partner_change', 'post', \
        'dashboard_session')";
    let theirs: BTreeSet<String> = server::rows(open.url.as_deref().unwrap(), theirs).into_iter().collect();
    let dir = tempfile::tempdir().unwrap();
    let embedded = Store::open(&options(dir.path())).unwrap();
    embedded.store.close().await;
    let db = rusqlite::Connection::open(dir.path().join("ess.db")).unwrap();
    let ours = "select t.name || '.' || c.name || case when c.\"notnull\" or c.pk then ' not null' else '' end \
        from sqlite_schema t, pragma_table_xinfo(t.name) c where t.type = 'table' and t.name not like 'sqlite_%'";
    let ours: BTreeSet<String> =
        db.prepare(ours).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn a_database_opens_with_its_own_key_alone() {
    let open = open();
    let (dir, url) = (open.dir.clone(), open.url.clone().unwrap());
    open.store.close().await;
    let other = tempfile::tempdir().unwrap();
    let there = Options { server: ServerUrl::new(&url), ..options(other.path()) };
    let refused = |options: &Options| Store::open(options).err().expect("refused").to_string();
    assert!(refused(&there).contains("seal.key is missing"));
    std::fs::write(other.path().join("seal.key"), [7; 32]).unwrap();
    assert!(refused(&there).contains("not the key of this database"));
    let shared = Options { seal_key: Some(dir.path().join("seal.key")), ..there };
    let opened = Store::open(&shared).unwrap();
    opened.store.close().await;
}

#[tokio::test]
async fn the_role_of_the_page_is_enough_and_can_do_nothing_else() {
    let page = include_str!("../../../../docs/scale.md");
    let sql = page.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    let name = "ess_role_test";
    let sql = sql.replace("hms_ess", name);
    // One statement at a time, the last ones in the database itself.
    let admin = server::server().url("postgres");
    let (first, then) = sql.split_once("\\connect").unwrap();
    for statement in first.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        server::execute(&admin, statement);
    }
    let own = server::server().url(name);
    let then = then.split_once('\n').unwrap().1;
    for statement in then.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        server::execute(&own, statement);
    }
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = own.replace("ess@", &format!("{name}@"));
    let options = Options { server: ServerUrl::new(&url), ..options(dir.path()) };
    let open = opened(dir, Some(url.clone()), &options);
    open.add_partners(1).await;
    open.publish("A-1", 1).await;
    let may = "select (rolsuper or rolcreatedb or rolcreaterole or rolreplication)::text from pg_roles \
        where rolname = current_user";
    assert_eq!(server::rows(&url, may), ["false"]);
}
