//! How a lane tells people that it stands.

use super::*;
use crate::lane::{Standing, Wait};

#[track_caller]
fn speaks(standing: &Standing) -> (u64, Wait) {
    let speaker = standing.speaker.as_ref().expect("something is open");
    (speaker.seq.0, speaker.wait)
}

#[test]
fn an_empty_lane_has_nothing_to_say() {
    assert_eq!(lane(Order::Subject).standing(16), Standing::default());
}

#[test]
fn the_oldest_is_told_and_the_one_that_says_why_speaks() {
    let mut lane = lane(Order::Subject);
    for (seq, subject) in [(1, "a"), (2, "b"), (3, "c")] {
        lane.offer(&offer(seq, subject), START);
    }
    let attempts = sends(&mut lane, START);
    assert_eq!((lane.standing(16).oldest, speaks(&lane.standing(16))), (Some(Seq(1)), (1, Wait::Answer)));
    let [first, second, third] = attempts.try_into().expect("three subjects side by side");
    report(&mut lane, second, failure(), START);
    let standing = lane.standing(16);
    assert_eq!((standing.open, standing.retrying, standing.in_flight), (3, 1, 2));
    assert!(matches!(speaks(&standing), (2, Wait::Retry(_))), "{standing:?}");
    assert_eq!(standing.speaker.and_then(|speaker| speaker.reason).as_deref(), Some("connection refused"));
    let blocked = Outcome::Blocked { reason: "no bridge".to_owned(), mend: "add one".to_owned() };
    let tried = tried(&third, START);
    lane.on_report(Report { attempt: third, outcome: blocked, sent: None, tried }, START, 0.5);
    let standing = lane.standing(16);
    assert_eq!((standing.blocked, speaks(&standing)), (1, (3, Wait::Bridge)));
    assert_eq!(standing.speaker.and_then(|speaker| speaker.mend).as_deref(), Some("add one"));
    report(&mut lane, first, Verdict::Acked(crate::receipt::Evidence::Body), START);
    assert_eq!((lane.standing(16).oldest, lane.standing(16).open), (Some(Seq(2)), 2));
}

#[test]
fn dry_runs_do_not_count_and_what_is_not_looked_at_is_said_to_be_there() {
    let mut lane = lane(Order::None);
    lane.offer(&Offer { test: true, ..offer(1, "a") }, START);
    assert_eq!((lane.standing(16).open, lane.standing(16).oldest), (0, None));
    for seq in 2..=9 {
        lane.offer(&Offer { priority: Priority::Urgent, ..offer(seq, "a") }, START);
    }
    let all = lane.standing(16);
    assert_eq!((all.open, all.urgent, all.has_more), (8, 8, false));
    let some = lane.standing(4);
    assert_eq!((some.open, some.oldest, some.has_more), (3, Some(Seq(2)), true));
}
