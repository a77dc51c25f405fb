//! `hms-ess nodes`: the hubs that share a store.

use serde_json::{Value, json};

use super::field;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Output;

/// Lists them.
pub(crate) async fn run(client: &Client, output: &Output) -> Result<()> {
    let items = client.list("/v1/nodes", 1_000).await?;
    if output.json {
        return output.json(&json!({"items": items}));
    }
    if items.is_empty() {
        return output
            .line(format_args!("this hub has its store for itself; docs/scale.md says how several share one"));
    }
    let row = |item: &Value| {
        let of = |name: &str| field(item, name);
        let marks = [(item["leads"] == true, "leads"), (item["is_this"] == true, "answers")];
        let marks: Vec<&str> = marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect();
        let lease = item["lease_left_ms"].as_u64().map_or_else(String::new, |left| format!("{left} ms"));
        vec![of("id"), of("name"), of("state"), of("partners"), lease, of("version"), of("began_at"), marks.join(", ")]
    };
    output
        .table(&["NODE", "NAME", "STATE", "PARTNERS", "LEASE", "VERSION", "BEGAN", ""], items.iter().map(row).collect())
}
