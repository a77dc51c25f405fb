//! What `top` shows and what keys do to it. Pure: it draws nothing, asks nobody and reads no clock.

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use crate::commands::field;

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// What needs somebody, by how bad it is, then by age.
    Trouble,
    /// The oldest event without its ACK.
    Age,
    /// The most open deliveries.
    Open,
    /// The most ACKs a minute.
    Rate,
    /// The slowest.
    P99,
    /// By name.
    Partner,
}

/// The lane of one partner, as the hub told it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lane {
    pub(crate) partner: String,
    pub(crate) channel: String,
    pub(crate) state: String,
    pub(crate) is_paused: bool,
    pub(crate) open: u64,
    pub(crate) has_more: bool,
    pub(crate) in_flight: u64,
    pub(crate) oldest_event: String,
    pub(crate) oldest_age_s: Option<u64>,
    pub(crate) per_minute: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) last_error: String,
    pub(crate) mend: String,
}

/// What a key asks for beyond the screen itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    None,
    Quit,
    /// `pause` or `resume`, after a yes.
    Change {
        partner: String,
        verb: &'static str,
    },
}

/// What keys mean now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They move and choose.
    List,
    /// They write the filter.
    Filter,
    /// `y` confirms, everything else does not.
    Confirm { partner: String, verb: &'static str },
}

/// The screen.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) hub: String,
    pub(crate) sort: Sort,
    pub(crate) filter: String,
    pub(crate) mode: Mode,
    /// The partner that is chosen, by name, so that a new order does not choose another.
    chosen: Option<String>,
    lanes: Vec<Lane>,
    /// What happened last; true when it is a failure.
    pub(crate) told: Option<(String, bool)>,
}

impl Lane {
    /// From the hub's word.
    pub(crate) fn of(item: &Value) -> Self {
        let number = |name: &str| item[name].as_u64().unwrap_or_default();
        Self {
            partner: field(item, "partner"),
            channel: field(item, "channel"),
            state: if item["paused"] == true { "paused".to_owned() } else { field(item, "state") },
            is_paused: item["paused"] == true,
            open: number("open"),
            has_more: item["more"] == true,
            in_flight: number("in_flight"),
            oldest_event: field(item, "oldest_event"),
            oldest_age_s: item["oldest_age_s"].as_u64(),
            per_minute: item["acks_per_minute"].as_f64().unwrap_or_default(),
            p50_ms: item["p50_ms"].as_f64(),
            p99_ms: item["p99_ms"].as_f64(),
            // One line, whatever a partner wrote.
            last_error: field(item, "last_error").replace(char::is_control, " "),
            mend: field(item, "mend"),
        }
    }

    /// Whether somebody should look at it.
    pub(crate) fn needs_attention(&self) -> bool {
        !matches!(self.state.as_str(), "well" | "paused")
    }

    /// What is worse is less.
    fn rank(&self) -> usize {
        const WORST_FIRST: [&str; 7] =
            ["blocked", "given_up", "offline", "unacknowledged", "retrying", "slow", "paused"];
        WORST_FIRST.iter().position(|word| *word == self.state).unwrap_or(WORST_FIRST.len())
    }
}

impl Sort {
    /// As it is shown.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Age => "age",
            Self::Open => "open",
            Self::Rate => "rate",
            Self::P99 => "p99",
            Self::Partner => "partner",
        }
    }

    fn next(self) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }
}

impl Screen {
    /// An empty one.
    pub(crate) fn new(hub: &str, sort: Sort, filter: &str) -> Self {
        let (hub, filter) = (hub.to_owned(), filter.to_owned());
        Self { hub, sort, filter, mode: Mode::List, chosen: None, lanes: Vec::new(), told: None }
    }

    /// Takes what the hub told.
    pub(crate) fn take(&mut self, lanes: Vec<Lane>) {
        self.lanes = lanes;
        if self.told.as_ref().is_some_and(|(_, is_failure)| *is_failure) {
            self.told = None;
        }
    }

    /// Something that went well.
    pub(crate) fn note(&mut self, text: String) {
        self.told = Some((text, false));
    }

