//! Publishing: durable, numbered without a gap, once for each identity.

use std::sync::Arc;

use ess_core::event::{Kind, Priority, Trace};
use ess_core::id::{EventId, PartnerNo, Seq};
use ess_store::Publication;

use crate::support::{Open, audience, event, open};

#[tokio::test]
async fn an_event_is_read_back_as_it_was_published() {
    let open = open();
    // Byte for byte: numbers that a double can't hold, and the publisher's own white space.
    let payload = "{ \"n\": 9007199254740993,\n\t\"x\":0.1000000000000000055, \"s\":\"\\u00e9é\" }";
    let mut new = event("A-V1", payload, 3);
    new.content.source = Some("court".to_owned());
    new.content.time = Some("2026-01-31T10:00:00+01:00".to_owned());
    new.content.effective = Some("2026-02-01T00:00:00Z".to_owned());
    new.content.expires = Some("2027-02-01T00:00:00Z".to_owned());
    new.content.priority = Priority::Urgent;
    new.content.kind = Kind::Correction;
    new.content.references = vec![EventId::trusted("A-V0")];
    new.trace = Trace {
        traceparent: Some("00-a-b-01".to_owned()),
        trace_id: Some("t".to_owned()),
        docket_id: Some("d".to_owned()),
        publisher: Some("tok_1".to_owned()),
    };
    open.store.publish(new.clone()).await.unwrap();
    let open = open.reopen().await;
    let found = open.store.event_by_id("A-V1", false).await.unwrap().unwrap();
    let (content, expected) = (&found.event.content, &new.content);
    assert_eq!(content.payload.get(), payload);
    assert_eq!((&content.id, &content.subject, content.version), (&expected.id, &expected.subject, expected.version));
    assert_eq!((content.priority, content.kind, content.test), (Priority::Urgent, Kind::Correction, false));
    assert_eq!((&content.source, &content.time), (&expected.source, &expected.time));
    assert_eq!((&content.effective, &content.expires), (&expected.effective, &expected.expires));
    assert_eq!(content.references, expected.references);
    assert_eq!(found.event.trace, new.trace);
    assert_eq!((found.event.seq, found.event.recorded_at), (Seq(1), new.recorded_at));
    assert_eq!((found.event.content_digest, found.event.message_uuid), (new.content_digest, new.message_uuid));
    assert_eq!(found.audience.partners(), audience(3).partners());
}

#[tokio::test]
async fn the_same_content_again_is_a_duplicate_and_other_content_a_conflict() {
    let open = open();
    open.publish("A-V1", 2).await;
    let again = open.store.publish(event("A-V1", "1", 5)).await.unwrap();
    let Publication::Duplicate { first } = again else { panic!("{again:?}") };
    assert_eq!((first.event.seq, first.audience.len()), (Seq(1), 2), "the first receipt stands");
    let other = open.store.publish(event("A-V1", "2", 2)).await.unwrap();
    let Publication::Conflict { first } = other else { panic!("{other:?}") };
    assert_eq!(first.event.content.payload.get(), "1");
    assert_eq!(open.publish("A-V2", 2).await, Seq(2), "neither used up a number");
}

#[tokio::test]
async fn a_dry_run_does_not_use_up_the_real_id() {
    let open = open();
    let mut test = event("A-V1", "1", 2);
    test.content.test = true;
    assert!(matches!(open.store.publish(test).await.unwrap(), Publication::Recorded(_)));
    assert_eq!(open.publish("A-V1", 2).await, Seq(2));
    assert_eq!(open.store.event_by_id("A-V1", true).await.unwrap().unwrap().event.seq, Seq(1));
}

#[tokio::test]
async fn many_go_in_together_in_their_order_with_an_answer_for_each() {
    let open = open();
    let commits = open.store.commits();
    let before = *commits.borrow();
    let news = vec![
        event("A-V1", "1", 2),
        event("B-V1", "1", 2),
        event("A-V1", "1", 2),
        event("A-V1", "2", 2),
        event("C-V1", "1", 9),
    ];
    let answers = open.store.publish_many(news).await;
    assert_eq!(*commits.borrow() - before, 1, "one commit");
    let words: Vec<String> = answers
        .into_iter()
        .map(|answer| match answer.unwrap() {
            Publication::Recorded(event) => format!("recorded {}", event.seq),
            Publication::Duplicate { first } => format!("duplicate of {}", first.event.seq),
            Publication::Conflict { first } => format!("conflict with {}", first.event.seq),
        })
        .collect();
    assert_eq!(words, ["recorded 1", "recorded 2", "duplicate of 1", "conflict with 1", "recorded 3"]);
}

