//! How `top` is drawn: cells on a terminal, or plain lines where there is none. Words say everything; colour only repeats it.

use std::time::Duration;

use ess_core::duration;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::screen::{Lane, Mode, Screen};
use crate::output::{self, Output};

const HEADER: [&str; 9] = ["PARTNER", "STATE", "CHANNEL", "OPEN", "SENDING", "OLDEST", "ACKS/MIN", "P50", "P99"];
/// The first column takes what the others leave.
const WIDTHS: [Constraint; 9] = [
    Constraint::Min(16),
    Constraint::Length(14),
    Constraint::Length(8),
    Constraint::Length(6),
    Constraint::Length(7),
    Constraint::Length(8),
    Constraint::Length(8),
    Constraint::Length(7),
    Constraint::Length(7),
];

/// Draws the screen.
pub(crate) fn draw(target: &mut Frame<'_>, screen: &Screen, colour: bool) {
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(3),
        Constraint::Length(1),
    ]);
    let [title, counts, table, detail, keys] = areas.areas(target.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let name = Line::from(vec![Span::styled("HMS-ESS lanes", bold), Span::raw(format!("  {}", screen.hub))]);
    target.render_widget(name, title);
    target.render_widget(Paragraph::new(summary(screen)), counts);
    let rows = screen.rows();
    let chosen = screen.chosen(&rows);
    let drawn = rows.iter().map(|lane| {
        let mut cells = cells(lane).map(Cell::from);
        cells[1] = Cell::from(lane.state.clone()).style(tone(&lane.state, colour));
        Row::new(cells)
    });
    let list = Table::new(drawn, WIDTHS)
        .header(Row::new(HEADER).style(bold))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .highlight_symbol("> ")
        .column_spacing(1);
    let mut state = TableState::default().with_selected(chosen);
    target.render_stateful_widget(list, table, &mut state);
    let words = chosen.map(|at| about(rows[at])).unwrap_or_default();
    target.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), detail);
    target.render_widget(Paragraph::new(footer(screen, colour)), keys);
}

/// One frame as lines.
pub(crate) fn text(screen: &Screen, output: &Output) -> String {
    let rows = screen.rows().into_iter().map(|lane| {
        let mut row = cells(lane).to_vec();
        row.push(lane.last_error.clone());
        row
    });
    let header: Vec<&str> = HEADER.into_iter().chain(["LAST ERROR"]).collect();
    format!("{}\n\n{}", summary(screen), output.render(&header, rows.collect()))
}

fn summary(screen: &Screen) -> String {
    let all = screen.all();
    let troubled = all.iter().filter(|lane| lane.needs_attention()).count();
    let paused = all.iter().filter(|lane| lane.is_paused).count();
    let open: u64 = all.iter().map(|lane| lane.open).sum();
    let more = if all.iter().any(|lane| lane.has_more) { "+" } else { "" };
    let rate: f64 = all.iter().map(|lane| lane.per_minute).sum();
    let shown = if screen.filter.is_empty() { String::new() } else { format!(", filtered by \"{}\"", screen.filter) };
    format!(
        "{} partner{}, {troubled} in trouble, {paused} paused; {open}{more} open deliveries, {rate:.0} ACKs/min; by {}{shown}",
        all.len(),
        if all.len() == 1 { "" } else { "s" },
        screen.sort.word()
    )
}

fn cells(lane: &Lane) -> [String; 9] {
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| output::span(Duration::from_secs_f64(ms / 1e3)));
    [
        lane.partner.clone(),
        lane.state.clone(),
        lane.channel.clone(),
        format!("{}{}", lane.open, if lane.has_more { "+" } else { "" }),
        lane.in_flight.to_string(),
        lane.oldest_age_s.map_or_else(|| "-".to_owned(), |age| duration::spoken(Duration::from_secs(age))),
        format!("{:.0}", lane.per_minute),
        ms(lane.p50_ms),
        ms(lane.p99_ms),
    ]
}

/// All that is known of one lane, for the lines beneath the list.
fn about(lane: &Lane) -> String {
    let mut words = lane.partner.clone();
    if !lane.oldest_event.is_empty() {
        words.push_str(&format!(" waits for the ACK of {}", lane.oldest_event));
    }
    match lane.last_error.as_str() {
        "" => words.push_str("; no failure since the hub began"),
        error => words.push_str(&format!("; last error: {error}")),
    }
    if !lane.mend.is_empty() {
        words.push_str(&format!("; mend with: {}", lane.mend));
    }
    words
}

fn footer(screen: &Screen, colour: bool) -> Line<'static> {
    match (&screen.mode, &screen.told) {
        (Mode::Confirm { partner, verb }, _) => {
            Line::from(format!("{verb} {partner}? y = yes, any other key = no")).style(Modifier::BOLD)
        }
        (Mode::Filter, _) => Line::from(format!("filter: {}_   enter = keep, esc = clear", screen.filter)),
        (Mode::List, Some((told, is_failure))) => {
            let mark = if *is_failure { "error: " } else { "" };
            let style = if *is_failure && colour { Style::new().fg(Color::Red) } else { Style::new() };
            Line::from(format!("{mark}{told}")).style(style)
        }
        (Mode::List, None) => Line::from("q quit   up/down choose   s sort   / filter   p pause or resume"),
    }
}

fn tone(state: &str, colour: bool) -> Style {
    match state {
        _ if !colour => Style::new(),
        "well" => Style::new().fg(Color::Green),
        "blocked" | "given_up" | "offline" => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::screen::tests::screen;
    use super::*;

    #[test]
    fn a_frame_fits_any_size_and_says_states_in_words() {
        for (width, height) in [(120, 20), (80, 24), (40, 8), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let is_colourful = true;
            terminal.draw(|target| draw(target, &screen(), is_colourful)).unwrap();
            let drawn = terminal.backend().to_string();
            if width >= 80 {
                for word in ["blocked", "offline", "paused", "well", "6m", "7+", "mend with: hms-ess bridge add"] {
                    assert!(drawn.contains(word), "{word}\n{drawn}");
                }
            }
        }
    }

    #[test]
    fn without_a_terminal_a_lane_is_a_line() {
        let text = text(&screen(), &Output::plain());
        assert!(
            text.starts_with("4 partners, 2 in trouble, 1 paused; 10+ open deliveries, 123 ACKs/min; by trouble\n"),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.starts_with("B ") && line.ends_with("connection refused by 10.0.0.9")),
            "{text}"
        );
    }
}
