//! What the demo shows, as it happens.

use std::time::{Duration, Instant};

use ess_core::signature::SigningSecret;
use http::Method;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::partners::{Actor, Seen};
use crate::client::{Body, Client};
use crate::commands::status;
use crate::config::profile::Target;
use crate::failure::Result;
use crate::output::Output;
use crate::serve::Running;
use crate::stream::{Stream, Told};

/// The event of the mission, as it prints it.
const EVENT: &str = r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"payload":{"deadline":"16:00","timezone":"local"}}"#;
/// From version 3 to the shape that COURT-CAL was built for.
const BRIDGE: &str = r#"{
  "filing_cutoff_hour": $number($substringBefore(deadline, ":")),
  "filing_cutoff_minute": $number($substringAfter(deadline, ":")),
  "local_time": timezone = "local"
}"#;
/// How long LAW-FIRM-SYS stays away after the publish.
const AWAY: Duration = Duration::from_millis(2_500);
/// How long COUNTY-KIOSK takes to answer.
const LATE: Duration = Duration::from_secs(2);
/// The story ends by then.
const PATIENCE: Duration = Duration::from_secs(30);

struct Teller<'a> {
    output: &'a Output,
    began: Instant,
}

impl Teller<'_> {
    fn say(&self, who: &str, what: &str) -> Result<()> {
        let at = format!("+{:.3}s", self.began.elapsed().as_secs_f64());
        if self.output.colour {
            self.output.line(format_args!("{:>9}  {:<13} {what}", at.dimmed(), who.bold()))
        } else {
            self.output.line(format_args!("{at:>9}  {who:<13} {what}"))
        }
    }
}

/// Tells the story; true when every partner acknowledged.
pub(super) async fn tell(running: &Running, output: &Output) -> Result<bool> {
    let teller = Teller { output, began: Instant::now() };
    let client = client(running)?;
    output.line("HMS-ESS: update the rule once, watch the partners salute.\n")?;
    teller.say("hub", &format!("listens on {} (TLS, its own CA)", running.url))?;
    teller.say("hub", &format!("keeps its log in {}", running.data().display()))?;
    let (seen_sender, mut seen) = mpsc::unbounded_channel();
    let mut actors = vec![
        Actor::new("COURT-CAL", Duration::ZERO, seen_sender.clone()).await?,
        Actor::new("LAW-FIRM-SYS", Duration::ZERO, seen_sender.clone()).await?,
        Actor::new("COUNTY-KIOSK", LATE, seen_sender).await?,
    ];
    actors[1].close();
    for actor in &mut actors {
        if actor.id != "LAW-FIRM-SYS" {
            actor.open()?;
        }
        add_partner(&client, actor).await?;
    }
    teller.say("COURT-CAL", "webhook, pinned to version 1")?;
    teller.say("LAW-FIRM-SYS", "webhook, down at the moment")?;
    teller.say("COUNTY-KIOSK", "webhook, takes its time")?;
    add_bridge(&client).await?;
    teller.say("bridge", "RULE-COURT-DEADLINE 3 -> 1, a JSONata script")?;
    let mut stream = Stream::open(&client).await?;
    let body = Body::Bytes("application/json", EVENT.into());
    let reply = client.ask(Method::POST, "/v1/events", body).await?;
    teller.say("HMS-GOV", &format!("publishes {EVENT}"))?;
    let published = Instant::now();
    let receipt = reply.value()?;
    teller.say(
        "hub",
        &format!(
            "answers {}: recorded as number {}, for {} partners",
            reply.status.as_u16(),
            receipt["sequence"],
            receipt["partners"]
        ),
    )?;
    follow(&teller, &client, &mut stream, &mut seen, &mut actors[1], published).await?;
    output.line("\nWho acknowledged RULE-COURT-DEADLINE-V3:\n")?;
    let words = client.get("/v1/events/RULE-COURT-DEADLINE-V3/status").await?;
    status::show(&words, output)?;
    Ok(words.as_object().is_some_and(|map| map.len() == 3 && map.values().all(|word| word == "ack")))
}

