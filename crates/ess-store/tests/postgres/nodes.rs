//! Several nodes at one database: who is given up writes nothing down, and nobody publishes by what is out of date.

use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::State;
use ess_core::id::{PartnerNo, Seq};
use ess_store::{NewEvent, NodeNo, Nodes, Opened, Options, Publication, ServerUrl, Store, StoreError, home_of};

use crate::server::{execute, rows};
use crate::support::{Open, acked, audit, event, key, open, options, partner};

const WITHIN: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(60);

/// A second node beside the one that made the database.
fn beside(open: &Open) -> (Opened, Arc<tempfile::TempDir>) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(open.dir.path().join("seal.key"), dir.path().join("seal.key")).unwrap();
    let options = Options { server: open.options().server, ..options(dir.path()) };
    (Store::open(&options).unwrap(), dir)
}

async fn join(store: &Store, nodes: &Nodes, name: &str, lease: Duration) -> NodeNo {
    let node = nodes.join(name.to_owned(), "1".to_owned(), lease).await.unwrap().0;
    store.set_node(Some(node)).await;
    node
}

/// A database with two nodes, and a partner that each of them took in.
struct Two {
    first: (Opened, Arc<tempfile::TempDir>),
    second: (Opened, Arc<tempfile::TempDir>),
    url: String,
}

impl Two {
    fn open() -> Self {
        let open = open();
        Self { first: beside(&open), second: beside(&open), url: open.url.clone().unwrap() }
    }

    fn nodes(&self) -> [Nodes; 2] {
        [self.first.0.nodes.clone().unwrap(), self.second.0.nodes.clone().unwrap()]
    }

    fn stores(&self) -> [Store; 2] {
        [self.first.0.store.clone(), self.second.0.store.clone()]
    }
}

async fn publish(store: &Store, id: &str, registry: Option<u64>) -> Result<Seq, StoreError> {
    match store.publish(NewEvent { registry, ..event(id, "1", 2) }).await? {
        Publication::Recorded(event) => Ok(event.seq),
        other => panic!("{id} was not recorded: {other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_was_given_up_writes_no_outcome_down_and_publishes_all_the_same() {
    let two = Two::open();
    let ([a, b], [nodes, others]) = (two.stores(), two.nodes());
    let lost = join(&a, &nodes, "a", Duration::from_secs(2)).await;
    let kept = join(&b, &others, "b", LEASE).await;
    for name in ["P1", "P2"] {
        a.put_partner(partner(name), audit("partner.add")).await.unwrap();
    }
    assert_eq!(others.seats(lost, WITHIN).await.unwrap(), [PartnerNo(1), PartnerNo(2)]);
    let seq = publish(&a, "A-1", None).await.unwrap();
    a.record_durably(vec![acked(key(seq, 1))]).await.unwrap();

    // Its lease has run out; the other one looks.
    let settled = async {
        loop {
            let given_up = others.settle(kept, Duration::ZERO, WITHIN).await.unwrap();
            if !given_up.is_empty() {
                return given_up;
            }
        }
    };
    assert_eq!(tokio::time::timeout(WITHIN, settled).await.unwrap(), [lost]);
    assert_eq!(others.seats(kept, WITHIN).await.unwrap(), [PartnerNo(1), PartnerNo(2)]);
    let refused = a.record_durably(vec![acked(key(seq, 2))]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Ousted), "{refused}");
    assert!(a.is_out() && a.failing().is_none() && a.unrecorded() == 0);
    assert!(!nodes.renew(lost, LEASE).await.unwrap().is_in);
    let second = publish(&a, "A-2", None).await.unwrap();
    b.record_durably(vec![acked(key(seq, 2)), acked(key(second, 1))]).await.unwrap();
    assert_eq!(b.verify_ledger().await.unwrap().0, 3);
    let states: Vec<State> = b.deliveries_of_event(seq).await.unwrap().iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Acked, State::Acked]);

    // It comes back as another one.
    a.record(vec![acked(key(second, 2))]);
    let again = join(&a, &nodes, "a", LEASE).await;
    assert!(again > kept && !a.is_out());
    a.record_durably(Vec::new()).await.unwrap();
    assert_eq!(b.ledger_head().await.unwrap().0, 3, "what it had found out before is left out");
    a.record_durably(vec![acked(key(second, 2))]).await.unwrap();
    assert_eq!((a.ledger_head().await.unwrap(), b.ledger_head().await.unwrap().0), (b.ledger_head().await.unwrap(), 4));
}

#[tokio::test]
async fn who_gets_an_event_is_never_chosen_by_what_another_node_has_changed() {
    let two = Two::open();
    let ([a, b], [nodes, others]) = (two.stores(), two.nodes());
    let known = two.second.0.start.registry;
    publish(&b, "A-1", Some(known)).await.unwrap();
    let no = a.put_partner(partner("P1"), audit("partner.add")).await.unwrap();
    let refused = publish(&b, "A-2", Some(known)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Outdated), "{refused}");
    assert!(b.failing().is_none());
    let changes = others.registry_since(known, WITHIN).await.unwrap();
    assert_eq!(changes.number, known + 1);
    assert_eq!(changes.partners.iter().map(|partner| partner.no).collect::<Vec<_>>(), [no]);
    assert!(changes.rules.is_none() && changes.tokens.is_none());
    assert_eq!(publish(&b, "A-2", Some(changes.number)).await.unwrap(), Seq(2), "nothing was used up");
    // What is no change of the registry does not count.
    b.put_audit(audit("partner.test")).await.unwrap();
    assert_eq!(nodes.registry_since(changes.number, WITHIN).await.unwrap().number, changes.number);
    a.remove_partner(no, ess_core::time::Time::from_micros(9), audit("partner.remove")).await.unwrap();
    let removed = nodes.registry_since(changes.number, WITHIN).await.unwrap();
    assert!(removed.partners[0].removed_at.is_some());
}

