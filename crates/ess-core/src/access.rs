//! Who may do what: roles and the principal behind a token.

use crate::id::{PartnerId, Subject};
use crate::partner::Glob;
use crate::time::Time;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Publishes and asks for the status of events; limited to subjects when the list is not empty.
    Publisher {
        /// Subjects it may publish.
        subjects: Vec<Glob>,
    },
    /// One partner: its own inbox, ACKs and deliveries.
    Partner(PartnerId),
    /// Runs the hub day by day: everything but tokens, redaction and the lifting of legal holds.
    Operator,
    /// Reads everything, changes nothing.
    Auditor,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's word in the API and on the command line.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Role::Publisher { .. } => "publisher",
            Role::Partner(_) => "partner",
            Role::Operator => "operator",
            Role::Auditor => "auditor",
            Role::Admin => "admin",
        }
    }

    /// Whether the role may do this.
    #[must_use]
    pub fn permits(&self, act: &Act<'_>) -> bool {
        match (self, act) {
            (Role::Admin, _) => true,
            (Role::Operator, act) => !matches!(act, Act::Tokens | Act::Redact),
            (Role::Auditor, act) => matches!(act, Act::Read | Act::ReadPartner(_) | Act::ReadEvents),
            (Role::Publisher { subjects }, Act::Publish(subject)) => {
                subjects.is_empty() || subjects.iter().any(|glob| glob.matches(subject.as_str()))
            }
            (Role::Publisher { .. }, Act::ReadEvents) => true,
            (Role::Publisher { .. }, _) => false,
            (Role::Partner(own), Act::ReadPartner(partner) | Act::Acknowledge(partner) | Act::Tend(partner)) => {
                own == *partner
            }
            (Role::Partner(_), _) => false,
        }
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Publish an event of this subject.
    Publish(&'a Subject),
    /// Read events, their status and deliveries.
    ReadEvents,
    /// Read one partner's inbox, events and deliveries.
    ReadPartner(&'a PartnerId),
    /// Acknowledge for one partner.
    Acknowledge(&'a PartnerId),
    /// What a partner may have done for itself: a test, another secret, its own events sent again.
    Tend(&'a PartnerId),
    /// Read everything else: partners, bridges, dead letters, ledger, audit trail.
    Read,
    /// Change partners, bridges, deliveries.
    Operate,
    /// Create, list and revoke tokens.
    Tokens,
    /// Take a payload away for good, and lift a legal hold.
    Redact,
}

/// The bearer of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's public name, such as `tok_3f9a0c12`; stands in the audit trail.
    pub token_id: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    pub expires_at: Option<Time>,
}
