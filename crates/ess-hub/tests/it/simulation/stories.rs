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
        ack: AckPolicy { by, within: Duration::from_secs(30), resend: 3 },
        limits: Limits { in_flight: 16, per_second: 0.0 },
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
