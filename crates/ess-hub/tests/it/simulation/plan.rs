//! What a seed draws: how many partners, how each is configured, when operators do what.

use std::time::Duration;

use ess_core::lane::Policy;
use ess_core::partner::{AckBy, AckPolicy, Limits, Order, Redrive, RetryPolicy};

use super::dice::Dice;
use super::operator::Act;

/// Subjects that events are about.
pub const SUBJECTS: u64 = 6;

const ACTS: [Act; 9] = [
    Act::Pause,
    Act::Reconfigure,
    Act::RemoveBridge,
    Act::AddBridges,
    Act::Replay,
    Act::Replay,
    Act::Redrive,
    Act::Discard,
    Act::Cancel,
];

/// A partner's whole configuration.
pub fn policy(dice: &mut Dice) -> Policy {
    let by = dice.pick(&[AckBy::Body, AckBy::Body, AckBy::Status, AckBy::Callback]);
    Policy { order: order(dice), retry: retry(dice), ack: ack(dice, by), limits: limits(dice), fallback_after: None }
}

/// Another configuration of the same partner: what it takes for a receipt stays, as its program does.
pub fn other_policy(dice: &mut Dice, before: &Policy) -> Policy {
    let mut policy = before.clone();
    match dice.below(4) {
        0 | 1 => policy.order = order(dice),
        2 => policy.limits = limits(dice),
        _ => (policy.retry, policy.ack) = (retry(dice), ack(dice, before.ack.by)),
    }
    policy
}

fn order(dice: &mut Dice) -> Order {
    dice.pick(&[Order::Subject, Order::Subject, Order::Latest, Order::None])
}

fn ack(dice: &mut Dice, by: AckBy) -> AckPolicy {
    AckPolicy { by, within: seconds(dice.pick(&[5, 30, 600])), resend: dice.pick(&[0, 1, 3]), place: None }
}

fn retry(dice: &mut Dice) -> RetryPolicy {
    RetryPolicy {
        first: seconds(dice.pick(&[1, 5, 60])),
        factor: dice.pick(&[1.0, 2.0, 3.0]),
        max: seconds(dice.pick(&[60, 600, 3_600])),
        jitter: dice.pick(&[0.0, 0.2, 0.5]),
        give_up_after: seconds(dice.pick(&[600, 21_600, 86_400, 3_600_000])),
        redrive: dice.pick(&[Redrive::OnRecovery, Redrive::OnRecovery, Redrive::Manual]),
    }
}

fn limits(dice: &mut Dice) -> Limits {
    Limits { in_flight: dice.pick(&[1, 2, 16, 64]), per_second: dice.pick(&[0.0, 0.0, 5.0, 100.0]) }
}

/// When which operator's act falls on a partner.
pub fn acts(dice: &mut Dice, horizon: Duration) -> Vec<(Duration, Act)> {
    let count = dice.pick(&[0, 2, 6, 12]);
    (0..count).map(|_| (dice.span(Duration::ZERO, horizon), dice.pick(&ACTS))).collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
