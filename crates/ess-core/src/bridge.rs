//! The Version Bridge: scripts that turn a payload of one version into another, and the shortest way through them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::id::{Digest, Subject, Version};
use crate::partner::Glob;

/// One rule: payloads of these subjects, from these versions, to that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Bridge {
    /// `<subject glob>/<from>-to-<to>`, such as `RULE-COURT-DEADLINE/3-to-1`; `>=3` is written `3+`.
    pub id: String,
    /// Which subjects.
    pub subject: Glob,
    /// From which versions.
    pub from: FromVersion,
    /// To which version.
    pub to: Version,
    /// How.
    pub rule: Rule,
    /// Inputs with the outputs they must give.
    pub examples: Vec<Example>,
}

impl Bridge {
    /// The id of a bridge with these ends.
    #[must_use]
    pub fn id_of(subject: &Glob, from: FromVersion, to: Version) -> String {
        let subject = subject.as_str();
        match from {
            FromVersion::Exactly(version) => format!("{subject}/{version}-to-{to}"),
            FromVersion::AtLeast(version) => format!("{subject}/{version}+-to-{to}"),
        }
    }

    /// SHA-256 of its script; absent when it only changes the label.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match &self.rule {
            Rule::Identity => None,
            Rule::Script { digest, .. } => Some(*digest),
        }
    }

    /// What the shortest path prefers among equals: the more specific subject, the exact version, the lower id.
    fn preference(&self) -> (Reverse<usize>, bool, &str) {
        (Reverse(self.subject.specificity()), matches!(self.from, FromVersion::AtLeast(_)), &self.id)
    }
}

/// From which versions a bridge leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromVersion {
    /// `3`.
    Exactly(Version),
    /// `">=3"`.
    AtLeast(Version),
}

/// Why a text names no source version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version from which a bridge can lead: write 3 or >=3")]
pub struct NotAVersion(pub String);

impl FromVersion {
    /// Parses `3`, `>=3` or, as in a bridge's id, `3+`.
    ///
    /// # Errors
    /// When the text is none of these, or the version is zero.
    pub fn parse(text: &str) -> Result<Self, NotAVersion> {
        let wrong = || NotAVersion(text.to_owned());
        let text = text.trim();
        let (digits, open) = match (text.strip_prefix(">="), text.strip_suffix('+')) {
            (Some(digits), _) => (digits.trim_start(), true),
            (None, Some(digits)) => (digits, true),
            (None, None) => (text, false),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let version = Version(digits.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?);
        Ok(if open { FromVersion::AtLeast(version) } else { FromVersion::Exactly(version) })
    }

    /// Whether a payload of this version may enter.
    #[must_use]
    pub fn takes(self, version: Version) -> bool {
        match self {
            FromVersion::Exactly(from) => version == from,
            FromVersion::AtLeast(from) => version >= from,
        }
    }
}

impl fmt::Display for FromVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FromVersion::Exactly(version) => write!(f, "{version}"),
            FromVersion::AtLeast(version) => write!(f, ">={version}"),
        }
    }
}

/// How a bridge converts.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Only the version label changes.
    Identity,
    /// JSONata text with its digest.
    Script {
        /// The script.
        text: String,
        /// SHA-256 of the text.
        digest: Digest,
    },
}

/// An input with the output that it must give; both JSON texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The payload that goes in.
    pub input: String,
    /// The payload that must come out.
    pub output: String,
}

/// Every bridge there is; finds the shortest way from one version to another.
#[derive(Debug, Clone, Default)]
pub struct Bridges {
    /// In the order of preference.
    all: Vec<Arc<Bridge>>,
}

/// Why there is no way from one version to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoPath {
    /// What is missing.
    pub reason: String,
    /// A command to paste that mends it.
    pub mend: String,
}

/// The most paths that [`Bridges::rival_paths`] returns.
pub const RIVAL_PATHS_MAX: usize = 16;

impl Bridges {
    /// All bridges, in any order.
    #[must_use]
    pub fn new(mut all: Vec<Arc<Bridge>>) -> Self {
        all.sort_by(|a, b| a.preference().cmp(&b.preference()));
        Self { all }
    }

