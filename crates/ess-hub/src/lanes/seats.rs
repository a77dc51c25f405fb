//! Partners come, change and go; how their lanes fare.

use std::sync::Arc;

use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Action, Command, Lane, OpenDelivery, Policy};
use ess_core::time::Time;
use ess_store::LaneStart;
use tokio::sync::oneshot;

use super::{HELD_MAX, LaneGlance, LaneReport, Lanes, Seat, errands, inboxes};
use crate::heartbeat::Beat;
use crate::past::Past;
use crate::records;
use crate::registry::Registered;

impl Lanes {
    pub(super) fn seat(&mut self, registered: Arc<Registered>, start: LaneStart, left: &[OpenDelivery], head: Seq) {
        let now = self.now();
        // Among several nodes events for it may have gone by before it was here.
        let head = if self.delivery.lease.is_shared() { head.max(self.head) } else { head };
        let mut lane = Lane::new(registered.no, Policy::of(&registered.partner), start.cursor, start.counted);
        let past = Past::since(start.health.offline_since);
        lane.resume(start.health, registered.paused_since.is_some(), start.ended, head);
        let last = start.open.last().map_or((Seq(0), 0), |open| (open.key.seq, open.key.round));
        lane.on_opened(start.open, now);
        for open in left {
            lane.leave_in_store(&open.subject, open.test, last);
        }
        // Bridges may have changed while the hub was down.
        lane.on_command(Command::Unblock, now);
        lane.want_urgent();
        let no = registered.no;
        self.stays += 1;
        let seat = Seat {
            lane,
            registered,
            armed: None,
            last_error: None,
            sent_at: now,
            sent_to: 0,
            surveyed: None,
            past,
            stay: self.stays,
            under_way: 0,
            leaving: None,
        };
        self.seats.insert(no, seat);
        let room = HELD_MAX / self.seats.len();
        for seat in self.seats.values_mut() {
            seat.lane.set_room(room);
        }
    }

    pub(super) fn reseat(&mut self, registered: Arc<Registered>, now: Time) {
        let Some(seat) = self.seats.get_mut(&registered.no) else { return };
        let is_paused = registered.paused_since.is_some();
        let has_other_shape = seat.registered.partner != registered.partner;
        if has_other_shape {
            seat.lane.on_command(Command::Policy(Policy::of(&registered.partner)), now);
            seat.lane.on_command(Command::Unblock, now);
        }
        if is_paused != seat.lane.is_paused() {
            seat.lane.on_command(if is_paused { Command::Pause } else { Command::Resume }, now);
            // What waits for the partner to ask waits for it no longer.
            inboxes::recall_all(&registered);
        }
        inboxes::change(&seat.registered, &registered);
        seat.registered = registered;
    }

    /// The partner is not here any more: removed, or served by another node without this one's doing.
    pub(super) fn unseat(&mut self, no: PartnerNo) {
        if let Some(seat) = self.seats.remove(&no) {
            inboxes::close(&seat.registered);
            if let Some(reply) = seat.leaving {
                // Who waited finds it gone.
                let _ = reply.send(false);
            }
        }
    }

    /// Sends the partner nothing more, and lets it go as soon as nothing is under way.
    pub(super) fn release(&mut self, no: PartnerNo, reply: oneshot::Sender<bool>) {
        let Some(seat) = self.seats.get_mut(&no) else {
            // Who asked may have gone.
            let _ = reply.send(false);
            return;
        };
        // What waits for the partner to ask would wait for long.
        inboxes::close(&seat.registered);
        seat.leaving = Some(reply);
        self.pump(no);
    }

    /// Hands the store what is known of the partner, and lets it go.
    pub(super) fn let_go(&mut self, no: PartnerNo) {
        let Some(mut seat) = self.seats.remove(&no) else { return };
        seat.lane.note_cursor();
        while let Some(action) = seat.lane.take_action() {
            if let Action::Record(record) = action {
                records::push(&mut self.records, no, *record);
            }
        }
        self.flush();
        if let Some(reply) = seat.leaving {
            // Who asked may have gone; the partner is found without a server and taken by somebody.
            let _ = reply.send(true);
        }
    }

    pub(super) fn inspect(&mut self, no: PartnerNo, reply: oneshot::Sender<LaneReport>) {
        let report = self.seats.get(&no).map(|seat| LaneReport {
            in_flight: seat.lane.in_flight(),
            offline_since: seat.lane.offline_since(),
            last_error: seat.last_error.clone(),
        });
        drop(reply.send(report.unwrap_or_default()));
    }

    pub(super) fn inspect_all(&self, reply: oneshot::Sender<Vec<(PartnerNo, LaneGlance)>>) {
        let glance = |(no, seat): (&PartnerNo, &Seat)| {
            (*no, LaneGlance { oldest: seat.lane.oldest(), offline_since: seat.lane.offline_since() })
        };
        drop(reply.send(self.seats.iter().map(glance).collect()));
    }

    /// Partners who want to know that the hub is there and have heard nothing for a while are told.
    pub(super) fn send_heartbeats(&mut self) {
        let now = self.now();
        for seat in self.seats.values_mut() {
            let is_due = seat.registered.partner.heartbeat.is_some_and(|span| now.since(seat.sent_at) >= span);
            if !is_due || self.is_draining || seat.lane.is_paused() {
                continue;
            }
            seat.sent_at = now;
            self.under_way += 1;
            let beat = Beat { partner_seq: seat.sent_to.max(seat.lane.counted()), sequence: self.head };
            errands::spawn_heartbeat(&self.delivery, &self.handle, &seat.registered, beat);
        }
    }
}
