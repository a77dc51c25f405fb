//! Worlds with one story each: a weekend in the dark, ACKs that come late and twice, a partner that never acknowledges.

use std::collections::BTreeMap;
use std::time::Duration;

use ess_core::lane::{Policy, WINDOW};
use ess_core::partner::{AckBy, AckPolicy, Limits, Order, Redrive, RetryPolicy};

use super::dice::Dice;
use super::partner::{Mood, PartnerModel};
use super::site::Site;
use super::world::{Played, World};

const HOUR: Duration = Duration::from_secs(3_600);

/// The contract's defaults.
fn defaults(order: Order, by: AckBy) -> Policy {
    Policy {
        order,
        retry: RetryPolicy {
            first: Duration::from_secs(5),
            factor: 2.0,
            max: HOUR,
            jitter: 0.2,
            give_up_after: 24 * HOUR,
            redrive: Redrive::OnRecovery,
        },
        ack: AckPolicy { by, within: Duration::from_secs(30), resend: 3, place: None },
        limits: Limits { in_flight: 16, per_second: 0.0 },
        fallback_after: None,
    }
}

fn site(policy: Policy, moods: Vec<(Duration, Mood)>) -> Site {
    let model = PartnerModel::only(Dice::new(7, 2), policy.ack.by, moods);
    Site::with(policy, model, Dice::new(7, 1), vec![true; 6], WINDOW)
}

#[track_caller]
fn play(world: World) -> Played {
    world.play().unwrap_or_else(|failure| panic!("{failure}"))
}

/// How often each delivery was sent.
fn counts(played: &Played, partner: usize) -> BTreeMap<super::kept::Place, u32> {
    let mut counts = BTreeMap::new();
    for (_, place, _) in &played.sends[partner] {
        *counts.entry(*place).or_default() += 1;
    }
    counts
}

#[test]
fn a_partner_dark_for_a_weekend_misses_nothing_and_duplicates_nothing() {
    for order in [Order::Subject, Order::None] {
        let mut world = World::empty(63, Dice::new(63, 0));
        let weekend = 63 * HOUR;
        world.sites.push(site(defaults(order, AckBy::Body), vec![(HOUR, Mood::Dark), (HOUR + weekend, Mood::Healthy)]));
        for nth in 0..3_000 {
            world.publish_at(weekend * nth / 3_000);
        }
        for hour in [20, 41, 60] {
            world.crash_at(hour * HOUR);
        }
        let played = play(world);
        let counts = counts(&played, 0);
        // Some publishes fall into the minutes in which the hub is down.
        assert!(played.events > 2_900, "{} events", played.events);
        assert_eq!(counts.len() as u64, played.events, "every event was sent");
        let after: Vec<_> = played.sends[0].iter().filter(|(at, _, _)| *at > HOUR + weekend).collect();
        let mut once = BTreeMap::new();
        for (_, place, _) in &after {
            *once.entry(*place).or_insert(0) += 1;
        }
        assert!(once.values().all(|sent| *sent == 1), "sent once after the weekend");
        let probes = played.sends[0].len() - after.len();
        let in_the_dark = counts.len() - once.len();
        assert!(
            probes - in_the_dark < 200,
            "{probes} attempts, {in_the_dark} of them before the dark: probes, no storm"
        );
    }
}

#[test]
fn late_and_doubled_acks_end_a_delivery_once_and_resends_are_bounded() {
    let mut world = World::empty(5, Dice::new(5, 0));
    for (by, mood) in [(AckBy::Callback, Mood::Healthy), (AckBy::Body, Mood::Silent), (AckBy::Body, Mood::AcksAnother)]
    {
        world.sites.push(site(defaults(Order::None, by), vec![(Duration::ZERO, mood)]));
    }
    for nth in 0..200 {
        world.publish_at(Duration::from_secs(60) * nth);
    }
    for nth in 1..6 {
        world.crash_at(Duration::from_secs(2_000) * nth);
    }
    let played = play(world);
    for partner in 0..3 {
        let counts = counts(&played, partner);
        // Once, three times again, and once more for each crash that fell upon it.
        assert!(counts.values().all(|sent| *sent <= 1 + 3 + 1), "{counts:?}");
        assert_eq!(counts.len() as u64, played.events);
    }
}
