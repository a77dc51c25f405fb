//! Puts what lanes do into words: for listeners, for the log, for Ops.

use ess_core::delivery::State;
use ess_core::id::{EventId, Seq};
use ess_core::lane::{Action, OpenState, Record};
use ess_core::partner::ChannelKind;
use ess_core::time::Time;

use crate::deliver::Delivery;
use crate::happenings::Happenings;
use crate::registry::Registered;
use crate::traces::Place;

/// Tells what is written down.
pub fn tell_record(delivery: &Delivery, happenings: &Happenings, registered: &Registered, record: &Record, now: Time) {
    count_record(delivery, registered, record, now);
    if matches!(record, Record::Health(_) | Record::Ended { .. }) {
        delivery.attention.mark(registered.no);
    }
    let partner = &registered.partner.id;
    if let Record::Ended { open, ended } = record
        && matches!(ended.state, State::Dead | State::Nack)
        && !open.test
    {
        tracing::warn!(
            event.id = id_of(delivery, open.key.seq),
            event.seq = open.key.seq.0,
            partner.id = %partner,
            reason = ended.reason,
            "dead letter: {partner} will not get event {} by itself",
            open.key.seq
        );
    }
    if !happenings.has_listeners() {
        return;
    }
    let (kind, seq, detail) = match record {
        Record::Acked { seq, attempt, .. } => {
            ("delivery.acked", *seq, format!("{partner} acknowledged on attempt {attempt}"))
        }
        Record::Failed { open, tried } => {
            let due = open
                .due_at
                .map_or_else(String::new, |due| format!("; next attempt in {:.1} s", due.since(now).as_secs_f64()));
            let kind = if tried.outcome == "received" { "delivery.delivered" } else { "delivery.retrying" };
            (kind, open.key.seq, format!("{partner}: {}{due}", tried.reason))
        }
        Record::Ended { open, ended } => {
            let kind = match ended.state {
                State::Nack => "delivery.nack",
                State::Superseded => "delivery.superseded",
                State::Cancelled => "delivery.cancelled",
                _ => "delivery.dead",
            };
            (kind, open.key.seq, format!("{partner}: {}", ended.reason))
        }
        Record::Opened(open) => match &open.reason {
            _ if open.state != OpenState::Blocked => return,
            Some(reason) => ("delivery.blocked", open.key.seq, format!("{partner}: {reason}")),
            None => return,
        },
        Record::Cursor { .. } | Record::Health(_) => return,
    };
    let event_id: Option<EventId> = delivery.cells.get(seq).map(|cell| cell.event.content.id.clone());
    happenings.tell(now, kind, event_id, Some(partner.clone()), detail);
}

/// What is written down, for metrics, the last hour and traces.
fn count_record(delivery: &Delivery, registered: &Registered, record: &Record, now: Time) {
    if let Record::Acked { seq, at, round, evidence, .. } = record {
        delivery.metrics.count_end(State::Acked.word(), registered.partner.channel.word());
        let cell = delivery.cells.get(*seq);
        if let Some(cell) = &cell {
            let place = Place { registered, round: *round };
            delivery.workshop.tracer.acked(&cell.event, place, evidence.word(), *at);
        }
        let took = cell.map(|cell| at.since(cell.event.recorded_at));
        if let Some(took) = took {
            delivery.metrics.ack_seconds.observe(took.as_secs_f64());
        }
        delivery.flow.note_ack(now, took);
        delivery.paces.note(registered.no, now, took);
    }
    if let Record::Failed { tried, .. } = record
        && tried.outcome != "received"
    {
        delivery.flow.note_failure(now);
    }
    if let Record::Ended { open, ended } = record {
        delivery.metrics.count_end(ended.state.word(), registered.partner.channel.word());
        if let Some(cell) = delivery.cells.get(open.key.seq) {
            let place = Place { registered, round: open.key.round };
            delivery.workshop.tracer.ended(&cell.event, place, ended.state.word(), &ended.reason, now);
        }
    }
}

/// Tells what else a lane asks for.
pub fn tell_action(delivery: &Delivery, happenings: &Happenings, registered: &Registered, action: &Action, now: Time) {
    delivery.attention.mark(registered.no);
    let partner = &registered.partner.id;
    let (kind, seq, detail) = match action {
        Action::BecameBlocked { seq, .. } => {
            let id = id_of(delivery, *seq);
            tracing::warn!(
                event.id = id,
                event.seq = seq.0,
                partner.id = %partner,
                "delivery of event {seq} to {partner} is blocked"
            );
            return;
        }
        Action::Outstanding { seq, .. } => (
            "delivery.unacknowledged",
            Some(*seq),
            match registered.partner.channel {
                ChannelKind::Webhook => format!(
                    "{partner} took the event but sent no ACK; if a 2xx is its receipt, set `ack: {{by: status}}`"
                ),
                _ => format!(
                    "{partner} was given the event but sent no ACK; {}; if the delivery itself is its receipt, set \
                     `ack: {{by: status}}`",
                    registered.partner.ack.of_partner(partner).awaited()
                ),
            },
        ),
        Action::WentOffline => ("partner.offline", None, format!("{partner} keeps failing; one probe at a time")),
        Action::GaveUp { failing_since } => (
            "partner.gave_up",
            None,
            format!(
                "{partner} has been offline since {failing_since} and is given up: what waits for it are dead letters; \
                 `hms-ess dead-letters list --partner {partner}` shows them"
            ),
        ),
        Action::WaitsAsDead { seq } => {
            ("delivery.dead", Some(*seq), format!("{partner} is given up: the event goes out when it answers"))
        }
        Action::Recovered { before } => {
            let redriven =
                if before.gave_up_at.is_some() { "its dead letters are redriven" } else { "its backlog goes out" };
            ("partner.recovered", None, format!("{partner} answers again; {redriven} in order"))
        }
        Action::PausePartner { reason } => (
            "partner.paused",
            None,
            format!("{partner} is gone and was paused: {reason}; `hms-ess partner resume {partner}` goes on"),
        ),
        Action::Send(_)
        | Action::SendFallback(_)
        | Action::Record(_)
        | Action::Load { .. }
        | Action::LoadUrgent { .. }
        | Action::LoadLine { .. }
        | Action::LoadOpen { .. } => {
            return;
        }
    };
    let id = seq.and_then(|seq| id_of(delivery, seq));
    tracing::warn!(partner.id = %partner, event.id = id, event.seq = seq.map(|seq| seq.0), "{detail}");
    if happenings.has_listeners() {
        let event_id = seq.and_then(|seq| delivery.cells.get(seq)).map(|cell| cell.event.content.id.clone());
        happenings.tell(now, kind, event_id, Some(partner.clone()), detail);
    }
}

/// The event's id for a line of the log; an event that is not in memory is told by its number alone.
fn id_of(delivery: &Delivery, seq: Seq) -> Option<String> {
    delivery.cells.get(seq).map(|cell| cell.event.content.id.to_string())
}
