//! Drills: a dry run for chosen partners, whatever they subscribed to; and whether a partner's address can be reached at all.
//!
//! A drill goes the way of every event - log, lanes, channels, receipts - and is marked as a test, so that nothing real changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ess_channels::Reach;
use ess_core::access::Principal;
use ess_core::event::{Content, Kind, Priority, Trace};
use ess_core::id::{EventId, PartnerId, PartnerNo, Subject, Version};
use ess_core::partner::Tests;
use ess_core::problem::{Code, Problem};

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::view::{Probed, PublishReceipt};

/// A partner that is there answers a connection within this.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// What a drill is about, when no event is given.
const SUBJECT: &str = "HMS-ESS-DRILL";

impl Hub {
    /// Records a dry run for these partners and hands it to their lanes; durable when this returns. Without an event each
    /// partner gets an exercise in the version that it pinned, one event for each version.
    ///
    /// # Errors
    /// One of them is not there or takes no tests, it is no dry run or a retraction, or the store can't take it now.
    pub async fn drill(
        &self,
        content: Option<Content>,
        to: &[PartnerId],
        reason: Option<String>,
        by: &Principal,
    ) -> Result<Vec<PublishReceipt>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let stamp: String = self.now().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        let given = content.map(|content| of_given(content, &stamp)).transpose()?;
        let mut groups: BTreeMap<Version, Vec<PartnerNo>> = BTreeMap::new();
        for id in to {
            let registered = snapshot.partner(id).map_err(|problem| problem.with_field("to"))?;
            if registered.partner.tests == Tests::Skip {
                return Err(Problem::new(Code::Invalid, format!("{id} takes no tests"))
                    .with_field("to")
                    .with_hint("leave it out, or set `tests: deliver` in its file"));
            }
            let version = match &given {
                Some(content) => content.version,
                None => registered.version_of(&Subject::trusted(SUBJECT), Version(1)),
            };
            groups.entry(version).or_default().push(registered.no);
        }
        let audit = self.audit(by, "drill", format!("drill {stamp} of {} partners", to.len()), reason);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))?;
        let mut receipts = Vec::with_capacity(groups.len());
        for (version, numbers) in groups {
            let content = given.clone().unwrap_or_else(|| exercise(version, &stamp));
            receipts.push(self.publish_to(&snapshot, content, numbers, Trace::default(), by).await?);
        }
        Ok(receipts)
    }

    /// Reaches for a partner's address - the one for tests, too - without sending anything.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn probe_partner(&self, id: &PartnerId) -> Result<Probed, Problem> {
        let registered = self.delivery.registry.snapshot().partner(id)?.clone();
        let partner = &registered.partner;
        let began = tokio::time::Instant::now();
        let deadline = began + PROBE_MAX;
        let mut ways = vec![(partner.url.as_deref().unwrap_or_default(), registered.channel_for(false))];
        if let Tests::To(url) = &partner.tests {
            ways.push((url, registered.channel_for(true)));
        }
        let mut reach = Reach::Nothing;
        for (url, channel) in ways {
            let probed = match channel {
                Err(why) => Err(why.clone()),
                Ok(channel) => {
                    let probed = channel.probe(partner, url, &self.opener.dialer, deadline).await;
                    probed.map_err(|failure| failure.reason)
                }
            };
            match probed {
                Ok(reached) if reach == Reach::Nothing => reach = reached,
                Ok(_) => {}
                Err(reason) => {
                    let for_tests = if Some(url) == partner.url.as_deref() { "" } else { "the address for tests: " };
                    return Ok(Probed { reach: Err(format!("{for_tests}{reason}")), took: began.elapsed() });
                }
            }
        }
        Ok(Probed { reach: Ok(word(reach)), took: began.elapsed() })
    }
}

/// The event of an operator, under an id of its own, so that each drill sends it anew.
fn of_given(mut content: Content, stamp: &str) -> Result<Content, Problem> {
    if !content.test || content.kind == Kind::Retraction {
        return Err(Problem::new(Code::Invalid, "a drill is a dry run of a change").with_field("event"));
    }
    let id = format!("{}.drill-{stamp}", content.id);
    content.id = EventId::parse(&id).map_err(|problem| problem.with_field("event"))?;
    Ok(content)
}

fn exercise(version: Version, stamp: &str) -> Content {
    let payload = serde_json::json!({"drill": true, "note": "This is an exercise: acknowledge it and change nothing."});
    Content {
        id: EventId::trusted(&format!("{SUBJECT}-{stamp}-V{}", version.0)),
        version,
        subject: Subject::trusted(SUBJECT),
        // Invariant: a literal serialises.
        payload: Arc::from(serde_json::value::to_raw_value(&payload).expect("a literal serialises")),
        source: None,
        time: None,
        effective: None,
        expires: None,
        priority: Priority::default(),
        references: Vec::new(),
        kind: Kind::default(),
        test: true,
    }
}

fn word(reach: Reach) -> &'static str {
    match reach {
        Reach::Connected => "connected",
        Reach::Protected => "protected",
        Reach::Directory => "directory",
        Reach::Nothing => "nothing",
    }
}