    /// A partner was paused or resumed: shown at once, before the hub is asked again.
    pub(crate) fn note_change(&mut self, partner: &str, verb: &str) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.partner == partner) {
            lane.is_paused = verb == "pause";
            lane.state = if lane.is_paused { "paused".to_owned() } else { "well".to_owned() };
        }
        self.note(format!("{partner}: {verb}d"));
    }

    /// Something that did not.
    pub(crate) fn note_failure(&mut self, text: &str) {
        self.told = Some((text.to_owned(), true));
    }

    /// All lanes, whatever is filtered.
    pub(crate) fn all(&self) -> &[Lane] {
        &self.lanes
    }

    /// The lanes that are shown, in their order.
    pub(crate) fn rows(&self) -> Vec<&Lane> {
        let text = self.filter.to_lowercase();
        let fits = |lane: &&Lane| text.is_empty() || lane.partner.to_lowercase().contains(&text);
        let mut rows: Vec<&Lane> = self.lanes.iter().filter(fits).collect();
        let age = |lane: &Lane| std::cmp::Reverse(lane.oldest_age_s);
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Trouble => (a.rank(), age(a)).cmp(&(b.rank(), age(b))),
                Sort::Age => age(a).cmp(&age(b)),
                Sort::Open => (b.has_more, b.open).cmp(&(a.has_more, a.open)),
                Sort::Rate => b.per_minute.total_cmp(&a.per_minute),
                Sort::P99 => b.p99_ms.unwrap_or(-1.0).total_cmp(&a.p99_ms.unwrap_or(-1.0)),
                Sort::Partner => std::cmp::Ordering::Equal,
            };
            order.then_with(|| a.partner.cmp(&b.partner))
        });
        rows
    }

    /// Which of these rows is chosen; the first when the chosen one is not among them.
    pub(crate) fn chosen(&self, rows: &[&Lane]) -> Option<usize> {
        let known = self.chosen.as_ref().and_then(|name| rows.iter().position(|lane| lane.partner == *name));
        known.or((!rows.is_empty()).then_some(0))
    }

    /// What a key does.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Act {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Act::Quit;
        }
        match std::mem::replace(&mut self.mode, Mode::List) {
            Mode::List => self.press_in_list(key.code),
            Mode::Filter => {
                self.press_in_filter(key.code);
                Act::None
            }
            Mode::Confirm { partner, verb } => match key.code {
                KeyCode::Char('y' | 'Y') => Act::Change { partner, verb },
                _ => {
                    self.note(format!("{partner}: left as it is"));
                    Act::None
                }
            },
        }
    }

    fn press_in_list(&mut self, key: KeyCode) -> Act {
        self.told = None;
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Act::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('p') => {
                let rows = self.rows();
                if let Some(lane) = self.chosen(&rows).and_then(|at| rows.get(at)) {
                    let verb = if lane.is_paused { "resume" } else { "pause" };
                    self.mode = Mode::Confirm { partner: lane.partner.clone(), verb };
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.step(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(|at, _| at.saturating_sub(1)),
            KeyCode::PageDown => self.step(|at, _| at + PAGE),
            KeyCode::PageUp => self.step(|at, _| at.saturating_sub(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_, last| last),
            _ => {}
        }
        Act::None
    }

    fn press_in_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => return,
            KeyCode::Esc => {
                self.filter.clear();
                return;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
        self.mode = Mode::Filter;
    }

    fn step(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let rows = self.rows();
        let Some(at) = self.chosen(&rows) else { return };
        let last = rows.len() - 1;
        self.chosen = Some(rows[to(at, last).min(last)].partner.clone());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn screen() -> Screen {
        let lanes = json!([
            {"partner": "A", "channel": "webhook", "state": "well", "open": 0, "acks_per_minute": 120.0, "p50_ms": 4.0, "p99_ms": 90.5},
            {"partner": "B", "channel": "mllp", "state": "offline", "open": 7, "more": true, "in_flight": 1, "oldest_event": "RULE-X-V2", "oldest_age_s": 372, "acks_per_minute": 0.0, "last_error": "connection refused\nby 10.0.0.9"},
            {"partner": "C", "channel": "pull", "state": "well", "paused": true, "open": 2, "acks_per_minute": 3.0, "p50_ms": 900.0, "p99_ms": 2100.0},
            {"partner": "D", "channel": "sftp", "state": "blocked", "open": 1, "oldest_age_s": 12, "acks_per_minute": 0.0, "mend": "hms-ess bridge add …"},
        ]);
        let mut screen = Screen::new("https://hub.example.gov", Sort::Trouble, "");
        screen.take(lanes.as_array().unwrap().iter().map(Lane::of).collect());
        screen
    }

    fn press(screen: &mut Screen, keys: &str) -> Vec<Act> {
        keys.chars().map(|key| screen.press(KeyEvent::from(KeyCode::Char(key)))).collect()
    }

    fn names(screen: &Screen) -> String {
        screen.rows().iter().map(|lane| lane.partner.as_str()).collect()
    }

    #[test]
    fn what_is_worst_stands_first_and_s_changes_the_order() {
        let mut screen = screen();
        assert_eq!(names(&screen), "DBCA");
        let orders = ["BDAC", "BCDA", "ACBD", "CABD", "ABCD", "DBCA"];
        for order in orders {
            press(&mut screen, "s");
            assert_eq!(names(&screen), order, "{:?}", screen.sort);
        }
    }

    #[test]
    fn the_choice_stays_with_its_partner_when_the_order_changes() {
        let mut screen = screen();
        press(&mut screen, "j");
        let chosen = |screen: &Screen| screen.rows()[screen.chosen(&screen.rows()).unwrap()].partner.clone();
        assert_eq!(chosen(&screen), "B");
        press(&mut screen, "sssss");
        assert_eq!((names(&screen).as_str(), chosen(&screen).as_str()), ("ABCD", "B"));
        press(&mut screen, "jjjjjj");
        assert_eq!(chosen(&screen), "D");
        press(&mut screen, "kkkkkkkk");
        assert_eq!(chosen(&screen), "A");
    }

    #[test]
    fn a_partner_is_paused_only_after_a_yes_and_a_paused_one_is_resumed() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, "pn"), [Act::None, Act::None]);
        assert_eq!(screen.told.as_ref().unwrap().0, "D: left as it is");
        let change = |partner: &str, verb| Act::Change { partner: partner.to_owned(), verb };
        assert_eq!(press(&mut screen, "py")[1], change("D", "pause"));
        assert_eq!(press(&mut screen, "jjpy")[3], change("C", "resume"));
    }

    #[test]
    fn the_filter_is_typed_and_keys_that_mean_something_elsewhere_are_text_there() {
        let mut screen = screen();
        assert!(press(&mut screen, "/qs").iter().all(|act| *act == Act::None));
        assert_eq!((screen.filter.as_str(), names(&screen).as_str()), ("qs", ""));
        screen.press(KeyEvent::from(KeyCode::Esc));
        assert_eq!(names(&screen), "DBCA");
        press(&mut screen, "/b");
        screen.press(KeyEvent::from(KeyCode::Enter));
        assert_eq!(names(&screen), "B");
        assert_eq!(press(&mut screen, "q"), [Act::Quit]);
    }
}
