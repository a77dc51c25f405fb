//! When Ops are told, with the time in the hand.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const DISTANCE: Duration = Duration::from_secs(300);
const NO: PartnerNo = PartnerNo(1);

fn at(seconds: u64) -> Time {
    // A Tuesday, 03:00 in Chicago.
    Time::parse_rfc3339("2026-11-24T09:00:00Z").unwrap().after(Duration::from_secs(seconds))
}

fn trouble(urgent: bool) -> Trouble {
    Trouble { since: at(0), count: 500, has_more: false, oldest: None, error: None, mend: None, urgent }
}

fn watch(targets: &[(&str, Option<&str>)]) -> Watch {
    let rules =
        |quiet: Option<&str>| TargetRules { quiet: quiet.map(|text| Quiet::parse(text).unwrap()), again_every: None };
    let targets = targets.iter().map(|(name, quiet)| ((*name).to_owned(), rules(*quiet))).collect();
    Watch::new(Rules { distance: DISTANCE }, targets)
}

fn see(watch: &mut Watch, trouble: Option<Trouble>, now: Time) {
    let to = ["ops".to_owned(), "pager".to_owned()];
    let settle = Duration::ZERO;
    watch.see(Sighting { partner: NO, cause: Cause::Unacked, trouble, to: &to, settle }, now);
}

/// Sends whatever is due; answers `begun` and `ended` with their targets.
fn tell(watch: &mut Watch, now: Time) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(telling) = watch.next(now) {
        watch.on_told(&telling, true, now);
        said.push(word(&telling));
    }
    said
}

fn word(telling: &Telling) -> String {
    let word = match telling.told {
        Told::Begun(_) => "begun",
        Told::Lasts(..) => "lasts",
        Told::Ended(_) => "ended",
    };
    format!("{} {word}", telling.target)
}

#[test]
fn five_hundred_events_are_one_message_and_their_end_another() {
    let mut watch = watch(&[("ops", None), ("pager", None)]);
    let mut said = Vec::new();
    for second in 0..500 {
        see(&mut watch, Some(Trouble { count: second, ..trouble(false) }), at(second));
        said.extend(tell(&mut watch, at(second)));
    }
    assert_eq!(said, ["ops begun", "pager begun"]);
    see(&mut watch, None, at(500));
    assert_eq!(tell(&mut watch, at(500)), ["ops ended", "pager ended"]);
    assert!(watch.next_timeout(at(500)).is_none());
    see(&mut watch, None, at(2_000));
    assert!(watch.partners().is_empty());
}

#[test]
fn what_an_earlier_run_told_is_neither_repeated_nor_forgotten() {
    let mut watch = watch(&[("ops", None), ("pager", None)]);
    let open = Open { told_at: at(0), since: at(0), urgent: false };
    watch.restore(NO, Cause::Unacked, "ops", open.clone());
    watch.restore(NO, Cause::Unacked, "no-more", open);
    see(&mut watch, Some(trouble(false)), at(400));
    assert_eq!(tell(&mut watch, at(400)), ["pager begun"]);
    see(&mut watch, None, at(401));
    assert_eq!(tell(&mut watch, at(401)), ["ops ended", "pager ended"]);
}

#[test]
fn quiet_hours_hold_what_is_routine_and_nothing_is_told_of_what_passed_within_them() {
    let mut watch = watch(&[("ops", Some("22:00-06:00 America/Chicago")), ("pager", None)]);
    see(&mut watch, Some(trouble(false)), at(0));
    assert_eq!(tell(&mut watch, at(0)), ["pager begun"]);
    assert_eq!(watch.next_timeout(at(0)), Some(at(3 * 3600)));
    assert_eq!(watch.troubles(at(0))[0].waiting, [("ops".to_owned(), at(3 * 3600))]);
    assert!(tell(&mut watch, at(3 * 3600 - 1)).is_empty());
    assert_eq!(tell(&mut watch, at(3 * 3600)), ["ops begun"]);

    let mut watch = self::watch(&[("ops", Some("22:00-06:00 America/Chicago"))]);
    see(&mut watch, Some(trouble(false)), at(0));
    see(&mut watch, None, at(3600));
    assert!(tell(&mut watch, at(3 * 3600)).is_empty());
}

#[test]
fn urgent_things_pass_quiet_hours_and_so_does_their_end() {
    let mut watch = watch(&[("ops", Some("22:00-06:00 America/Chicago"))]);
    see(&mut watch, Some(trouble(false)), at(0));
    assert!(tell(&mut watch, at(0)).is_empty());
    see(&mut watch, Some(trouble(true)), at(10));
    assert_eq!(tell(&mut watch, at(10)), ["ops begun"]);
    see(&mut watch, None, at(20));
    assert_eq!(tell(&mut watch, at(20)), ["ops ended"]);
}

