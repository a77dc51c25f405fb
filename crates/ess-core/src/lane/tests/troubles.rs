//! Stories of partners in trouble: given up, told of retractions, reached by the fallback channel; and of urgent events.

use super::*;

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

/// What the lane asks for now; attempts are not answered.
fn actions(lane: &mut Lane, now: Time) -> Vec<Action> {
    std::iter::from_fn(|| lane.poll(now)).collect()
}

fn ends(actions: &[Action]) -> Vec<(u64, State)> {
    let ended = |action: &Action| match action {
        Action::Record(record) => match &**record {
            Record::Ended { open, ended } => Some((open.key.seq.0, ended.state)),
            Record::Acked { seq, .. } => Some((seq.0, State::Acked)),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(ended).collect()
}

fn attempts(actions: &[Action]) -> Vec<Attempt> {
    let sent = |action: &Action| if let Action::Send(attempt) = action { Some(*attempt) } else { None };
    actions.iter().filter_map(sent).collect()
}

fn fallbacks(actions: &[Action]) -> Vec<Attempt> {
    let sent = |action: &Action| if let Action::SendFallback(attempt) = action { Some(*attempt) } else { None };
    actions.iter().filter_map(sent).collect()
}

/// Lets the partner fail every attempt until `until`; answers what the lane did meanwhile, attempts left out, and the last attempt.
fn fail_until(lane: &mut Lane, mut now: Time, until: Time) -> Vec<Action> {
    let mut done = Vec::new();
    loop {
        for action in actions(lane, now) {
            match action {
                Action::Send(attempt) => report(lane, attempt, failure(), now),
                other => done.push(other),
            }
        }
        match lane.next_timeout() {
            Some(due) if due <= until => {
                now = now.max(due);
                lane.on_timeout(now);
            }
            _ => {
                done.extend(actions(lane, now));
                return done;
            }
        }
    }
}

fn lane_of(change: impl FnOnce(&mut Policy)) -> Lane {
    let mut policy = policy(Order::Subject);
    change(&mut policy);
    Lane::new(PartnerNo(1), policy, Seq(0), 0)
}

#[test]
fn an_offline_partner_is_given_up_as_a_whole_and_gets_everything_in_order_when_it_answers() {
    let mut lane = lane_of(|_| {});
    for seq in 1..=4 {
        lane.offer(&offer(seq, if seq == 3 { "b" } else { "a" }), START);
    }
    let done = fail_until(&mut lane, START, START.after(hours(63)));
    let gave_up = done.iter().filter(|action| matches!(action, Action::GaveUp { .. })).count();
    let dead = done.iter().filter(|action| matches!(action, Action::WaitsAsDead { .. })).count();
    assert_eq!((gave_up, dead), (1, 4));
    assert!(ends(&done).is_empty(), "the lane keeps them for the recovery");

    // What comes now is a dead letter at once, and the lane goes on probing.
    let mut now = START.after(hours(64));
    lane.offer(&offer(5, "c"), now);
    let mut seen = Vec::new();
    let mut recoveries = 0;
    while let Some(due) = lane.next_timeout().map(|due| due.max(now)) {
        now = due;
        lane.on_timeout(now);
        let mut more = actions(&mut lane, now);
        while !more.is_empty() {
            recoveries += more
                .iter()
                .filter(|action| matches!(action, Action::Recovered { before } if before.gave_up_at.is_some()))
                .count();
            for attempt in attempts(&more) {
                seen.push(attempt.seq.0);
                report(&mut lane, attempt, Verdict::Acked(Evidence::Body), now);
            }
            more = actions(&mut lane, now);
        }
    }
    let of_a: Vec<u64> = seen.iter().copied().filter(|seq| matches!(seq, 1 | 2 | 4)).collect();
    assert_eq!((of_a, seen.len(), recoveries), (vec![1, 2, 4], 5, 1));
}

#[test]
fn a_partner_that_answers_others_keeps_its_dead_letter_to_itself() {
    let mut lane = lane_of(|_| {});
    lane.offer(&offer(1, "a"), START);
    let mut now = START;
    let mut done = Vec::new();
    for seq in 2.. {
        // Event 1 always fails, all others are acknowledged: the partner never goes offline.
        lane.offer(&offer(seq, "b"), now);
        for action in actions(&mut lane, now) {
            match action {
                Action::Send(attempt) if attempt.seq == Seq(1) => report(&mut lane, attempt, failure(), now),
                Action::Send(attempt) => report(&mut lane, attempt, Verdict::Acked(Evidence::Body), now),
                other => done.push(other),
            }
        }
        done.extend(actions(&mut lane, now));
        if ends(&done).contains(&(1, State::Dead)) {
            break;
        }
        now = now.after(hours(1));
        lane.on_timeout(now);
        assert!(now < START.after(hours(30)), "given up by its own patience");
    }
    assert!(now >= START.after(hours(24)));
}

#[test]
fn under_manual_redrive_they_end_and_an_operator_opens_them_again() {
    let mut lane = lane_of(|policy| policy.retry.redrive = Redrive::Manual);
    for seq in 1..=3 {
        lane.offer(&offer(seq, "a"), START);
    }
    let done = fail_until(&mut lane, START, START.after(hours(63)));
    assert_eq!(ends(&done), [(1, State::Dead), (2, State::Dead), (3, State::Dead)]);
    assert_eq!(lane.loaded(), 0);

    // What comes later is a probe; its failure ends it, too.
    let now = START.after(hours(70));
    lane.offer(&offer(4, "a"), now);
    let done = fail_until(&mut lane, now, now.after(hours(2)));
    assert_eq!(ends(&done), [(4, State::Dead)]);

    lane.on_command(Command::Redrive, now);
    lane.on_opened(vec![offer(1, "a").to_open(PartnerNo(1), Some(1))], now);
    assert_eq!(seqs(&attempts(&actions(&mut lane, now))), [1]);
}

#[test]
fn redriving_a_given_up_partner_tries_at_once_with_new_patience() {
    let mut lane = lane_of(|_| {});
    lane.offer(&offer(1, "a"), START);
    fail_until(&mut lane, START, START.after(hours(30)));
    let now = START.after(hours(30));
    lane.on_command(Command::Redrive, now);
    let done = actions(&mut lane, now);
    assert_eq!(seqs(&attempts(&done)), [1]);
    report(&mut lane, attempts(&done)[0], failure(), now);
    let done = fail_until(&mut lane, now, now.after(hours(23)));
    assert!(!done.iter().any(|action| matches!(action, Action::GaveUp { .. })));
}

fn urgent(seq: u64, subject: &str) -> Offer {
    Offer { priority: Priority::Urgent, ..offer(seq, subject) }
}

#[test]
fn an_urgent_event_overtakes_the_backlog_in_the_store_but_not_its_own_subject() {
    let mut lane = lane_of(|policy| policy.limits.in_flight = 1);
    lane.set_room(WINDOW_MIN);
    for seq in 1..=500 {
        lane.offer(&offer(seq, &format!("s{seq}")), START);
    }
    assert!(!lane.offer(&urgent(501, "u"), START));
    let done = actions(&mut lane, START);
    let asked = done.iter().find_map(|action| match action {
        Action::LoadUrgent { after, .. } => Some(*after),
        _ => None,
    });
    assert_eq!(asked, Some(Seq(WINDOW_MIN as u64)));
    // The store names 501 with its distance; had "u" something older in the backlog, it would not.
    lane.on_urgent_loaded(vec![(urgent(501, "u"), 501 - WINDOW_MIN as u64)], Seq(501), false, START);
    report(&mut lane, attempts(&done)[0], Verdict::Acked(Evidence::Body), START);
    let next = attempts(&actions(&mut lane, START));
    assert_eq!((next[0].seq, next[0].partner_seq), (Seq(501), Some(501)));
    report(&mut lane, next[0], Verdict::Acked(Evidence::Body), START);
    assert_eq!(attempts(&actions(&mut lane, START))[0].seq, Seq(2));

    // The backlog comes in its turn and does not bring it twice, and counts it.
    let mut sent = Vec::new();
    let mut at = WINDOW_MIN as u64;
    report(&mut lane, Attempt { seq: Seq(2), ..next[0] }, Verdict::Acked(Evidence::Body), START);
    for _ in 0..600 {
        for action in actions(&mut lane, START) {
            match action {
                Action::Send(attempt) => {
                    sent.push((attempt.seq.0, attempt.partner_seq));
                    report(&mut lane, attempt, Verdict::Acked(Evidence::Body), START);
                }
                Action::Load { limit, .. } => {
                    let to = 502.min(at + limit as u64);
                    let of = |seq| if seq == 501 { urgent(seq, "u") } else { offer(seq, &format!("s{seq}")) };
                    lane.on_loaded((at + 1..=to).map(of).collect(), Seq(to), START);
                    at = to;
                }
                _ => {}
            }
        }
        if at < 502 {
            lane.hear_of(Seq(502));
        }
    }
    assert_eq!(sent.iter().filter(|(seq, _)| *seq == 501).count(), 0);
    assert_eq!(sent.last(), Some(&(502, Some(502))));
}

#[test]
fn what_a_retraction_takes_back_is_not_sent_and_who_never_got_it_is_spared() {
    let mut lane = lane_of(|policy| policy.limits.in_flight = 1);
    lane.offer(&offer(1, "busy"), START);
    let first = sends(&mut lane, START);
    lane.offer(&offer(2, "a"), START);
    let retraction = Offer { kind: Kind::Retraction, ..offer(3, "a") };
    lane.offer(&retraction, START);
    assert!(!lane.take_back(&[offer(2, "a")], "retracted by R", START));
    lane.spare(&retraction, "was never sent what it takes back", START);
    assert_eq!(ends(&actions(&mut lane, START)), [(2, State::Cancelled), (3, State::Cancelled)]);
    report(&mut lane, first[0], Verdict::Acked(Evidence::Body), START);
    assert!(attempts(&actions(&mut lane, START)).is_empty());
}

#[test]
fn a_retraction_waits_for_the_attempt_under_way_which_is_the_last_and_whose_ack_counts() {
    for verdict in [failure(), Verdict::Acked(Evidence::Body), Verdict::Received] {
        let mut lane = lane_of(|_| {});
        lane.offer(&offer(1, "a"), START);
        let first = sends(&mut lane, START)[0];
        let retraction = Offer { kind: Kind::Retraction, ..offer(2, "a") };
        assert!(lane.take_back(&[offer(1, "a")], "retracted by R", START));
        lane.offer(&retraction, START);
        assert!(attempts(&actions(&mut lane, START)).is_empty(), "it would overtake on the wire");
        let is_ack = verdict == Verdict::Acked(Evidence::Body);
        report(&mut lane, first, verdict, START);
        let done = actions(&mut lane, START);
        let state = if is_ack { State::Acked } else { State::Cancelled };
        assert_eq!((ends(&done), seqs(&attempts(&done))), (vec![(1, state)], vec![2]));
    }
}

#[test]
fn what_waits_in_the_store_is_taken_back_before_it_comes() {
    let mut lane = lane_of(|policy| policy.limits.in_flight = 1);
    lane.set_room(WINDOW_MIN);
    for seq in 1..=100 {
        lane.offer(&offer(seq, &format!("s{seq}")), START);
    }
    assert!(!lane.take_back(&[offer(90, "s90")], "retracted by R", START));
    assert_eq!(ends(&actions(&mut lane, START)), [(90, State::Cancelled)]);
    lane.on_loaded((65..=100).map(|seq| offer(seq, &format!("s{seq}"))).collect(), Seq(100), START);
    assert_eq!(lane.loaded(), 99);
}

#[test]
fn the_fallback_goes_out_after_its_time_and_the_first_ack_ends_the_delivery() {
    let fallback = Duration::from_secs(600);
    let mut lane = lane_of(|policy| policy.fallback_after = Some(fallback));
    lane.offer(&offer(1, "a"), START);
    lane.offer(&offer(2, "a"), START);
    let done = fail_until(&mut lane, START, START.after(fallback));
    let other = fallbacks(&done);
    assert_eq!(seqs(&other), [1], "only what has its turn");
    let now = START.after(fallback);
    lane.on_fallback_report(
        Report {
            attempt: other[0],
            outcome: Outcome::Verdict(Verdict::Acked(Evidence::Body)),
            sent: None,
            tried: tried(&other[0], now),
        },
        now,
        0.5,
    );
    let done = actions(&mut lane, now);
    assert_eq!(ends(&done), [(1, State::Acked)]);
    assert!(lane.offline_since().is_some(), "the other channel says nothing of the partner's own");
    lane.on_timeout(now);
    assert_eq!(seqs(&fallbacks(&actions(&mut lane, now))), [2], "recorded as long ago");
}

#[test]
fn a_fallback_that_took_the_message_is_not_tried_again_even_after_a_restart() {
    let fallback = Duration::from_secs(600);
    let mut lane = lane_of(|policy| policy.fallback_after = Some(fallback));
    lane.offer(&offer(1, "a"), START);
    let done = fail_until(&mut lane, START, START.after(fallback));
    let now = START.after(fallback);
    let attempt = fallbacks(&done)[0];
    let outcome = Outcome::Verdict(Verdict::Received);
    lane.on_fallback_report(Report { attempt, outcome, sent: None, tried: tried(&attempt, now) }, now, 0.5);
    let recorded = actions(&mut lane, now).into_iter().find_map(|action| match action {
        Action::Record(record) => match *record {
            Record::Failed { open, .. } => Some(open),
            _ => None,
        },
        _ => None,
    });
    let open = recorded.expect("the attempt is recorded");
    assert_eq!(open.fallback_at, Some(now));
    let mut lane = lane_of(|policy| policy.fallback_after = Some(fallback));
    lane.on_opened(vec![open], now);
    let done = fail_until(&mut lane, now, now.after(hours(3)));
    assert!(fallbacks(&done).is_empty());
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, now));
}