    /// The bridges in the order of preference.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bridge>> {
        self.all.iter()
    }

    /// The bridge of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<Bridge>> {
        self.all.iter().find(|bridge| bridge.id == id)
    }

    /// The shortest chain from one version to another, up or down; empty when they are the same.
    ///
    /// Among chains of one length, the one whose first differing bridge is preferred: longer literal part of the
    /// subject glob, then exact `from` before `>=`, then id.
    ///
    /// # Errors
    /// When no chain leads there: what is missing, and the command that mends it.
    pub fn path(&self, subject: &Subject, from: Version, to: Version) -> Result<Vec<Arc<Bridge>>, NoPath> {
        let fitting = self.fitting(subject);
        let distances = distances_to(&fitting, to, from);
        if !distances.contains_key(&from) {
            return Err(no_path(subject, from, to));
        }
        let mut path = Vec::new();
        let mut at = from;
        while at != to {
            let Some(bridge) = next_bridges(&fitting, &distances, at).next() else {
                return Err(no_path(subject, from, to));
            };
            path.push(Arc::clone(bridge));
            at = bridge.to;
        }
        Ok(path)
    }

    /// The other chains of the same, shortest length: they should give the same payloads. At most
    /// [`RIVAL_PATHS_MAX`].
    #[must_use]
    pub fn rival_paths(&self, subject: &Subject, from: Version, to: Version) -> Vec<Vec<Arc<Bridge>>> {
        let fitting = self.fitting(subject);
        let distances = distances_to(&fitting, to, from);
        let mut found = Vec::new();
        if from != to && distances.contains_key(&from) {
            let mut path = Vec::new();
            collect_paths(&fitting, &distances, (from, to), &mut path, &mut found);
        }
        // The first one is the path that is taken.
        found.into_iter().skip(1).collect()
    }

    fn fitting(&self, subject: &Subject) -> Vec<&Arc<Bridge>> {
        self.all.iter().filter(|bridge| bridge.subject.matches(subject.as_str())).collect()
    }
}

/// How many bridges each version is away from `to`; `start` is asked for in any case.
///
/// An open range takes every version from its lower end on, so the versions that matter are those that bridges lead
/// to and the one that a payload starts with.
fn distances_to(bridges: &[&Arc<Bridge>], to: Version, start: Version) -> BTreeMap<Version, usize> {
    let mut versions: Vec<Version> = bridges.iter().map(|bridge| bridge.to).chain([start, to]).collect();
    versions.sort_unstable();
    versions.dedup();
    let mut distances = BTreeMap::from([(to, 0)]);
    let mut ring = vec![to];
    for distance in 1.. {
        let mut wider = Vec::new();
        for bridge in bridges.iter().filter(|bridge| ring.contains(&bridge.to)) {
            for version in versions.iter().filter(|version| bridge.from.takes(**version)) {
                if !distances.contains_key(version) {
                    distances.insert(*version, distance);
                    wider.push(*version);
                }
            }
        }
        if wider.is_empty() {
            break;
        }
        ring = wider;
    }
    distances
}

/// The bridges that lead one step nearer, preferred ones first.
fn next_bridges<'a>(
    bridges: &'a [&'a Arc<Bridge>],
    distances: &'a BTreeMap<Version, usize>,
    at: Version,
) -> impl Iterator<Item = &'a Arc<Bridge>> {
    let here = distances.get(&at).copied().unwrap_or(0);
    bridges
        .iter()
        .copied()
        .filter(move |bridge| bridge.from.takes(at) && distances.get(&bridge.to).is_some_and(|there| there + 1 == here))
}

fn collect_paths(
    bridges: &[&Arc<Bridge>],
    distances: &BTreeMap<Version, usize>,
    (at, to): (Version, Version),
    path: &mut Vec<Arc<Bridge>>,
    found: &mut Vec<Vec<Arc<Bridge>>>,
) {
    if at == to {
        found.push(path.clone());
        return;
    }
    for bridge in next_bridges(bridges, distances, at) {
        if found.len() > RIVAL_PATHS_MAX {
            return;
        }
        path.push(Arc::clone(bridge));
        collect_paths(bridges, distances, (bridge.to, to), path, found);
        path.pop();
    }
}