#[tokio::test]
async fn every_new_event_is_told_once_in_the_order_of_the_log() {
    let mut open = open();
    let mut publishers = Vec::new();
    for number in 0..200u32 {
        let store = open.store.clone();
        // Half of them are repeats.
        publishers.push(tokio::spawn(async move { store.publish(event(&format!("E-{}", number / 2), "1", 3)).await }));
    }
    for publisher in publishers {
        publisher.await.unwrap().unwrap();
    }
    let mut told = Vec::new();
    while told.len() < 100 {
        told.extend(open.recorded.recv().await.unwrap());
    }
    let seqs: Vec<u64> = told.iter().map(|recorded| recorded.event.seq.0).collect();
    assert_eq!(seqs, (1..=100).collect::<Vec<u64>>());
    assert!(open.recorded.try_recv().is_err());
    assert!(told.iter().all(|recorded| recorded.audience.len() == 3));
}

#[tokio::test]
async fn a_publisher_that_goes_away_leaves_its_event_and_nobody_waiting() {
    let open = open();
    {
        let publishing = open.store.publish(event("A-V1", "1", 1));
        tokio::pin!(publishing);
        // Handed over by the first poll, then dropped.
        assert!(futures_poll(publishing.as_mut()).is_none());
    }
    assert_eq!(open.publish("B-V1", 1).await, Seq(2));
}

/// Polls once.
fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn an_event_that_breaks_a_rule_of_the_schema_is_refused_alone() {
    let open = open();
    let mut news = vec![event("A-V1", "1", 2), event("B-V1", "1", 2), event("C-V1", "1", 2)];
    news[1].content.id = EventId::trusted("");
    let answers = open.store.publish_many(news).await;
    assert!(matches!(&answers[0], Ok(Publication::Recorded(event)) if event.seq == Seq(1)));
    assert!(matches!(&answers[1], Err(ess_store::StoreError::Refused(_))), "{:?}", answers[1]);
    assert!(matches!(&answers[2], Ok(Publication::Recorded(event)) if event.seq == Seq(2)));
    assert_eq!(open.store.failing(), None);
}

#[tokio::test]
async fn the_log_is_read_in_pages_and_by_subject() {
    let open = open();
    for number in 1..=5 {
        open.publish(&format!("A-{number}"), 1).await;
        open.publish(&format!("B-{number}"), 2).await;
    }
    let page = |subject: Option<&'static str>, after: u64, limit: usize| {
        let store = open.store.clone();
        async move {
            let events = store.events(subject, Seq(after), limit).await.unwrap();
            events.iter().map(|recorded| recorded.event.seq.0).collect::<Vec<u64>>()
        }
    };
    assert_eq!(page(None, 0, 4).await, [1, 2, 3, 4]);
    assert_eq!(page(None, 8, 4).await, [9, 10]);
    assert_eq!(page(Some("B"), 2, 2).await, [4, 6]);
    assert_eq!(page(Some("C"), 0, 2).await, [0u64; 0]);
    assert_eq!(page(None, u64::MAX, 4).await, [0u64; 0], "a cursor past everything");
    assert!(open.store.event(Seq(u64::MAX)).await.unwrap().is_none());
}

#[tokio::test]
async fn sets_of_partners_are_kept_once_and_read_back_whole() {
    let open: Open = open();
    let mut wide = event("W-1", "1", 0);
    wide.audience = Arc::new(ess_store::Audience::new((0..10_000).map(|no| PartnerNo(no * 7 + 1)).collect()));
    open.store.publish(wide.clone()).await.unwrap();
    open.store.publish(event("N-1", "1", 0)).await.unwrap();
    let open = open.reopen().await;
    let mut again = event("W-2", "1", 0);
    again.audience = wide.audience.clone();
    open.store.publish(again).await.unwrap();
    let events = open.store.events(None, Seq(0), 10).await.unwrap();
    assert_eq!(events[0].audience.partners(), wide.audience.partners());
    assert!(events[1].audience.is_empty());
    assert!(Arc::ptr_eq(&events[0].audience, &events[2].audience), "the same row");
}
