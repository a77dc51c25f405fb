//! What Ops read: which partner, since when, how much, the last error, and the commands to run.

use super::watch::Told;
use super::{Cause, Open, Trouble};
use crate::duration;
use crate::id::PartnerId;
use crate::time::Time;

/// One message to Ops, ready to be written as any target wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The same for all tries of the same message: what lets a receiver drop a repeat.
    pub id: String,
    /// Which hub says it.
    pub hub: String,
    /// When it is said.
    pub at: Time,
    /// Whose trouble, by which cause; `None` for a message that tests the target.
    pub about: Option<(PartnerId, Cause)>,
    /// It is over.
    pub is_end: bool,
    /// An event of priority urgent is concerned.
    pub urgent: bool,
    /// Since when.
    pub since: Time,
    /// What is wrong, while it is.
    pub trouble: Option<Trouble>,
    /// One line.
    pub title: String,
    /// Further lines.
    pub lines: Vec<String>,
    /// What to run.
    pub commands: Commands,
}

/// Commands, each with what it is for.
pub type Commands = Vec<(String, &'static str)>;

impl Note {
    /// A message about a partner's trouble.
    #[must_use]
    pub fn of(hub: &str, partner: &PartnerId, cause: Cause, told: &Told, at: Time) -> Self {
        let (since, urgent, trouble) = match told {
            Told::Begun(trouble) => (trouble.since, trouble.urgent, Some(trouble)),
            Told::Lasts(trouble, open) => (open.since, open.urgent, Some(trouble)),
            Told::Ended(Open { since, urgent, .. }) => (*since, *urgent, None),
        };
        let is_end = trouble.is_none();
        let word = if is_end { "clear" } else { "trouble" };
        let (title, lines) = match trouble {
            Some(trouble) => (title(partner, cause, trouble), lines(trouble, since, at)),
            None => {
                let lasted = duration::spoken(at.since(since));
                (format!("Over: {}", end(partner, cause)), vec![format!("It began {since} and lasted {lasted}.")])
            }
        };
        Self {
            id: format!("ops_{partner}_{}_{}_{word}", cause.word(), since.as_micros()).replace('.', "_"),
            hub: hub.to_owned(),
            at,
            about: Some((partner.clone(), cause)),
            is_end,
            urgent,
            since,
            trouble: trouble.cloned(),
            title: if urgent && !is_end { format!("URGENT: {title}") } else { title },
            lines,
            commands: trouble.map_or_else(Vec::new, |trouble| commands(partner, cause, trouble)),
        }
    }

    /// The same end, where it came by the partner's removal.
    #[must_use]
    pub fn by_removal(self, partner: &PartnerId) -> Self {
        Self { title: format!("Over: {partner} was removed"), ..self }
    }

    /// A marked message that only shows that the target is reached.
    #[must_use]
    pub fn test(hub: &str, target: &str, at: Time) -> Self {
        Self {
            id: format!("test_ops_{}", at.as_micros()),
            hub: hub.to_owned(),
            at,
            about: None,
            is_end: false,
            urgent: false,
            since: at,
            trouble: None,
            title: format!("[TEST] HMS-ESS reaches the target {target}"),
            lines: vec!["This is a test: nothing is wrong, nothing is to be done.".to_owned()],
            commands: Vec::new(),
        }
    }

    /// The whole as plain text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.title.clone();
        for line in &self.lines {
            text.push('\n');
            text.push_str(line);
        }
        for (command, what) in &self.commands {
            text.push_str(&format!("\n{what}: {command}"));
        }
        text
    }
}

fn title(partner: &PartnerId, cause: Cause, trouble: &Trouble) -> String {
    let events = counted(trouble);
    match cause {
        Cause::Unacked => format!("{partner} has not acknowledged {events}"),
        Cause::Blocked => format!("{events} for {partner} can't be converted and wait"),
        Cause::Offline => format!("{partner} does not answer; {events} wait"),
        Cause::GaveUp => format!("{partner} did not answer for so long that its deliveries were given up"),
        Cause::DeadLetter => format!("{partner} will not get {events} by itself: dead letters"),
        Cause::Paused => format!("{partner} is gone (HTTP 410) and was paused; {events} wait"),
        Cause::Unacknowledged => format!("{partner} took {events} without sending an ACK"),
    }
}

fn end(partner: &PartnerId, cause: Cause) -> String {
    match cause {
        Cause::Unacked => format!("nothing for {partner} is overdue any more"),
        Cause::Blocked => format!("nothing for {partner} is blocked any more"),
        Cause::Offline => format!("{partner} answers again"),
        Cause::GaveUp => format!(
            "{partner} answers again; what was given up is redriven, or waits for `hms-ess dead-letters redrive --partner {partner}`"
        ),
        Cause::DeadLetter => format!("{partner} has no dead letters any more"),
        Cause::Paused => format!("{partner} goes on"),
        Cause::Unacknowledged => format!("nothing that {partner} took lacks its ACK any more"),
    }
}

