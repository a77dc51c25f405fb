//! `/dashboard/nodes`: the hubs on one store, who of them lives, and who serves how many partners.

use std::collections::BTreeSet;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::time::Time;
use ess_hub::NodeView;

use super::Screen;
use super::frame::{Content, Tab, page, permit, render};
use super::visitor::Visitor;
use super::words::{self, Moment, Pill};
use crate::query::Query;
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard/nodes.html")]
struct Live {
    is_shared: bool,
    count: String,
    /// What somebody should know, with its tone.
    notices: Vec<(&'static str, String)>,
    rows: Vec<Row>,
}

struct Row {
    number: u64,
    name: String,
    /// What it is beside a hub.
    part: Option<String>,
    pill: Pill,
    partners: String,
    lease: String,
    version: String,
    came: Moment,
}

/// All hubs on the store.
pub(crate) async fn list_nodes(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&[])?;
    let nodes = site.hub.nodes().await?;
    let live = render(&live(&nodes, site.hub.is_shared(), site.hub.time()))?;
    page(&site, &visitor, &Content { title: "Hubs".to_owned(), tab: Tab::Nodes, live: &live, fixed: "" }).await
}

fn live(nodes: &[NodeView], is_shared: bool, now: Time) -> Live {
    let live = nodes.iter().filter(|node| node.state == "live").count();
    let hubs = words::count(nodes.len() as u64, "hub", "hubs");
    Live {
        is_shared,
        count: format!("{hubs}, {} live", words::number(live as u64)),
        notices: notices(nodes),
        rows: nodes.iter().map(|node| row(node, now)).collect(),
    }
}

fn notices(nodes: &[NodeView]) -> Vec<(&'static str, String)> {
    let lapsed = nodes.iter().filter(|node| node.state == "lapsed").map(|node| {
        let text = format!(
            "{} is not heard of. When it stays away, the others take its partners over in a moment.",
            node.name
        );
        ("bad", text)
    });
    let mut notices: Vec<_> = lapsed.collect();
    if !nodes.is_empty() && !nodes.iter().any(|node| node.is_this) {
        let text = "This hub is not one of them now: it sends nothing, and comes back under another number.";
        notices.push(("bad", text.to_owned()));
    }
    let versions: BTreeSet<&str> = nodes.iter().map(|node| node.version.as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        let text = format!(
            "They are of several versions: {}. Replace the older ones one after the other.",
            versions.join(", ")
        );
        notices.push(("calm", text));
    }
    notices
}

fn row(node: &NodeView, now: Time) -> Row {
    let this = node.is_this.then_some("this one");
    let leads = node.leads.then_some("signs the ledger and clears away, for all");
    let parts: Vec<&str> = this.into_iter().chain(leads).collect();
    Row {
        number: node.no,
        name: node.name.clone(),
        part: (!parts.is_empty()).then(|| parts.join("; ")),
        pill: words::of_node(node.state),
        partners: words::number(node.partners),
        lease: node.lease_left.map_or_else(|| "has run out".to_owned(), |left| format!("{} left", words::span(left))),
        version: node.version.clone(),
        came: Moment::of(node.began_at, now),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(no: u64, state: &'static str, version: &str) -> NodeView {
        NodeView {
            no,
            name: format!("hub-{no}"),
            version: version.to_owned(),
            began_at: Time::from_micros(0),
            lease_left: (state != "lapsed").then_some(Duration::from_millis(4_200)),
            state,
            partners: 1_200,
            leads: no == 1,
            is_this: no == 2,
        }
    }

    #[test]
    fn who_is_lost_and_who_is_of_another_version_is_said_in_words() {
        let nodes = [node(1, "live", "0.1.0"), node(2, "live", "0.2.0"), node(3, "lapsed", "0.1.0")];
        let live = live(&nodes, true, Time::from_micros(60_000_000));
        assert_eq!(live.count, "3 hubs, 2 live");
        let told: Vec<&str> = live.notices.iter().map(|(_, text)| text.as_str()).collect();
        assert!(told[0].starts_with("hub-3 is not heard of") && told[1].contains("0.1.0, 0.2.0"), "{told:?}");
        let rows: Vec<(&str, &str)> = live.rows.iter().map(|row| (row.pill.word, row.lease.as_str())).collect();
        assert_eq!(rows, [("live", "4.2 s left"), ("live", "4.2 s left"), ("not heard of", "has run out")]);
        assert_eq!(live.rows[0].part.as_deref(), Some("signs the ledger and clears away, for all"));
        assert_eq!((live.rows[1].part.as_deref(), live.rows[2].partners.as_str()), (Some("this one"), "1,200"));
    }

    #[test]
    fn a_hub_that_the_others_gave_up_says_so() {
        let nodes = [node(1, "live", "0.1.0")];
        assert_eq!(notices(&nodes).iter().filter(|(tone, _)| *tone == "bad").count(), 1);
        assert!(notices(&[node(1, "live", "0.1.0"), node(2, "live", "0.1.0")]).is_empty());
    }
}
