//! The payloads that scripts convert: made from a number, so that each run and each machine has the same.

use serde_json::{Value, json};

/// `$event`, as the hub binds it.
pub(super) fn event() -> Value {
    json!({
        "id": "RULE-COURT-DEADLINE-V3", "version": 3, "subject": "RULE-COURT-DEADLINE", "sequence": 41,
        "recorded_at": "2026-01-01T00:00:00.000000Z", "time": "2026-01-01T00:00:00.000000Z", "kind": "update",
        "priority": "normal", "source": null, "effective": null, "expires": null, "references": [], "test": false,
    })
}

/// A rule, about 1 KB.
pub(super) fn rule(number: usize) -> Value {
    json!({"rule": {
        "id": format!("RULE-COURT-DEADLINE-{number}"),
        "title": format!("Deadline of electronic filing, part {number}"),
        "summary": format!("  {}  ", text(number, 106)),
        "court": {"code": code(number), "name": format!("Circuit Court {number}"), "county": county(number), "state": "IL"},
        "deadline": {
            "time": format!("{:02}:{:02}", 8 + number % 10, number * 7 % 60), "days": 5 + number % 20,
            "timezone": if number.is_multiple_of(2) { "local" } else { "America/Chicago" },
        },
        "fee": {"amount": amount(number), "currency": "USD", "waivable": number.is_multiple_of(3)},
        "citations": [format!("735 ILCS 5/{number}-101"), "Ill. S. Ct. R. 9", "Ill. S. Ct. R. 183"],
        "contact": contact(number),
        "tags": ["efiling", "civil", if number.is_multiple_of(2) { "urgent" } else { "routine" }],
    }})
}

/// A rule with its sections, fees and courts, about 8 KB.
pub(super) fn handbook(number: usize) -> Value {
    let tags = ["civil", "criminal", "family", "probate", "appeal"];
    let section = |at: usize| {
        json!({
            "number": format!("{number}.{at}"), "title": format!(" Filing of papers {at} "),
            "text": text(number + at, 84), "pages": 1 + (number + at) % 7,
            "tags": [tags[(number + at) % 5], tags[(number + at * 3 + 1) % 5]],
        })
    };
    let fee = |at: usize| {
        json!({
            "code": format!("F-{number}-{at:02}"), "name": format!("Fee for filing {at}"),
            "amount": if at.is_multiple_of(5) { 0.0 } else { amount(number + at) }, "per": "filing",
            "court": code(at), "waivable": at.is_multiple_of(3),
        })
    };
    let court = |at: usize| {
        let judge = |seat: usize| contact(number + at * 5 + seat);
        json!({
            "code": code(at), "name": format!("Circuit Court {at}"), "county": county(at),
            "hours": if at == 3 { "08:30-22:00" } else { "08:30-16:30" },
            "judges": (0..3).map(judge).collect::<Vec<_>>(),
        })
    };
    json!({
        "rule": {
            "id": format!("RULE-HANDBOOK-{number}"), "title": format!("Handbook of filing {number}"), "state": "IL",
            "effective": format!("2026-{:02}-01", 1 + number % 12), "contact": contact(number),
        },
        "sections": (0..9).map(section).collect::<Vec<_>>(),
        "fees": (0..18).map(fee).collect::<Vec<_>>(),
        "courts": (0..5).map(court).collect::<Vec<_>>(),
    })
}

/// A docket of filings, about 94 KB.
pub(super) fn docket(number: usize) -> Value {
    let kinds = ["complaint", "motion", "answer", "notice", "brief", "order"];
    let filing = |at: usize| {
        let mixed = mix(number * 1_000 + at);
        json!({
            "id": format!("{number:02}-{mixed:06}-{at:03}"), "court": code(mixed), "kind": kinds[mixed / 7 % 6],
            "party": format!("Party {} and others", mixed % 211), "fee": amount(mixed),
            "filed": format!("2026-03-{:02}T{:02}:15:00Z", 1 + mixed % 28, 8 + mixed % 9), "pages": 1 + mixed % 43,
            "status": if mixed.is_multiple_of(6) { "open" } else { "closed" },
        })
    };
    json!({"docket": format!("2026-CV-{number}"), "filings": (0..610).map(filing).collect::<Vec<_>>()})
}

fn contact(number: usize) -> Value {
    let first = ["Ada", "Ben", "Cleo", "Dan"][number % 4];
    let last = ["Quinn", "Reyes", "Stone", "Tran", "Usher"][number % 5];
    let email = format!("{first}.{last}@Court.example");
    json!({"first": first, "last": last, "email": email, "phone": format!("555-01{:02}", number % 100)})
}

fn code(number: usize) -> String {
    format!("C{}", number % 5)
}

fn county(number: usize) -> &'static str {
    ["Cook", "DuPage", "Lake", "Will"][number % 4]
}

/// Dollars and cents.
fn amount(number: usize) -> f64 {
    (1_500 + number * 1_375 % 40_000) as f64 / 100.0
}

fn text(number: usize, words: usize) -> String {
    let known = ["papers", "are", "filed", "by", "the", "close", "of", "business", "on", "each", "court", "day"];
    let word = |at: usize| known[(number * 5 + at * 7) % known.len()];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

/// A number of six digits that follows from another one without order.
fn mix(number: usize) -> usize {
    (number * 7_919 + 104_729) * 31 % 999_983
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: fn(usize) -> Value, about: usize) {
        for number in 0..16 {
            let bytes = input(number).to_string().len();
            assert!(bytes.abs_diff(about) <= about / 20, "{bytes} bytes");
        }
    }

    #[test]
    fn payloads_are_as_large_as_they_are_called() {
        check(rule, 1_024);
        check(handbook, 8_192);
        check(docket, 94_000);
    }
}
