//! The checks bite: each deliberately broken lane is caught, by the check whose business it is, within a few worlds.

use ess_core::mutant::{self, Mutant};

use super::play;

/// Worlds within which a mutant must be caught.
const WORLDS: u64 = 120;

/// Who may catch it: what breaks one promise often breaks another in the same step.
fn expected(mutant: Mutant) -> &'static [&'static str] {
    match mutant {
        Mutant::BackOffIgnored | Mutant::RetryAfterIgnored => &["back_off"],
        Mutant::CursorPassesOpen => &["nothing_lost"],
        Mutant::LineLetsTwoGo | Mutant::OlderNotSuperseded => &["order"],
        Mutant::LateAckEndsTwice => &["ends_once"],
        Mutant::ResendUnbounded => &["resends"],
        Mutant::OfflineStorm | Mutant::ProbeWithoutGate => &["probes"],
        Mutant::BlockedNotRecorded => &["visible"],
        Mutant::RecoveryForgetsOpen => &["nothing_lost", "order"],
        Mutant::RateIgnored => &["limits"],
        Mutant::CounterForgotten => &["counter", "nothing_lost"],
        Mutant::StalePageTaken => &["duplicates", "ends_once"],
    }
}

/// The first check that a broken lane falls foul of, and in which world.
fn catch(mutant: Mutant, worlds: u64) -> Option<(&'static str, u64)> {
    mutant::activate(Some(mutant));
    let caught = (0..worlds).find_map(|seed| play(seed).err().map(|failure| (failure.broken.check, seed)));
    mutant::activate(None);
    caught
}

#[test]
fn every_broken_lane_is_caught_by_the_check_whose_business_it_is() {
    for mutant in mutant::ALL {
        let Some((check, seed)) = catch(mutant, WORLDS) else { panic!("{mutant:?} lived through {WORLDS} worlds") };
        eprintln!("{mutant:?} is caught by `{check}` in world {seed}");
        assert!(expected(mutant).contains(&check), "{mutant:?} was caught by `{check}` in world {seed}");
    }
}