/// Shows what the hub and the partners say until nothing is open.
async fn follow(
    teller: &Teller<'_>,
    client: &Client,
    stream: &mut Stream,
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    away: &mut Actor,
    published: Instant,
) -> Result<()> {
    let mut ended = 0;
    let mut is_away = true;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let comes_back = tokio::time::Instant::from_std(published + AWAY);
    while ended < 3 {
        tokio::select! {
            told = stream.next() => {
                let Some(told) = told? else { break };
                ended += show_told(teller, &told)?;
            }
            Some(seen) = seen.recv() => {
                let signed = if seen.is_signed { "signature fits" } else { "SIGNATURE DOES NOT FIT" };
                teller.say(seen.partner, &format!("receives {} ({signed})", seen.body))?;
            }
            () = tokio::time::sleep_until(comes_back), if is_away => {
                is_away = false;
                away.open()?;
                teller.say(away.id, "is back")?;
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    // The last receipt's commit: what is shown is durable.
    client.get("/v1/events/RULE-COURT-DEADLINE-V3/status?wait=5s").await.map(drop)
}

/// Counts what ended.
fn show_told(teller: &Teller<'_>, told: &Told) -> Result<u32> {
    match told.kind.as_str() {
        "delivery.acked" => {
            teller.say("hub", &format!("{} {}", teller.output.word("ack"), told.text("detail")))?;
            Ok(1)
        }
        "delivery.retrying" => {
            teller.say("hub", &format!("{} {}", teller.output.word("retrying"), told.text("detail")))?;
            Ok(0)
        }
        "delivery.dead" | "delivery.nack" => {
            teller.say("hub", &format!("{} {}", teller.output.word("dead"), told.text("detail")))?;
            Ok(1)
        }
        "delivery.blocked" | "partner.offline" | "partner.recovered" => {
            teller.say("hub", told.text("detail"))?;
            Ok(0)
        }
        _ => Ok(0),
    }
}

async fn add_partner(client: &Client, actor: &Actor) -> Result<()> {
    let mut document = json!({
        "id": actor.id,
        "url": format!("http://{}/court-calendar/update", actor.address),
        "channel": "webhook",
        "retry": {"first": "1s", "factor": 2, "max": "5s"},
    });
    if actor.id == "COURT-CAL" {
        document["accepts_version"] = json!(1);
    }
    // A data directory that was used before knows the partners under their old addresses.
    let added = client.post("/v1/partners?replace=true", &document).await?.value()?;
    let secret = match added["secret"].as_str() {
        Some(secret) => secret.to_owned(),
        None => rotated(client, actor.id).await?,
    };
    if let Ok(secret) = SigningSecret::parse(&secret) {
        // Set once; the partner was just made.
        drop(actor.secret.set(secret));
    }
    Ok(())
}

async fn rotated(client: &Client, id: &str) -> Result<String> {
    let path = format!("/v1/partners/{id}/rotate-secret");
    let value: Value = client.post(&path, &json!({"overlap": "0s"})).await?.value()?;
    Ok(value["secret"].as_str().unwrap_or_default().to_owned())
}

async fn add_bridge(client: &Client) -> Result<()> {
    let document = json!({
        "subject": "RULE-COURT-DEADLINE",
        "from": 3,
        "to": 1,
        "script": BRIDGE,
        "examples": [{
            "input": {"deadline": "16:00", "timezone": "local"},
            "output": {"filing_cutoff_hour": 16, "filing_cutoff_minute": 0, "local_time": true},
        }],
    });
    client.post("/v1/bridges?replace=true", &document).await.map(drop)
}

fn client(running: &Running) -> Result<Client> {
    let ca = Some(running.data().join("tls/ca.pem"));
    Client::new(Target { hub: running.url.clone(), token: Some(running.token.clone()), ca }, None)
}

/// Lines to paste.
pub(super) fn what_next(running: &Running, output: &Output) -> Result<()> {
    let program = match std::env::current_exe() {
        Ok(program) => program.display().to_string(),
        Err(_) => "hms-ess".to_owned(),
    };
    let (url, ca) = (&running.url, running.data().join("tls/ca.pem"));
    let ca = ca.display();
    output.line(format_args!(
        "\nThe hub stays up; Ctrl-C stops it. In another terminal:\n\n\
         # publish another\n\
         echo '{{\"id\":\"RULE-COURT-DEADLINE-V4\",\"version\":3,\"payload\":{{\"deadline\":\"15:30\",\"timezone\":\"local\"}}}}' | {program} publish -\n\n\
         # who acknowledged\n\
         {program} status RULE-COURT-DEADLINE-V4 --wait\n\n\
         # send one again\n\
         {program} replay RULE-COURT-DEADLINE-V3 --to LAW-FIRM-SYS --force\n\n\
         # watch live, look at the partners, check the receipts' chain\n\
         {program} tap\n\
         {program} partner list\n\
         {program} ledger verify\n\n\
         # the API's page, in a browser or here\n\
         curl --cacert {ca} {url}/docs"
    ))
}
