//! The way of an event to its partners as a picture: four stops, one band for each version. Pure.

use std::collections::BTreeMap;

use ess_core::delivery::State;
use ess_hub::journey::Leg;

use super::words::{count, number};

/// Bands that are drawn; an event has few versions.
const GROUPS_MAX: usize = 8;
const NO_BRIDGE: &str = "no bridge leads there";
/// Units from one band to the next.
const BAND: usize = 72;

/// A stop on the way of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    /// `done`, `warn`, `bad`, `ahead`.
    pub(crate) class: &'static str,
    pub(crate) icon: &'static str,
    pub(crate) text: String,
    /// Which scripts, with their digests.
    pub(crate) note: String,
}

/// All deliveries that travel in one version and by the same scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where the band is drawn.
    pub(crate) y: usize,
    pub(crate) conversion: String,
    pub(crate) scripts: String,
    pub(crate) partners: usize,
    pub(crate) delivered: usize,
    pub(crate) acked: usize,
    pub(crate) blocked: usize,
}

impl Group {
    /// How the converting went, as a class.
    pub(crate) fn converted_class(&self) -> &'static str {
        if self.blocked > 0 || self.scripts == NO_BRIDGE { "bad" } else { "good" }
    }

    /// Whether all of them came so far, as a class.
    pub(crate) fn class(&self, reached: &usize) -> &'static str {
        if *reached == self.partners { "good" } else { "warn" }
    }
}

/// The stops of one delivery.
pub(crate) fn stops(leg: &Leg) -> Vec<Stop> {
    let stop = |class, icon, text: String| Stop { class, icon, text, note: String::new() };
    let state = leg.delivery.state;
    let conversion = conversion(leg);
    let notes: Vec<String> = leg
        .scripts
        .iter()
        .map(|script| match script.digest {
            Some(digest) => format!("{} (SHA-256 {digest})", script.name),
            None => script.name.clone(),
        })
        .collect();
    let converted = match state {
        State::Blocked => stop("bad", "stop", format!("{conversion} blocked")),
        State::Pending | State::Sending if leg.delivery.attempts_made == 0 => stop("ahead", "ring", conversion),
        _ => stop("done", "dot", conversion),
    };
    let delivered = match state {
        State::Acked | State::AwaitingAck | State::Nack => stop("done", "dot", "delivered".to_owned()),
        State::Retrying => stop(
            "warn",
            "again",
            format!("{} failed", count(u64::from(leg.delivery.attempts_made), "attempt", "attempts")),
        ),
        State::Dead => stop("bad", "cross", "given up".to_owned()),
        State::Superseded | State::Cancelled => stop("ahead", "skip", "not needed".to_owned()),
        State::Pending | State::Sending | State::Blocked => stop("ahead", "ring", "delivered".to_owned()),
    };
    let acked = match state {
        State::Acked => stop("done", "check", "acknowledged".to_owned()),
        State::Nack => stop("bad", "cross", "refused".to_owned()),
        State::AwaitingAck => stop("warn", "question", "ACK outstanding".to_owned()),
        _ => stop("ahead", "ring", "acknowledged".to_owned()),
    };
    let recorded = stop("done", "dot", "recorded".to_owned());
    vec![recorded, Stop { note: notes.join(", then "), ..converted }, delivered, acked]
}

fn conversion(leg: &Leg) -> String {
    if leg.version == leg.published {
        return format!("version {}", leg.version);
    }
    format!("version {} to {}", leg.published, leg.version)
}

/// All deliveries by version and scripts; of replays the newest counts.
pub(crate) fn groups(legs: &[Leg]) -> Vec<Group> {
    let mut newest: BTreeMap<&str, &Leg> = BTreeMap::new();
    for leg in legs {
        let known = newest.entry(leg.delivery.partner.as_str()).or_insert(leg);
        // An acknowledged round stays the partner's word.
        if known.delivery.state != State::Acked {
            *known = leg;
        }
    }
    let mut found: BTreeMap<(std::cmp::Reverse<u32>, String), Group> = BTreeMap::new();
    for leg in newest.into_values() {
        let names: Vec<&str> = leg.scripts.iter().map(|script| script.name.as_str()).collect();
        let scripts = match (names.is_empty(), leg.version == leg.published) {
            (false, _) => names.join(", then "),
            (true, true) => "as published".to_owned(),
            (true, false) => NO_BRIDGE.to_owned(),
        };
        let empty = Group {
            y: 0,
            conversion: conversion(leg),
            scripts: scripts.clone(),
            partners: 0,
            delivered: 0,
            acked: 0,
            blocked: 0,
        };
        let group = found.entry((std::cmp::Reverse(leg.version.0), scripts)).or_insert(empty);
        group.partners += 1;
        let state = leg.delivery.state;
        group.delivered += usize::from(matches!(state, State::Acked | State::AwaitingAck | State::Nack));
        group.acked += usize::from(state == State::Acked);
        group.blocked += usize::from(state == State::Blocked);
    }
    let mut groups: Vec<Group> = found.into_values().take(GROUPS_MAX).collect();
    for (index, group) in groups.iter_mut().enumerate() {
        group.y = index * BAND;
    }
    groups
}

/// How tall the picture is.
pub(crate) fn height(groups: &[Group]) -> usize {
    groups.len().max(1) * BAND
}

/// The picture in words.
pub(crate) fn words(groups: &[Group], partners: u32) -> String {
    let bands = groups.iter().map(|group| {
        format!(
            "{} ({}): {} of {} delivered, {} acknowledged, {} blocked",
            group.conversion,
            group.scripts,
            number(group.delivered as u64),
            number(group.partners as u64),
            number(group.acked as u64),
            number(group.blocked as u64),
        )
    });
    format!(
        "Recorded for {}. {}.",
        count(u64::from(partners), "partner", "partners"),
        bands.collect::<Vec<_>>().join("; ")
    )
}
