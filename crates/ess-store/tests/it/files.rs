//! What the embedded database promises of its files: backups, a file that is full or of another program, room that is given back.

use std::sync::Arc;

use ess_core::delivery::State;
use ess_core::id::Seq;
use ess_store::{Publication, Step, Store, StoreError};
use tempfile::TempDir;

use crate::lasting::filled;
use crate::retention::{day, event_of, is_on_disk, pass, publish, redaction, step, wipe};
use crate::support::{Open, acked, audit, event, key, open, opened, options};

fn open_copy(dir: Arc<TempDir>) -> Open {
    let options = options(dir.path());
    opened(dir, None, &options)
}

#[tokio::test]
async fn a_directory_is_one_hubs_at_a_time() {
    let open = open();
    let Err(StoreError::Open(why)) = Store::open(&open.options()) else { panic!("opened twice") };
    assert!(!why.is_empty());
    let open = open.reopen().await;
    open.publish("A-1", 0).await;
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
    let copy = open_copy(other);
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

#[tokio::test]
async fn a_reader_holds_the_wiping_of_the_log_up_and_no_publish() {
    let open = open();
    let seq = publish(&open, event("A-1", "\"CANARYHELD\"", 0)).await;
    let reader = rusqlite::Connection::open(open.dir.path().join("ess.db")).unwrap();
    let snapshot = reader.unchecked_transaction().unwrap();
    snapshot.query_row("select count(*) from event", [], |_| Ok(())).unwrap();
    open.store.redact(redaction(seq), audit("event.redact")).await.unwrap();
    assert!(!open.store.wipe_log().await.unwrap());
    publish(&open, event("A-2", "1", 0)).await;
    drop(snapshot);
    wipe(&open).await;
    assert!(!is_on_disk(&open, "CANARYHELD"));
}

#[tokio::test]
async fn the_file_gets_shorter_when_much_went() {
    let open = open();
    open.add_partners(1).await;
    let large = format!("\"{}\"", "x".repeat(100_000));
    for number in 0..100 {
        let seq = publish(&open, event_of(&format!("A-{number}"), &large, 1, 0)).await;
        open.record(vec![acked(key(seq, 1))]).await;
    }
    wipe(&open).await;
    let size = || open.dir.path().join("ess.db").metadata().unwrap().len();
    let before = size();
    assert!(before > 10_000_000, "{before}");
    assert_eq!(pass(&open, day(200), 16).await[1], 100);
    let mut next = Some(Step::FreePages);
    while let Some(part) = next {
        next = step(&open, part, day(200), 64).await.next;
    }
    wipe(&open).await;
    assert!(size() < before / 5, "{before} -> {}", size());
    assert_eq!(open.store.verify_ledger().await.unwrap().0, 100);
}
