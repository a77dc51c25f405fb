//! How values are said on a page: states with a shape each, spans, ages, numbers. Pure.

use std::time::Duration;

use ess_core::delivery::State;
use ess_core::event::{Gone, GoneCause};
use ess_core::time::Time;
use ess_hub::overview::Condition;

/// A state as text and shape; its tone adds a colour, which never says anything alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pill {
    pub(crate) word: &'static str,
    /// The symbol's name in the page's sprite.
    pub(crate) icon: &'static str,
    /// `good`, `bad`, `warn`, `calm`.
    pub(crate) tone: &'static str,
}

const fn pill(word: &'static str, icon: &'static str, tone: &'static str) -> Pill {
    Pill { word, icon, tone }
}

/// A moment with how long ago it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    /// RFC 3339.
    pub(crate) exact: String,
    /// Such as `3 min ago`.
    pub(crate) said: String,
}

impl Moment {
    /// A moment as seen from `now`.
    pub(crate) fn of(then: Time, now: Time) -> Self {
        Self { exact: to_second(then), said: ago(then, now) }
    }
}

/// All conditions of a partner, the worst first.
pub(crate) const CONDITIONS: [Condition; 8] = [
    Condition::Blocked,
    Condition::GivenUp,
    Condition::Offline,
    Condition::Unacknowledged,
    Condition::Retrying,
    Condition::Slow,
    Condition::Paused,
    Condition::Well,
];

/// A partner's condition.
pub(crate) fn of_condition(condition: Condition) -> Pill {
    match condition {
        Condition::Blocked => pill("blocked", "stop", "bad"),
        Condition::GivenUp => pill("given up", "cross", "bad"),
        Condition::Offline => pill("offline", "cut", "bad"),
        Condition::Unacknowledged => pill("no ACK", "question", "warn"),
        Condition::Retrying => pill("retrying", "again", "warn"),
        Condition::Slow => pill("slow", "clock", "warn"),
        Condition::Paused => pill("paused", "pause", "calm"),
        Condition::Well => pill("well", "check", "good"),
    }
}

/// A partner whose hub does not say how it stands.
pub(crate) const UNHEARD: Pill = pill("not known", "question", "warn");

/// What to say of so many of them.
pub(crate) fn unheard(partners: usize) -> Option<String> {
    let are = count(partners as u64, "partner", "partners");
    let text =
        format!("How {are} stand is not known now: the hub that serves them is being replaced or does not answer.");
    (partners > 0).then_some(text)
}

/// A hub among others.
pub(crate) fn of_node(state: &str) -> Pill {
    match state {
        "live" => pill("live", "check", "good"),
        "leaving" => pill("leaving", "skip", "calm"),
        _ => pill("not heard of", "cut", "bad"),
    }
}

/// A delivery's state.
pub(crate) fn of_state(state: State, is_paused: bool) -> Pill {
    if is_paused {
        return pill("paused", "pause", "calm");
    }
    match state {
        State::Pending | State::Sending => pill("pending", "clock", "calm"),
        State::AwaitingAck => pill("awaiting ACK", "question", "warn"),
        State::Retrying => pill("retrying", "again", "warn"),
        State::Blocked => pill("blocked", "stop", "bad"),
        State::Acked => pill("acknowledged", "check", "good"),
        State::Nack => pill("refused", "cross", "bad"),
        State::Dead => pill("dead letter", "cross", "bad"),
        State::Superseded => pill("superseded", "skip", "calm"),
        State::Cancelled => pill("cancelled", "skip", "calm"),
    }
}

/// A legal hold.
pub(crate) fn of_hold(is_in_force: bool) -> Pill {
    if is_in_force { pill("in force", "pause", "warn") } else { pill("lifted", "skip", "calm") }
}

/// Why Ops are told of a partner.
pub(crate) fn of_cause(cause: &str) -> Pill {
    match cause {
        "unacked" => pill("not acknowledged", "clock", "bad"),
        "blocked" => pill("blocked", "stop", "bad"),
        "offline" => pill("offline", "cut", "bad"),
        "gave_up" => pill("given up", "cross", "bad"),
        "dead_letter" => pill("dead letter", "cross", "bad"),
        "paused" => pill("paused", "pause", "calm"),
        "unacknowledged" => pill("no ACK", "question", "warn"),
        _ => pill("trouble", "cut", "bad"),
    }
}

/// How a target fares.
pub(crate) fn of_target(is_failing: bool) -> Pill {
    if is_failing { pill("failing", "cut", "bad") } else { pill("ready", "check", "good") }
}

/// What a target was told of a trouble.
pub(crate) fn of_telling(is_end: bool) -> Pill {
    if is_end { pill("over", "check", "good") } else { pill("begun", "cut", "warn") }
}

/// A payload that went.
pub(crate) fn of_gone(gone: &Gone) -> Pill {
    match gone.cause {
        GoneCause::Expired => pill("expired", "clock", "calm"),
        GoneCause::Redacted { .. } => pill("redacted", "skip", "warn"),
    }
}

/// How long ago, in one or two units.
pub(crate) fn ago(then: Time, now: Time) -> String {
    if then > now {
        // What is to come is told in whole seconds: it moves while it is read.
        let whole = then.since(now).as_secs() + 1;
        return format!("in {}", span(Duration::from_secs(whole)).replace(".0 s", " s"));
    }
    match now.since(then) {
        short if short < Duration::from_secs(1) => "just now".to_owned(),
        long => format!("{} ago", span(long)),
    }
}

/// A span, as exact as people want it.
pub(crate) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0 if span.as_micros() < 1_000 => format!("{} µs", span.as_micros()),
        0 if span.as_millis() < 10 => format!("{:.1} ms", span.as_secs_f64() * 1_000.0),
        0 => format!("{} ms", span.as_millis()),
        1..=9 => format!("{:.1} s", span.as_secs_f64()),
        10..=99 => format!("{s} s"),
        100..=5_999 => format!("{} min", s / 60),
        6_000..=172_799 => two(s / 3_600, "h", s / 60 % 60, "min"),
        _ => two(s / 86_400, "d", s / 3_600 % 24, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// A number with its thousands apart.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 partner`, `2 partners`.
pub(crate) fn count(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {more}", number(count)) }
}

/// A moment to the second, UTC.
pub(crate) fn to_second(time: Time) -> String {
    Time::from_micros(time.as_micros().div_euclid(1_000_000) * 1_000_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_numbers_are_said_as_people_say_them() {
        for (us, said) in [
            (512, "512 µs"),
            (1_500, "1.5 ms"),
            (250_000, "250 ms"),
            (1_500_000, "1.5 s"),
            (75_000_000, "75 s"),
            (180_000_000, "3 min"),
            (7_500_000_000, "2 h 5 min"),
            (259_200_000_000, "3 d"),
        ] {
            assert_eq!(span(Duration::from_micros(us)), said);
        }
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "event", "events"), count(0, "event", "events")), ("1 event".into(), "0 events".into()));
        let at = |s: i64| Time::from_micros(s * 1_000_000);
        assert_eq!(
            (ago(at(0), at(0)), ago(at(0), at(180)), ago(at(30), at(1))),
            ("just now".into(), "3 min ago".into(), "in 30 s".into())
        );
    }

    #[test]
    fn no_two_conditions_share_a_shape_or_a_word() {
        let mut seen = std::collections::BTreeSet::new();
        for condition in CONDITIONS {
            let pill = of_condition(condition);
            assert!(seen.insert(pill.icon) && seen.insert(pill.word), "{pill:?}");
        }
    }
}
