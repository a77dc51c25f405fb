//! Stories that the simulation of `ess-hub` found: each was once told otherwise.

use super::*;

fn unacknowledged() -> Verdict {
    Verdict::Unacknowledged { reason: "no ack".to_owned() }
}

fn opened(seq: u64, round: u32, subject: &str, state: OpenState) -> OpenDelivery {
    let open = offer(seq, subject).to_open(PartnerNo(1), Some(seq));
    OpenDelivery { key: DeliveryKey { round, ..open.key }, state, ..open }
}

/// Answers every attempt so; what else the lane asks for.
fn run(lane: &mut Lane, now: Time, verdict: &Verdict) -> Vec<Action> {
    let mut others = Vec::new();
    while let Some(action) = lane.poll(now) {
        match action {
            Action::Send(attempt) => report(lane, attempt, verdict.clone(), now),
            other => others.push(other),
        }
    }
    others
}

#[test]
fn under_latest_what_was_delivered_is_not_sent_again_after_something_newer() {
    let mut lane = lane(Order::Latest);
    lane.offer(&offer(1, "a"), START);
    run(&mut lane, START, &unacknowledged());
    lane.offer(&offer(2, "a"), START);
    let done = run(&mut lane, START, &Verdict::Acked(Evidence::Body));
    assert!(done.iter().any(|action| matches!(action, Action::Outstanding { seq: Seq(1), .. })), "Ops hears of it");
    assert_eq!(lane.next_timeout(), None, "nothing will send it again");
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, START), "the partner's word still ends it");
}

#[test]
fn a_page_that_was_read_before_a_delivery_ended_does_not_bring_it_back() {
    let mut lane = lane(Order::Subject);
    lane.on_opened(vec![opened(1, 0, "a", OpenState::Pending)], START);
    lane.leave_in_store(&Subject::trusted("b"), false, (Seq(0), 0));
    lane.hear_of(Seq(1));
    let asked: Vec<Action> = std::iter::from_fn(|| lane.poll(START)).collect();
    assert!(asked.iter().any(|action| matches!(action, Action::LoadOpen { .. })));
    lane.on_loaded(Vec::new(), Seq(1), START);
    run(&mut lane, START, &Verdict::Acked(Evidence::Body));
    lane.on_open_loaded(vec![opened(1, 0, "a", OpenState::Pending)], None, START);
    assert!(sends(&mut lane, START).is_empty(), "it was acknowledged");
}

#[test]
fn deliveries_that_are_held_do_not_keep_the_backlog_out() {
    let mut lane = lane(Order::None);
    lane.set_room(WINDOW_MIN);
    lane.on_opened((1..=40).map(|seq| opened(seq, 0, "a", OpenState::Blocked)).collect(), START);
    lane.resume(Health::default(), false, (1..=40).map(Seq), Seq(100));
    let asked = run(&mut lane, START, &unacknowledged());
    assert!(asked.iter().any(|action| matches!(action, Action::Load { .. })), "more than half of the room is blocked");
}

#[test]
fn a_replay_waits_neither_for_its_own_outstanding_sending_nor_for_a_newer_one() {
    let mut policy = policy(Order::Subject);
    policy.ack.resend = 0;
    let mut lane = Lane::new(PartnerNo(1), policy, Seq(0), 0);
    lane.offer(&offer(1, "a"), START);
    run(&mut lane, START, &unacknowledged());
    lane.on_opened(vec![opened(1, 1, "a", OpenState::Pending)], START);
    let again = sends(&mut lane, START);
    assert_eq!((again[0].seq, again[0].round), (Seq(1), 1));
    report(&mut lane, again[0], Verdict::Acked(Evidence::Body), START);

    lane.offer(&offer(2, "b"), START);
    lane.offer(&offer(3, "b"), START);
    let attempt = sends(&mut lane, START)[0];
    report(&mut lane, attempt, Verdict::Acked(Evidence::Body), START);
    run(&mut lane, START, &unacknowledged());
    lane.on_opened(vec![opened(2, 1, "b", OpenState::Pending)], START);
    assert_eq!(seqs(&sends(&mut lane, START)), [2], "3 is outstanding: it is not sent again");
}

#[test]
fn a_bulk_redrive_stays_within_the_window_and_in_order() {
    for order in [Order::Subject, Order::None] {
        let mut lane = lane(order);
        lane.set_room(WINDOW_MIN);
        lane.hear_of(Seq(500));
        assert!(matches!(lane.poll(START), Some(Action::Load { .. })));
        lane.on_loaded(Vec::new(), Seq(500), START);
        let mut store: BTreeMap<Place, OpenDelivery> = BTreeMap::new();
        for seq in 1..=500 {
            let open = opened(seq, 0, "a", OpenState::Pending);
            store.insert((Seq(seq), 0), open.clone());
            lane.on_opened(vec![open], START);
            assert!(lane.loaded() <= WINDOW_MIN);
        }
        let mut acked = Vec::new();
        while let Some(action) = lane.poll(START) {
            match action {
                Action::Send(attempt) => {
                    store.remove(&(attempt.seq, attempt.round));
                    acked.push(attempt.seq.0);
                    report(&mut lane, attempt, Verdict::Acked(Evidence::Body), START);
                }
                Action::LoadLine { subject, test } => {
                    let page: Vec<OpenDelivery> = store.values().take(16).cloned().collect();
                    let more = store.len() > 16;
                    lane.on_line_loaded(&subject, test, page, more, START);
                }
                Action::LoadOpen { after, limit } => {
                    let rest = store.iter().filter(|(place, _)| **place > after);
                    let page: Vec<OpenDelivery> = rest.take(limit).map(|(_, open)| open.clone()).collect();
                    let next = (page.len() == limit).then(|| page[limit - 1].key).map(|key| (key.seq, key.round));
                    lane.on_open_loaded(page, next, START);
                }
                _ => {}
            }
        }
        assert_eq!(acked, (1..=500).collect::<Vec<u64>>(), "{order:?}");
    }
}