fn no_path(subject: &Subject, from: Version, to: Version) -> NoPath {
    NoPath {
        reason: format!("no bridge leads {subject} from version {from} to {to}"),
        mend: format!(
            "hms-ess bridge add bridges/{subject}/{from}-to-{to}.jsonata --subject {subject} --from {from} --to {to}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bridge(subject: &str, from: &str, to: u32) -> Arc<Bridge> {
        let (subject, from) = (Glob::trusted(subject), FromVersion::parse(from).unwrap());
        Arc::new(Bridge {
            id: Bridge::id_of(&subject, from, Version(to)),
            subject,
            from,
            to: Version(to),
            rule: Rule::Identity,
            examples: Vec::new(),
        })
    }

    #[track_caller]
    fn check(bridges: &[(&str, &str, u32)], ends: (u32, u32), expected: &[&str]) {
        let bridges = Bridges::new(bridges.iter().map(|(subject, from, to)| bridge(subject, from, *to)).collect());
        let path = bridges.path(&Subject::trusted("FEE-1"), Version(ends.0), Version(ends.1)).unwrap();
        assert_eq!(path.iter().map(|bridge| bridge.id.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_shortest_chain_is_taken_up_and_down() {
        let chain = [("*", "3", 2), ("*", "2", 1), ("*", "1", 2), ("*", "2", 3)];
        check(&chain, (3, 1), &["*/3-to-2", "*/2-to-1"]);
        check(&chain, (1, 3), &["*/1-to-2", "*/2-to-3"]);
        check(&chain, (2, 2), &[]);
        check(&[&chain[..], &[("FEE-*", ">=3", 1)]].concat(), (7, 1), &["FEE-*/3+-to-1"]);
    }

    #[test]
    fn the_more_specific_the_exact_and_the_lower_id_win_in_this_order() {
        check(&[("*", "3", 1), ("FEE-*", ">=2", 1)], (3, 1), &["FEE-*/2+-to-1"]);
        check(&[("FEE-*", ">=2", 1), ("FEE-*", "3", 1)], (3, 1), &["FEE-*/3-to-1"]);
        check(&[("FEE-1*", "3", 1), ("FEE-1", "3", 1)], (3, 1), &["FEE-1/3-to-1"]);
        check(&[("F*E-1", "3", 1), ("FE*-1", "3", 1)], (3, 1), &["F*E-1/3-to-1"]);
    }

    #[test]
    fn a_missing_bridge_is_named_by_the_command_that_mends_it() {
        let none = Bridges::default().path(&Subject::trusted("FEE-1"), Version(3), Version(1)).unwrap_err();
        assert_eq!(none.mend, "hms-ess bridge add bridges/FEE-1/3-to-1.jsonata --subject FEE-1 --from 3 --to 1");
    }

    #[test]
    fn other_shortest_chains_are_rivals() {
        let bridges = Bridges::new(
            [("*", "3", 2), ("*", "2", 1), ("FEE-*", "3", 4), ("FEE-*", "4", 1)]
                .map(|(subject, from, to)| bridge(subject, from, to))
                .to_vec(),
        );
        let rivals = bridges.rival_paths(&Subject::trusted("FEE-1"), Version(3), Version(1));
        assert_eq!(rivals.len(), 1);
        assert_eq!(rivals[0][0].id, "*/3-to-2");
    }

    #[test]
    fn a_source_version_is_written_in_three_ways() {
        assert_eq!(FromVersion::parse("3"), Ok(FromVersion::Exactly(Version(3))));
        assert_eq!(FromVersion::parse(">=3"), Ok(FromVersion::AtLeast(Version(3))));
        assert_eq!(FromVersion::parse("3+"), Ok(FromVersion::AtLeast(Version(3))));
        for wrong in ["", "0", ">=", "+", "-1", ">=3+", "v3", "99999999999"] {
            assert!(FromVersion::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// Breadth first over versions 1 to 8, without any of the shortcuts.
    fn naive_length(bridges: &[Arc<Bridge>], from: u32, to: u32) -> Option<usize> {
        let mut reached = vec![from];
        for length in 0..=10 {
            if reached.contains(&to) {
                return Some(length);
            }
            let next: Vec<u32> = bridges
                .iter()
                .filter(|bridge| reached.iter().any(|version| bridge.from.takes(Version(*version))))
                .map(|bridge| bridge.to.0)
                .collect();
            reached.extend(next);
        }
        None
    }

    proptest! {
        #[test]
        fn a_path_is_as_short_as_a_plain_search_finds_it_and_holds_together(
            raw in proptest::collection::vec((1_u32..8, any::<bool>(), 1_u32..8), 0..12),
            from in 1_u32..8,
            to in 1_u32..8,
        ) {
            let all: Vec<_> = raw
                .iter()
                .map(|(from, open, to)| bridge("*", &format!("{}{from}", if *open { ">=" } else { "" }), *to))
                .collect();
            let subject = Subject::trusted("FEE-1");
            let forwards = Bridges::new(all.clone()).path(&subject, Version(from), Version(to));
            let backwards = Bridges::new(all.iter().rev().cloned().collect()).path(&subject, Version(from), Version(to));
            prop_assert_eq!(&forwards, &backwards);
            prop_assert_eq!(forwards.as_ref().ok().map(Vec::len), naive_length(&all, from, to));
            let mut at = Version(from);
            for bridge in forwards.iter().flatten() {
                prop_assert!(bridge.from.takes(at));
                at = bridge.to;
            }
            prop_assert!(forwards.is_err() || at == Version(to));
        }
    }
}