fn counted(trouble: &Trouble) -> String {
    match (trouble.count, trouble.has_more) {
        (1, false) => "1 event".to_owned(),
        (count, false) => format!("{count} events"),
        (count, true) => format!("{count} events or more"),
    }
}

fn lines(trouble: &Trouble, since: Time, at: Time) -> Vec<String> {
    let mut lines = vec![format!("Since: {since} ({} ago)", duration::spoken(at.since(since)))];
    if let Some(oldest) = &trouble.oldest {
        lines.push(format!("Oldest event: {oldest}"));
    }
    if let Some(error) = &trouble.error {
        lines.push(format!("Last error: {error}"));
    }
    lines
}

/// The commands that show it, and the one that mends it.
#[must_use]
pub fn commands(partner: &PartnerId, cause: Cause, trouble: &Trouble) -> Commands {
    let mut commands = Commands::new();
    if let Some(oldest) = &trouble.oldest {
        commands.push((format!("hms-ess status {oldest}"), "Look"));
    }
    let of_partner = |what: &str| format!("hms-ess {what} {partner}");
    match cause {
        Cause::Unacked | Cause::Offline | Cause::GaveUp => {
            commands.push((of_partner("partner show"), "Look"));
            commands.push((of_partner("partner test"), "Try"));
        }
        Cause::Blocked => {
            let mend = trouble.mend.clone().unwrap_or_else(|| "hms-ess bridge list".to_owned());
            commands.push((mend, "Mend"));
        }
        Cause::DeadLetter => {
            commands.push((of_partner("dead-letters list --partner"), "Look"));
            commands.push((of_partner("dead-letters redrive --partner"), "Mend"));
        }
        Cause::Paused => {
            commands.push((of_partner("partner show"), "Look"));
            commands.push((of_partner("partner resume"), "Mend"));
        }
        Cause::Unacknowledged => {
            commands.push((of_partner("partner show"), "Look"));
            commands.push((
                "set `ack: {by: status}` in its file and `hms-ess partner add FILE --replace`".to_owned(),
                "If a 2xx is its receipt",
            ));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::EventId;

    #[test]
    fn a_message_says_who_since_when_how_much_why_and_what_to_run() {
        let since = Time::parse_rfc3339("2026-11-24T09:00:00Z").unwrap();
        let trouble = Trouble {
            since,
            count: 500,
            has_more: false,
            oldest: Some(EventId::trusted("RULE-1")),
            error: Some("connection refused by 10.0.0.1:443".to_owned()),
            mend: None,
            urgent: true,
        };
        let partner = PartnerId::trusted("COURT-CAL");
        let at = since.after(Duration::from_secs(905));
        let note = Note::of("hub", &partner, Cause::Unacked, &Told::Begun(trouble), at);
        assert_eq!(
            note.text(),
            "URGENT: COURT-CAL has not acknowledged 500 events\n\
             Since: 2026-11-24T09:00:00Z (15m 5s ago)\n\
             Oldest event: RULE-1\n\
             Last error: connection refused by 10.0.0.1:443\n\
             Look: hms-ess status RULE-1\n\
             Look: hms-ess partner show COURT-CAL\n\
             Try: hms-ess partner test COURT-CAL"
        );
        let open = Open { told_at: at, since, urgent: true };
        let note = Note::of("hub", &partner, Cause::Unacked, &Told::Ended(open), at);
        assert_eq!(
            note.text(),
            "Over: nothing for COURT-CAL is overdue any more\nIt began 2026-11-24T09:00:00Z and lasted 15m 5s."
        );
        assert!(!note.id.contains('.'));
    }

    #[test]
    fn each_cause_has_its_command() {
        let trouble = Trouble {
            since: Time::default(),
            count: 1,
            has_more: false,
            oldest: None,
            error: None,
            mend: Some("hms-ess bridge add X".to_owned()),
            urgent: false,
        };
        let partner = PartnerId::trusted("P");
        for (cause, command) in [
            (Cause::Blocked, "hms-ess bridge add X"),
            (Cause::DeadLetter, "hms-ess dead-letters list --partner P"),
            (Cause::Offline, "hms-ess partner show P"),
            (Cause::Paused, "hms-ess partner resume P"),
            (Cause::Unacknowledged, "`ack: {by: status}`"),
        ] {
            let text = Note::of("hub", &partner, cause, &Told::Begun(trouble.clone()), Time::default()).text();
            assert!(text.contains(command), "{text}");
        }
        for cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.word()), Some(cause));
        }
    }
}
