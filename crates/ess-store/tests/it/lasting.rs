//! What outlives the process: backups, a second opening, a store that is full, and bytes that somebody changed.

use std::sync::Arc;

use ess_core::delivery::State;
use ess_core::id::Seq;
use ess_store::{Publication, Store, StoreError};
use rusqlite::Connection;

use crate::support::{Open, acked, audit, event, key, open, open_in, options, partner};

/// Ten events for two partners, all acknowledged by the first one.
async fn filled() -> Open {
    let open = open();
    open.add_partners(2).await;
    for number in 1..=10 {
        let seq = open.publish(&format!("A-{number}"), 2).await;
        open.record(vec![acked(key(seq, 1))]).await;
    }
    open
}

#[tokio::test]
async fn a_backup_of_a_busy_store_is_whole_and_opens() {
    let open = filled().await;
    let writer = open.store.clone();
    let writing = tokio::spawn(async move {
        for number in 0..300 {
            writer.publish(event(&format!("B-{number}"), "1", 2)).await.unwrap();
        }
    });
    let other = Arc::new(tempfile::tempdir().unwrap());
    open.store.backup(&other.path().join("ess.db")).await.unwrap();
    writing.await.unwrap();
    std::fs::copy(open.dir.path().join("seal.key"), other.path().join("seal.key")).unwrap();
    let copy = open_in(other);
    let events = copy.store.events(None, Seq(0), 1_000).await.unwrap();
    let seqs: Vec<u64> = events.iter().map(|recorded| recorded.event.seq.0).collect();
    assert!(seqs.len() >= 10, "{}", seqs.len());
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(copy.store.verify_ledger().await.unwrap().0, 10);
    // It goes on from where it was.
    assert_eq!(copy.publish("C-1", 2).await, Seq(seqs.len() as u64 + 1));
}

#[tokio::test]
async fn a_backup_never_writes_over_a_file() {
    let open = filled().await;
    let file = open.dir.path().join("there");
    std::fs::write(&file, "mine").unwrap();
    open.store.backup(&file).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[tokio::test]
async fn a_directory_is_one_hubs_at_a_time() {
    let open = open();
    let Err(StoreError::Open(why)) = Store::open(&options(open.dir.path())) else { panic!("opened twice") };
    assert!(!why.is_empty());
    let open = open.reopen().await;
    open.publish("A-1", 0).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ess.db");
    std::fs::write(&file, "not a database, but long enough to be taken for one at the first look").unwrap();
    assert!(matches!(Store::open(&options(dir.path())), Err(StoreError::Open(_) | StoreError::Damaged(_))));
    assert!(std::fs::read_to_string(file).unwrap().starts_with("not a database"));
}

#[tokio::test]
async fn a_full_store_refuses_whole_events_and_takes_them_when_there_is_room() {
    let open = filled().await;
    open.store.set_bytes_max(Some(1)).await;
    let large = format!("\"{}\"", "x".repeat(200_000));
    let mut refused = None;
    for number in 0..50 {
        let id = format!("L-{number}");
        if let Err(error) = open.store.publish(event(&id, &large, 2)).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            refused = Some((id, number));
            break;
        }
    }
    let (id, number) = refused.expect("a store of one byte takes not everything");
    assert!(open.store.failing().is_some());
    assert!(open.store.event_by_id(&id, false).await.unwrap().is_none(), "nothing half-done");
    open.store.set_bytes_max(None).await;
    let Publication::Recorded(event) = open.store.publish(event(&id, &large, 2)).await.unwrap() else {
        panic!("the same id is a plain new event")
    };
    assert_eq!(event.seq, Seq(11 + number), "without a gap");
    // The word goes out with the answer; by the next answer it has.
    open.publish("M-1", 2).await;
    assert!(open.store.failing().is_none());
}

#[tokio::test]
async fn the_ledger_names_what_was_changed_or_taken_out() {
    let tampers = [
        ("update ledger set entries = cast(x'00' || substr(entries, 2) as blob) where first = 4", "ledger entry 4"),
        ("update ledger set chain = zeroblob(32) where first = 7", "ledger entry 7"),
        ("delete from ledger where first = 3", "ledger entry 3"),
        ("update ledger set seq = seq + 1 where first = 5", "ledger entry 5"),
    ];
    for (tamper, named) in tampers {
        let open = filled().await;
        assert_eq!(open.store.verify_ledger().await.unwrap().0, 10);
        let file = open.dir.path().join("ess.db");
        open.store.close().await;
        let Open { store, recorded, start, dir } = open;
        drop((store, recorded, start));
        assert_eq!(Connection::open(&file).unwrap().execute(tamper, []).unwrap(), 1);
        let open = open_in(dir);
        let said = open.store.verify_ledger().await.unwrap_err().to_string();
        assert!(said.contains(named), "{tamper}: {said}");
    }
}

#[tokio::test]
async fn partners_and_secrets_are_there_after_a_restart_and_not_in_the_clear() {
    let open = open();
    open.add_partners(3).await;
    open.store
        .remove_partner(ess_core::id::PartnerNo(2), ess_core::time::Time::from_micros(9), audit("x"))
        .await
        .unwrap();
    let secrets = vec![("whsec_VERYSECRET".to_owned(), None)];
    let changed = ess_store::NewPartner { no: Some(ess_core::id::PartnerNo(1)), secrets, ..partner("P1") };
    open.store.put_partner(changed, audit("partner.put")).await.unwrap();
    let open = open.reopen().await;
    let names: Vec<(&str, bool)> =
        open.start.partners.iter().map(|stored| (stored.id.as_str(), stored.removed_at.is_some())).collect();
    assert_eq!(names, [("P1", false), ("P2", true), ("P3", false)]);
    assert_eq!(open.start.partners[0].secrets[0].0, "whsec_VERYSECRET");
    for name in ["ess.db", "ess.db-wal"] {
        let bytes = std::fs::read(open.dir.path().join(name)).unwrap_or_default();
        assert!(!bytes.windows(10).any(|window| window == b"VERYSECRET"), "{name}");
    }
    assert!(open.store.audit(0, 10).await.unwrap().len() >= 5);
}

#[tokio::test]
async fn outcomes_wait_while_the_store_is_full_and_are_written_when_there_is_room() {
    let open = filled().await;
    open.store.set_bytes_max(Some(1)).await;
    let large = format!("\"{}\"", "x".repeat(900_000));
    while open.store.publish(event("L-1", &large, 2)).await.is_ok_and(|done| matches!(done, Publication::Recorded(_))) {
    }
    let seqs: Vec<Seq> = (1..=10).map(Seq).collect();
    open.store.record(seqs.iter().map(|seq| acked(key(*seq, 2))).collect());
    open.store.set_bytes_max(None).await;
    open.record(Vec::new()).await;
    for seq in seqs {
        let deliveries = open.store.deliveries_of_event(seq).await.unwrap();
        assert!(deliveries.iter().all(|delivery| delivery.state == State::Acked), "{seq}");
    }
    assert_eq!(open.store.verify_ledger().await.unwrap().0, 20);
}
