//! A message as each kind of target wants it. Formats of others, each by its own document.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Note, Severity};

/// How often trouble that lasts is told to an Alertmanager, which forgets by itself.
pub const ALERT_AGAIN_EVERY: Duration = Duration::from_secs(60);
/// When an alert ends if it is not told again.
const ALERT_LASTS: Duration = Duration::from_secs(300);
/// Characters of a PagerDuty summary (Events API v2: 1,024).
const SUMMARY_CHARS_MAX: usize = 1_024;

/// A CloudEvent in JSON, signed by the owner per Standard Webhooks.
#[must_use]
pub fn webhook(note: &Note) -> Value {
    let kind = match (note.about.is_some(), note.is_end) {
        (false, _) => "test",
        (true, true) => "clear",
        (true, false) => "trouble",
    };
    let mut event = json!({
        "specversion": "1.0",
        "id": note.id,
        "source": note.hub,
        "type": format!("hms.ess.ops.{kind}"),
        "time": note.at.to_string(),
        "datacontenttype": "application/json",
        "data": details(note),
    });
    if let Some((partner, _)) = &note.about {
        event["subject"] = json!(partner.as_str());
    }
    event
}

/// PagerDuty, Events API v2: one incident per partner and cause, opened and resolved by the same key.
#[must_use]
pub fn pagerduty(note: &Note, routing_key: &str, severity: Severity) -> Value {
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": if note.is_end { "resolve" } else { "trigger" },
        "dedup_key": match &note.about {
            Some((partner, cause)) => format!("{}/{partner}/{}", note.hub, cause.word()),
            None => format!("{}/test", note.hub),
        },
        "client": "HMS-ESS",
    });
    if !note.is_end {
        let details = details(note);
        event["payload"] = json!({
            "summary": note.title.chars().take(SUMMARY_CHARS_MAX).collect::<String>(),
            "source": note.hub,
            "severity": severity_of(note, severity),
            "timestamp": note.since.to_string(),
            "component": details["partner"],
            "class": details["cause"],
            "custom_details": details,
        });
    }
    event
}

/// An incoming webhook's text. `&`, `<` and `>` mean something there, so they are escaped.
#[must_use]
pub fn slack(note: &Note) -> Value {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut text = format!("*{}*", escape(&note.title));
    for line in &note.lines {
        text.push('\n');
        text.push_str(&escape(line));
    }
    for (command, what) in &note.commands {
        text.push_str(&format!("\n{what}: `{}`", escape(&command.replace('`', "'"))));
    }
    json!({"text": text})
}

/// Alertmanager, `POST /api/v2/alerts`. It ends by itself unless it is told again.
#[must_use]
pub fn alertmanager(note: &Note, severity: Severity) -> Value {
    let (name, ends_at) = match (&note.about, note.is_end) {
        (_, true) => ("HmsEssTrouble", note.at),
        (None, _) => ("HmsEssTest", note.at.after(ALERT_AGAIN_EVERY)),
        (Some(_), false) => ("HmsEssTrouble", note.at.after(ALERT_LASTS)),
    };
    let mut labels = json!({"alertname": name, "hub": note.hub});
    // An alert is known by its labels: they are the same at its beginning and at its end.
    labels["severity"] = json!(severity_of(note, severity));
    if let Some((partner, cause)) = &note.about {
        labels["partner"] = json!(partner.as_str());
        labels["cause"] = json!(cause.word());
    }
    let commands: Vec<&str> = note.commands.iter().map(|(command, _)| command.as_str()).collect();
    json!([{
        "labels": labels,
        "annotations": {"summary": note.title, "description": note.lines.join("\n"), "run": commands.join("\n")},
        "startsAt": note.since.to_string(),
        "endsAt": ends_at.to_string(),
    }])
}

