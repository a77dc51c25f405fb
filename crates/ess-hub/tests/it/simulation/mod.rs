//! Deterministic simulation: seeded worlds of many partners, with outages, lies, crashes, clock jumps and operators' acts, in which
//! every promise is checked at every step.
//!
//! The lanes are the real state machines; their clock, network and store are simulated, so that a weekend takes milliseconds. A
//! seed plays the same for ever: `ESS_SIM_SEED=123` plays one, `ESS_SIM_SEEDS=100000` plays so many.

mod checks;
mod dice;
mod kept;
mod mutants;
mod operator;
mod partner;
mod plan;
mod real_store;
mod site;
mod stories;
mod world;

use std::time::Instant;

use world::{Failure, Played, Run, World};

/// Worlds that every run of the tests plays.
const SEEDS: u64 = 200;

fn play(seed: u64) -> Result<Played, Failure> {
    World::of(Run { seed, is_traced: false, altered: None }).play()
}

/// Plays it; once more, with a trace to show, when something did not hold.
#[track_caller]
fn check(seed: u64) -> Played {
    match play(seed) {
        Ok(played) => played,
        Err(untraced) => {
            let traced = World::of(Run { seed, is_traced: true, altered: None }).play();
            panic!("{}", traced.err().unwrap_or(untraced));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_promise_holds_at_every_step_of_every_world() {
    if let Some(seed) = number("ESS_SIM_SEED") {
        check(seed);
        return;
    }
    let seeds = number("ESS_SIM_SEEDS").unwrap_or(SEEDS);
    let began = Instant::now();
    let mut total = Played::default();
    for seed in 0..seeds {
        let played = check(seed);
        total.events += played.events;
        total.attempts += played.attempts;
        total.crashes += played.crashes;
        total.simulated += played.simulated;
    }
    let took = began.elapsed();
    let an_hour = seeds as f64 / took.as_secs_f64() * 3_600.0;
    eprintln!(
        "{seeds} worlds in {took:.1?} ({an_hour:.0} an hour): {} events, {} attempts, {} crashes, {} simulated hours",
        total.events,
        total.attempts,
        total.crashes,
        total.simulated.as_secs() / 3_600
    );
    assert!(total.attempts > seeds, "worlds where nothing happens prove nothing");
}

#[test]
fn what_one_partner_does_moves_no_other_partners_attempts() {
    for seed in 0..20 {
        let as_it_is = check(seed);
        let altered = World::of(Run { seed, is_traced: false, altered: Some(0) }).play();
        let altered = altered.unwrap_or_else(|failure| panic!("with partner 0 altered: {failure}"));
        assert_eq!(as_it_is.sends[1..], altered.sends[1..], "seed {seed}");
    }
}