#[tokio::test]
async fn partners_are_given_away_and_shared_out_and_letters_arrive_once_and_in_order() {
    let two = Two::open();
    let ([a, b], [nodes, others]) = (two.stores(), two.nodes());
    let first = join(&a, &nodes, "a", LEASE).await;
    let second = join(&b, &others, "b", LEASE).await;
    for number in 1..=20 {
        a.put_partner(partner(&format!("P{number}")), audit("partner.add")).await.unwrap();
    }
    let away: Vec<(PartnerNo, NodeNo)> = (1..=20)
        .map(PartnerNo)
        .filter_map(|no| home_of(no, &[first, second]).map(|home| (no, home)))
        .filter(|(_, home)| *home == second)
        .collect();
    assert!((3..18).contains(&away.len()));
    nodes.give(first, away.clone(), WITHIN).await.unwrap();
    // Not its own, and to nobody: nothing changes.
    others.give(second, vec![(PartnerNo(1), NodeNo(9_999))], WITHIN).await.unwrap();
    assert_eq!(others.seats(second, WITHIN).await.unwrap(), away.iter().map(|(no, _)| *no).collect::<Vec<_>>());
    assert_eq!(nodes.seat_of(away[0].0, WITHIN).await.unwrap(), Some(second));
    let shares: Vec<u64> = nodes.list(WITHIN).await.unwrap().iter().map(|(_, share)| *share).collect();
    assert_eq!(shares, [20 - away.len() as u64, away.len() as u64]);

    let letters = |from: u8| (0..3).map(|number| (second, vec![from, number])).collect::<Vec<_>>();
    nodes.send(letters(1), WITHIN).await.unwrap();
    nodes.send(letters(2), WITHIN).await.unwrap();
    let expected: Vec<Vec<u8>> = [1, 2].iter().flat_map(|from| (0..3).map(|number| vec![*from, number])).collect();
    assert_eq!(others.receive(second, 100, WITHIN).await.unwrap(), expected);
    assert!(others.receive(second, 100, WITHIN).await.unwrap().is_empty());

    // One goes: the other is given the rest when it looks.
    nodes.begin_to_leave(first, WITHIN).await.unwrap();
    nodes.leave(first, WITHIN).await.unwrap();
    assert!(others.settle(second, Duration::ZERO, WITHIN).await.unwrap().is_empty());
    assert_eq!(others.seats(second, WITHIN).await.unwrap().len(), 20);
}

#[tokio::test]
async fn who_is_started_again_where_it_was_killed_is_its_own_successor_at_once() {
    let two = Two::open();
    let ([a, b], [nodes, others]) = (two.stores(), two.nodes());
    let lost = join(&a, &nodes, "a", LEASE).await;
    let kept = join(&b, &others, "b", LEASE).await;
    a.put_partner(partner("P1"), audit("partner.add")).await.unwrap();
    assert_eq!(others.seats(lost, WITHIN).await.unwrap(), [PartnerNo(1)]);
    let Two { first: (opened, dir), second: _second, url } = two;
    // As a kill would: its lease goes on.
    drop((opened, a, nodes));
    assert!(others.settle(kept, Duration::ZERO, WITHIN).await.unwrap().is_empty());

    let again = Options { server: ServerUrl::new(&url), ..options(dir.path()) };
    let Opened { store: _store, nodes, .. } = Store::open(&again).unwrap();
    let nodes = nodes.unwrap();
    let (me, former) = nodes.join("a".to_owned(), "1".to_owned(), LEASE).await.unwrap();
    assert_eq!(former, Some(lost));
    assert!(me > kept, "a number is never given again");
    nodes.settle(me, Duration::ZERO, WITHIN).await.unwrap();
    let [here, there] = [nodes.seats(me, WITHIN).await.unwrap(), nodes.seats(kept, WITHIN).await.unwrap()];
    assert_eq!([here, there].concat(), [PartnerNo(1)]);
}

#[tokio::test]
async fn a_hub_runs_on_newer_tables_when_whoever_made_them_says_so() {
    let two = Two::open();
    let opens = || {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(two.first.1.path().join("seal.key"), dir.path().join("seal.key")).unwrap();
        let options = Options { server: ServerUrl::new(&two.url), ..options(dir.path()) };
        Store::open(&options).map(drop).map_err(|error| error.to_string())
    };
    let known: i32 = rows(&two.url, "select max(number)::text from schema_step")[0].parse().unwrap();
    execute(&two.url, &format!("insert into schema_step (number, least) values ({}, {known})", known + 1));
    opens().unwrap();
    for least in ["null".to_owned(), (known + 1).to_string()] {
        execute(&two.url, &format!("update schema_step set least = {least} where number = {}", known + 1));
        let refused = opens().unwrap_err();
        assert!(refused.contains("start a newer hub"), "{refused}");
    }
}