/// A page for a mail: no styles, no pictures, nothing to fetch.
#[must_use]
pub fn html(note: &Note) -> String {
    let escape =
        |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut page = format!("<!doctype html>\n<html><body>\n<p><strong>{}</strong></p>\n", escape(&note.title));
    for line in &note.lines {
        page.push_str(&format!("<p>{}</p>\n", escape(line)));
    }
    for (command, what) in &note.commands {
        page.push_str(&format!("<p>{}: <code>{}</code></p>\n", escape(what), escape(command)));
    }
    page.push_str("</body></html>\n");
    page
}

/// Everything that is known, by name: left away where it is not.
fn details(note: &Note) -> Value {
    let mut details = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            details.insert(name.to_owned(), value);
        }
    };
    if let Some((partner, cause)) = &note.about {
        put("partner", json!(partner.as_str()));
        put("cause", json!(cause.word()));
        put("urgent", json!(note.urgent));
        put("since", json!(note.since.to_string()));
    } else {
        put("test", json!(true));
    }
    if note.is_end {
        put("until", json!(note.at.to_string()));
    }
    if let Some(trouble) = &note.trouble {
        put("deliveries", json!(trouble.count));
        put("oldest_event", json!(trouble.oldest.as_ref().map(|id| id.as_str())));
        put("last_error", json!(trouble.error));
        put("run", json!(note.commands.iter().map(|(command, _)| command).collect::<Vec<_>>()));
    }
    put("text", json!(note.text()));
    Value::Object(details)
}

fn severity_of(note: &Note, routine: Severity) -> &'static str {
    match (&note.about, note.urgent) {
        (None, _) => Severity::Info.word(),
        (Some(_), true) => Severity::Critical.word(),
        (Some(_), false) => routine.word(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escalation::{Cause, Open, Told, Trouble};
    use crate::id::PartnerId;
    use crate::time::Time;

    fn notes() -> (Note, Note) {
        let since = Time::parse_rfc3339("2026-11-24T09:00:00Z").unwrap();
        let at = since.after(Duration::from_secs(900));
        let trouble = Trouble {
            since,
            count: 2,
            has_more: false,
            oldest: None,
            error: Some("<html>502 & so</html>".to_owned()),
            mend: None,
            urgent: false,
        };
        let partner = PartnerId::trusted("COURT-CAL");
        let open = Open { told_at: at, since, urgent: false };
        let note = |told| Note::of("hms-ess/abc", &partner, Cause::Unacked, &told, at);
        (note(Told::Begun(trouble)), note(Told::Ended(open)))
    }

    #[test]
    fn an_incident_is_resolved_by_the_key_that_opened_it() {
        let (begun, ended) = notes();
        let (trigger, resolve) = (pagerduty(&begun, "key", Severity::Error), pagerduty(&ended, "key", Severity::Error));
        assert_eq!((&trigger["event_action"], &resolve["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
        assert_eq!(trigger["payload"]["severity"], "error");
        assert_eq!(trigger["payload"]["custom_details"]["deliveries"], 2);
        assert!(resolve.get("payload").is_none());
    }

    #[test]
    fn an_alert_ends_under_the_labels_that_it_began_with() {
        let (begun, ended) = notes();
        let (firing, resolved) = (alertmanager(&begun, Severity::Error), alertmanager(&ended, Severity::Error));
        assert_eq!(firing[0]["labels"], resolved[0]["labels"]);
        assert_eq!(firing[0]["endsAt"], "2026-11-24T09:20:00Z");
        assert_eq!(resolved[0]["endsAt"], "2026-11-24T09:15:00Z");
    }

    #[test]
    fn what_a_partner_said_is_text_and_no_markup() {
        let (begun, _) = notes();
        assert!(slack(&begun)["text"].as_str().unwrap().contains("&lt;html&gt;502 &amp; so&lt;/html&gt;"));
        assert!(html(&begun).contains("&lt;html&gt;502 &amp; so&lt;/html&gt;"));
        assert_eq!(webhook(&begun)["type"], "hms.ess.ops.trouble");
        assert_eq!(webhook(&begun)["data"]["last_error"], "<html>502 & so</html>");
    }
}