#[test]
fn a_target_that_fails_is_left_alone_for_longer_and_holds_no_other_up() {
    let mut watch = watch(&[("ops", None), ("pager", None)]);
    see(&mut watch, Some(trouble(false)), at(0));
    let first = watch.next(at(0)).unwrap();
    assert_eq!(word(&first), "ops begun");
    assert_eq!(tell(&mut watch, at(0)), ["pager begun"]);
    let mut now = at(0);
    let mut telling = first;
    let mut waits = Vec::new();
    for _ in 0..9 {
        watch.on_told(&telling, false, now);
        let next = watch.next_timeout(now).unwrap();
        waits.push(next.since(now).as_secs());
        now = next;
        telling = watch.next(now).unwrap();
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
    // What ended meanwhile is not told when it is back.
    watch.on_told(&telling, false, now);
    see(&mut watch, None, now);
    let later = now.after(RETRY_MAX);
    assert_eq!(tell(&mut watch, later), ["pager ended"]);
}

#[test]
fn trouble_has_to_last_before_it_is_told_where_it_may_pass_by_itself() {
    let mut watch = watch(&[("ops", None)]);
    let to = ["ops".to_owned()];
    let settle = Cause::Unacked.settle(Duration::from_secs(900));
    let sighting = |trouble| Sighting { partner: NO, cause: Cause::Unacked, trouble, to: &to, settle };
    watch.see(sighting(Some(trouble(false))), at(0));
    assert!(tell(&mut watch, at(29)).is_empty());
    watch.see(sighting(None), at(29));
    watch.see(sighting(Some(trouble(false))), at(30));
    assert!(tell(&mut watch, at(59)).is_empty());
    assert_eq!(tell(&mut watch, at(60)), ["ops begun"]);
}

#[test]
fn a_target_that_forgets_is_told_again() {
    let every = Duration::from_secs(60);
    let rules = TargetRules { quiet: None, again_every: Some(every) };
    let mut watch = Watch::new(Rules { distance: DISTANCE }, BTreeMap::from([("ops".to_owned(), rules)]));
    see(&mut watch, Some(trouble(false)), at(0));
    assert_eq!(tell(&mut watch, at(0)), ["ops begun"]);
    assert_eq!(watch.next_timeout(at(0)), Some(at(60)));
    assert!(tell(&mut watch, at(59)).is_empty());
    assert_eq!(tell(&mut watch, at(60)), ["ops lasts"]);
    see(&mut watch, None, at(61));
    assert_eq!(tell(&mut watch, at(61)), ["ops ended"]);
}

#[derive(Debug, Clone)]
enum Step {
    Wrong(u32, Cause, bool),
    Right(u32, Cause),
    Pass(u64),
    Send(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let cause = prop::sample::select(vec![Cause::Offline, Cause::Blocked]);
    prop_oneof![
        (1u32..3, cause.clone(), any::<bool>()).prop_map(|(no, cause, urgent)| Step::Wrong(no, cause, urgent)),
        (1u32..3, cause).prop_map(|(no, cause)| Step::Right(no, cause)),
        (0u64..400).prop_map(Step::Pass),
        prop::bool::weighted(0.7).prop_map(Step::Send),
    ]
}

proptest! {
    #[test]
    fn beginnings_and_ends_alternate_and_flapping_is_bounded(steps in prop::collection::vec(step(), 1..200)) {
        let mut watch = watch(&[("ops", Some("22:00-06:00 America/Chicago")), ("pager", None)]);
        let to = ["ops".to_owned(), "pager".to_owned()];
        let mut now = at(0);
        let mut open: BTreeMap<(PartnerNo, Cause, String), bool> = BTreeMap::new();
        let mut begun: BTreeMap<(PartnerNo, Cause, String), Time> = BTreeMap::new();
        let mut is_wrong: BTreeMap<Key, bool> = BTreeMap::new();
        let mut steps = steps;
        // In the end everything is right, and there is time to say so.
        for no in 1..3 {
            steps.extend([Cause::Offline, Cause::Blocked].map(|cause| Step::Right(no, cause)));
        }
        for _ in 0..20 {
            steps.extend([Step::Pass(86_400), Step::Send(true)]);
        }
        for step in steps {
            let (key, trouble) = match step {
                Step::Pass(seconds) => { now = now.after(Duration::from_secs(seconds)); continue }
                Step::Send(has_arrived) => {
                    let Some(telling) = watch.next(now) else { continue };
                    let place = (telling.partner, telling.cause, telling.target.clone());
                    let was_open = open.get(&place).copied().unwrap_or(false);
                    let wrong = is_wrong.get(&(telling.partner, telling.cause)).copied().unwrap_or(false);
                    match &telling.told {
                        Told::Begun(trouble) => {
                            prop_assert!(!was_open && wrong);
                            prop_assert!(trouble.urgent || telling.target == "pager"
                                || Quiet::parse("22:00-06:00 America/Chicago").unwrap().end(now).is_none());
                            if let Some(before) = begun.get(&place) {
                                prop_assert!(now >= before.after(DISTANCE));
                            }
                            if has_arrived { begun.insert(place.clone(), now); }
                        }
                        Told::Ended(_) => prop_assert!(was_open && !wrong),
                        Told::Lasts(..) => prop_assert!(false),
                    }
                    if has_arrived { open.insert(place, !was_open); }
                    watch.on_told(&telling, has_arrived, now);
                    continue;
                }
                Step::Wrong(no, cause, urgent) => ((PartnerNo(no), cause), Some(self::trouble(urgent))),
                Step::Right(no, cause) => ((PartnerNo(no), cause), None),
            };
            is_wrong.insert(key, trouble.is_some());
            watch.see(Sighting { partner: key.0, cause: key.1, trouble, to: &to, settle: Duration::ZERO }, now);
        }
        prop_assert!(open.values().all(|is_open| !is_open), "{open:?}");
    }
}
