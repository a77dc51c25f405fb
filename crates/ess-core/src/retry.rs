//! When the next attempt is due: exponential back-off with jitter.

use std::time::Duration;

use crate::partner::RetryPolicy;

/// The wait after the `failures`-th failure in a row (1 is the first).
///
/// `first * factor^(failures - 1)`, at most `max`, then spread by `1 ± jitter`; `dice` is uniform in `[0, 1)`.
#[must_use]
pub fn delay(policy: &RetryPolicy, failures: u32, dice: f64) -> Duration {
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = policy.first.as_secs_f64() * policy.factor.powi(exponent);
    let capped = grown.min(policy.max.as_secs_f64());
    let spread = 1.0 + policy.jitter * (2.0 * dice - 1.0);
    // A year bounds what a policy without a sensible `max` could ask for; NaN and negatives become zero.
    Duration::from_secs_f64((capped * spread).clamp(0.0, 365.0 * 86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::Redrive;

    fn policy(first: f64, factor: f64, max: f64, jitter: f64) -> RetryPolicy {
        RetryPolicy {
            first: Duration::from_secs_f64(first),
            factor,
            max: Duration::from_secs_f64(max),
            jitter,
            give_up_after: Duration::from_secs(86_400),
            redrive: Redrive::OnRecovery,
        }
    }

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let policy = policy(5.0, 2.0, 60.0, 0.0);
        let waits: Vec<u64> = (1..=6).map(|failures| delay(&policy, failures, 0.5).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    }

    proptest::proptest! {
        #[test]
        fn a_wait_stays_within_its_spread(failures in 1u32..1_000_000, dice in 0.0f64..1.0, jitter in 0.0f64..=1.0, factor in 1.0f64..100.0) {
            let policy = policy(5.0, factor, 3600.0, jitter);
            let wait = delay(&policy, failures, dice).as_secs_f64();
            proptest::prop_assert!(wait >= 5.0 * (1.0 - jitter) - 1e-6);
            proptest::prop_assert!(wait <= 3600.0 * (1.0 + jitter) + 1e-6);
        }
    }
}
