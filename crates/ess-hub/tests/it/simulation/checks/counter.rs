//! The partner's counter has no gap: the first sending of its n-th event carries n, before and after a crash, and a replay carries
//! the number of the first sending.

use std::collections::BTreeMap;

use ess_core::id::Seq;

use super::{Fact, Scene};

#[derive(Default)]
pub struct Counter {
    ranks: BTreeMap<Seq, u64>,
}

impl Counter {
    pub fn see(&mut self, fact: &Fact<'_>, _scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Published { offer, rank } => {
                self.ranks.insert(offer.seq, *rank);
            }
            Fact::Sent(attempt) => {
                let rank = self.ranks.get(&attempt.seq).copied();
                let may_lack = attempt.round > 0 && attempt.partner_seq.is_none();
                if attempt.partner_seq != rank && !may_lack {
                    return Err(format!(
                        "event {} went out as number {:?}, it is {rank:?}",
                        attempt.seq, attempt.partner_seq
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
