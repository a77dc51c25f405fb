//! Which of several addresses is asked first, and whether another one may be asked after it. Pure: time is an argument.
//!
//! An address that failed is left alone for a while, each time twice as long; it is asked all the same when no other answers.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

/// How long an address is left alone that failed once.
const REST_FIRST: Duration = Duration::from_secs(1);
/// How long at most.
const REST_MAX: Duration = Duration::from_secs(30);

/// What is known of each address.
#[derive(Debug)]
pub(super) struct Route(Vec<Standing>);

#[derive(Debug, Clone, Default)]
struct Standing {
    answered_at: Option<Instant>,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Route {
    /// So many addresses of which nothing is known.
    pub(super) fn new(count: usize) -> Self {
        Self(vec![Standing::default(); count])
    }

    /// All of them: those that do not rest first, of these the last to answer; else as they were named.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|at| {
            let standing = &self.0[*at];
            let rests_until = standing.rests_until.filter(|until| *until > now);
            (rests_until, Reverse(standing.answered_at.filter(|_| rests_until.is_none())))
        });
        order
    }

    /// It answered: it is asked first from now on.
    pub(super) fn note_answer(&mut self, at: usize, now: Instant) {
        self.0[at] = Standing { answered_at: Some(now), failures: 0, rests_until: None };
    }

    /// It failed.
    pub(super) fn note_failure(&mut self, at: usize, now: Instant) {
        let standing = &mut self.0[at];
        let rest = REST_FIRST.saturating_mul(1 << standing.failures.min(10)).min(REST_MAX);
        standing.failures = standing.failures.saturating_add(1);
        standing.rests_until = Some(now + rest);
    }
}

/// Whether an answer says that another address may do: the hub stops or is too busy, or a balancer found none.
pub(super) fn passes_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Whether a request may be made twice: it changes nothing, or an id makes it one.
pub(super) fn is_repeatable(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let by_id = ["/v1/events", "/v1/acks", "/v1/bridges/try", "/v1/bridges/test"];
    *method == Method::GET || (*method == Method::POST && by_id.contains(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(route: &Route, now: Instant, order: &[usize]) {
        assert_eq!(route.order(now), order);
    }

    #[test]
    fn the_last_to_answer_is_asked_first_and_one_that_failed_rests_twice_as_long_each_time() {
        let (mut route, zero) = (Route::new(3), Instant::now());
        let at = |ms: u64| zero + Duration::from_millis(ms);
        check(&route, at(0), &[0, 1, 2]);
        route.note_answer(2, at(0));
        route.note_failure(0, at(0));
        check(&route, at(999), &[2, 1, 0]);
        check(&route, at(1_000), &[2, 0, 1]);
        route.note_failure(2, at(1_000));
        route.note_failure(0, at(1_000));
        // Both rest: the one whose rest ends first goes first.
        check(&route, at(1_500), &[1, 2, 0]);
        check(&route, at(2_999), &[2, 1, 0]);
        check(&route, at(3_000), &[2, 0, 1]);
        for _ in 0..100 {
            route.note_failure(1, at(0));
        }
        check(&route, at(29_999), &[2, 0, 1]);
        route.note_answer(0, at(29_999));
        check(&route, at(30_000), &[0, 2, 1]);
    }

    #[test]
    fn what_changes_something_is_asked_once() {
        for (method, path) in [
            (Method::GET, "/v1/partners"),
            (Method::POST, "/v1/events"),
            (Method::POST, "/v1/events?plan=true"),
            (Method::POST, "/v1/acks"),
        ] {
            assert!(is_repeatable(&method, path), "{method} {path}");
        }
        for (method, path) in [
            (Method::POST, "/v1/partners/COURT-CAL/test"),
            (Method::POST, "/v1/events/A-V1/replay"),
            (Method::POST, "/v1/partners?replace=true"),
            (Method::POST, "/v1/tokens"),
            (Method::DELETE, "/v1/partners/COURT-CAL"),
        ] {
            assert!(!is_repeatable(&method, path), "{method} {path}");
        }
    }
}
