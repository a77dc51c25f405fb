//! Nothing recorded is lost: what the cursor passes has ended or has a row of its own, at every step; and when all has settled,
//! every delivery has ended or visibly waits for its partner's word.

use ess_core::id::{Seq, Subject};
use ess_core::lane::{OpenDelivery, OpenState, Record};
use ess_core::partner::Order;

use super::{Fact, Scene};
use crate::simulation::kept::{Change, Place};

#[derive(Default)]
pub struct NothingLost {
    cursor: Seq,
}

impl NothingLost {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Recorded(Change::Lane(Record::Cursor { cursor, counted })) => {
                self.on_cursor(*cursor, *counted, scene)?;
                self.cursor = *cursor;
            }
            Fact::Restarted => self.cursor = scene.store.durable.cursor,
            Fact::Settled => return settled(scene),
            _ => {}
        }
        Ok(())
    }

    fn on_cursor(&self, cursor: Seq, counted: u64, scene: &Scene<'_>) -> Result<(), String> {
        let kept = &scene.store.live;
        let to = scene.log.partition_point(|offer| offer.seq <= cursor);
        let from = scene.log.partition_point(|offer| offer.seq <= self.cursor);
        if to as u64 != counted {
            return Err(format!("the cursor at {cursor} counts {counted} events, they are {to}"));
        }
        for offer in &scene.log[from.min(to)..to] {
            let place = (offer.seq, 0);
            if kept.end_of(&place).is_none() && !kept.open.contains_key(&place) {
                return Err(format!("the cursor passed {place:?}, which has neither ended nor a row"));
            }
        }
        Ok(())
    }
}

fn settled(scene: &Scene<'_>) -> Result<(), String> {
    let kept = &scene.store.durable;
    let is_outstanding = |open: &OpenDelivery| open.state == OpenState::AwaitingAck && open.due_at.is_none();
    // Whoever asks for order waits for the partner's word: what is behind an outstanding one stays there, visibly.
    let waits = |place: Place, subject: &Subject, test: bool| {
        scene.policy.order == Order::Subject
            && kept
                .open
                .range(..place)
                .any(|(_, open)| is_outstanding(open) && (&open.subject, open.test) == (subject, test))
    };
    for offer in scene.log {
        let place = (offer.seq, 0);
        let is_there = kept.end_of(&place).is_some() || kept.open.contains_key(&place);
        if !is_there && !waits(place, &offer.subject, offer.test) {
            return Err(format!("{place:?} never ended, and has no row"));
        }
    }
    for (place, open) in &kept.open {
        if !is_outstanding(open) && !waits(*place, &open.subject, open.test) {
            return Err(format!("{place:?} is still {:?} after everything settled", open.state));
        }
    }
    Ok(())
}
