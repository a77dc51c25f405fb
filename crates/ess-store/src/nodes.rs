//! Several hubs on one database: who they are, and what one hears of the others.

use std::time::Duration;

use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;

use crate::types::{StoredPartner, StoredRules, StoredToken};

pub use crate::postgres::Nodes;

/// A node's number: its epoch. Never given again, so that what was given up can't be taken for what came after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(pub u64);

impl std::fmt::Display for NodeNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A node as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLine {
    /// Its number.
    pub no: NodeNo,
    /// What it calls itself.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// When it came.
    pub began_at: Time,
    /// What is left of its lease; none when it has lapsed.
    pub lease_left: Option<Duration>,
    /// It hands its partners over and goes.
    pub is_leaving: bool,
}

/// What a node finds when it renews its lease.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The lease was renewed; false when the node was given up meanwhile.
    pub is_in: bool,
    /// All nodes, by number.
    pub nodes: Vec<NodeLine>,
    /// The last event.
    pub head: Seq,
    /// How often partners, rules and tokens were changed.
    pub registry: u64,
    /// Changes when a node goes or partners change hands.
    pub terms: u64,
    /// Is another number after commits, whichever node made them.
    pub commits: i64,
}

/// What was changed in the registry since.
#[derive(Debug)]
pub struct RegistryChanges {
    /// How often partners, rules and tokens were changed, these ones included.
    pub number: u64,
    /// Partners that were added, changed, paused or removed.
    pub partners: Vec<StoredPartner>,
    /// All rules, when one of them was changed.
    pub rules: Option<StoredRules>,
    /// All tokens, when one of them was changed.
    pub tokens: Option<Vec<StoredToken>>,
}

/// What a node is told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// There is a new event.
    Log,
    /// Partners, rules or tokens were changed.
    Registry,
    /// A node came or went, or partners changed hands.
    Seats,
    /// There is post for this node.
    Post(NodeNo),
    /// The ear was lost and found again: anything may have been missed.
    Lost,
}

impl Notice {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "log" => Some(Self::Log),
            "registry" => Some(Self::Registry),
            "seats" => Some(Self::Seats),
            other => other.strip_prefix("post ")?.parse().ok().map(|no| Self::Post(NodeNo(no))),
        }
    }
}

/// Which of these nodes serves a partner when nothing speaks against it: rendezvous hashing, so that a node that comes or goes moves
/// its own share only.
#[must_use]
pub fn home_of(partner: PartnerNo, nodes: &[NodeNo]) -> Option<NodeNo> {
    nodes.iter().copied().max_by_key(|node| {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&partner.0.to_be_bytes());
        bytes[4..].copy_from_slice(&node.0.to_be_bytes());
        (ess_core::id::Digest::of(&bytes).0, *node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes(nodes: &[u64]) -> Vec<u64> {
        let nodes: Vec<NodeNo> = nodes.iter().copied().map(NodeNo).collect();
        (1..=1_000).map(|no| home_of(PartnerNo(no), &nodes).unwrap().0).collect()
    }

    #[test]
    fn partners_are_spread_evenly() {
        let homes = homes(&[7, 8, 9, 12]);
        for node in [7, 8, 9, 12] {
            let share = homes.iter().filter(|home| **home == node).count();
            assert!((200..300).contains(&share), "{node} has {share}");
        }
    }

    #[test]
    fn a_node_that_goes_moves_its_own_share_only() {
        for (before, after) in homes(&[7, 8, 9]).into_iter().zip(homes(&[7, 9])) {
            assert!(before == after || before == 8, "{before} {after}");
        }
        assert_eq!(home_of(PartnerNo(1), &[]), None);
    }

    #[test]
    fn a_notice_is_read_or_left() {
        assert_eq!(Notice::parse("log"), Some(Notice::Log));
        assert_eq!(Notice::parse("post 17"), Some(Notice::Post(NodeNo(17))));
        assert_eq!(Notice::parse("post x"), None);
        assert_eq!(Notice::parse("something of a newer hub"), None);
    }
}
