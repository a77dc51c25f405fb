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
/// Its id.
const MISSION_ID: &str = "RULE-COURT-DEADLINE-V3";
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
        let at = self.began.elapsed().as_secs_f64();
        if self.output.json {
            return self.output.json(&json!({"at_ms": (at * 1e3).round(), "who": who, "what": what}));
        }
        let at = format!("+{at:.3}s");
        if self.output.colour {
            // Padded before it is coloured: the codes have a width, too.
            self.output.line(format_args!("{}  {}  {what}", format!("{at:>8}").dimmed(), format!("{who:<12}").bold()))
        } else {
            self.output.line(format_args!("{at:>8}  {who:<12}  {what}"))
        }
    }

    /// A line for people.
    fn head(&self, text: &str) -> Result<()> {
        if self.output.json { Ok(()) } else { self.output.line(text) }
    }

    /// A line that belongs to the one before: bytes as they are on the wire.
    fn show(&self, bytes: &str) -> Result<()> {
        if self.output.json {
            return self.output.json(&json!({"bytes": bytes}));
        }
        if self.output.colour {
            self.output.line(format_args!("{:24}{}", "", bytes.dimmed()))
        } else {
            self.output.line(format_args!("{:24}{bytes}", ""))
        }
    }
}

/// The demo after its first event: partners that go on answering, and all ears.
pub(super) struct Scene<'a> {
    /// Every partner acknowledged.
    pub(super) all_acked: bool,
    teller: Teller<'a>,
    stream: Stream,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Scene<'_> {
    /// Shows what happens, as it happens, for as long as the hub is there.
    pub(super) async fn go_on(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                Some(seen) = self.seen.recv() => show_seen(&self.teller, &seen)?,
                told = self.stream.next() => {
                    let Some(told) = told? else { return Ok(()) };
                    show_told(&self.teller, &told)?;
                }
            }
        }
    }
}

/// Tells the story.
pub(super) async fn tell<'a>(running: &Running, output: &'a Output) -> Result<Scene<'a>> {
    let teller = Teller { output, began: Instant::now() };
    let client = client(running)?;
    teller.head("One rule changes, three partner systems must know.\n")?;
    teller.say("hub", &format!("listens on {}, with a certificate of its own", running.listening))?;
    teller.say("hub", &format!("keeps everything in {}", running.data_dir().display()))?;
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
    teller.say("COURT-CAL", "is added: a webhook, pinned to version 1")?;
    teller.say("LAW-FIRM-SYS", "is added: a webhook, and it is down")?;
    teller.say("COUNTY-KIOSK", &format!("is added: a webhook, and it takes {} s to answer", LATE.as_secs()))?;
    add_bridge(&client).await?;
    teller.say("bridge", "is added: RULE-COURT-DEADLINE 3 -> 1, a JSONata script")?;
    let mut stream = Stream::open(&client).await?;
    teller.head("")?;
    teller.say("HMS-GOV", "publishes the new filing deadline, version 3")?;
    teller.show(EVENT)?;
    let published = Instant::now();
    let reply = client.ask(Method::POST, "/v1/events", Body::Bytes("application/json", EVENT.into())).await?;
    let receipt = reply.value()?;
    let (status, number) = (reply.status.as_u16(), &receipt["sequence"]);
    if receipt["duplicate"] == true {
        // A data directory that has seen the demo before.
        teller.say("hub", &format!("answers {status}: known as number {number} already, nobody is told twice"))?;
        actors[1].open()?;
    } else {
        let partners = &receipt["partners"];
        teller.say("hub", &format!("answers {status}: on disk as number {number}, for {partners} partners"))?;
        follow(&teller, &mut stream, &mut seen, &mut actors[1], published).await?;
    }
    // The last receipt's commit: what is shown is durable.
    let words = client.get("/v1/events/RULE-COURT-DEADLINE-V3/status?wait=5s").await?;
    let deliveries = client.get("/v1/events/RULE-COURT-DEADLINE-V3/deliveries").await?;
    teller.head("\nWho has acknowledged RULE-COURT-DEADLINE-V3:\n")?;
    if output.json {
        output.json(&words)?;
    } else {
        output.text(&status::table_of(&words, &deliveries, output))?;
    }
    let all_acked = words.as_object().is_some_and(|map| map.len() == 3 && map.values().all(|word| word == "ack"));
    Ok(Scene { all_acked, teller, stream, seen })
}

/// Shows what the hub and the partners say until nothing is open.
async fn follow(
    teller: &Teller<'_>,
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
            // In this order: what a partner received is told before what the hub made of its answer.
            biased;
            Some(seen) = seen.recv() => show_seen(teller, &seen)?,
            told = stream.next() => {
                let Some(told) = told? else { break };
                ended += show_told(teller, &told)?;
            }
            () = tokio::time::sleep_until(comes_back), if is_away => {
                is_away = false;
                away.open()?;
                teller.say(away.id, "is back")?;
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    Ok(())
}

fn show_seen(teller: &Teller<'_>, seen: &Seen) -> Result<()> {
    let version = serde_json::from_str::<Value>(&seen.body).ok().and_then(|event| event["version"].as_u64());
    match version {
        // What was published is version 3: anything else went over a bridge.
        Some(3) => {}
        Some(version) => teller.say("bridge", &format!("converts 3 -> {version} for {}", seen.partner))?,
        None => {}
    }
    let version = version.map(|version| format!("version {version}, ")).unwrap_or_default();
    let signed = if seen.is_signed { "signature verified" } else { "SIGNATURE DOES NOT FIT" };
    teller.say(seen.partner, &format!("receives {version}{signed}"))?;
    teller.show(&seen.body)
}

/// Counts what ended.
fn show_told(teller: &Teller<'_>, told: &Told) -> Result<u32> {
    let (word, ends) = match told.kind.as_str() {
        "delivery.acked" => ("ack", 1),
        "delivery.dead" => ("dead", 1),
        "delivery.nack" => ("nack", 1),
        "delivery.retrying" => ("retrying", 0),
        "delivery.blocked" => ("blocked", 0),
        "partner.offline" => ("offline", 0),
        "partner.recovered" => ("recovered", 0),
        // The first one was told by its answer.
        "event.recorded" if told.text("event_id") != MISSION_ID => ("recorded", 0),
        _ => return Ok(0),
    };
    teller.say("hub", &format!("{}: {}", teller.output.word(word), told.text("detail")))?;
    Ok(ends)
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
    let ca = Some(running.data_dir().join("tls/ca.pem"));
    Client::new(vec![Target { hub: running.url.clone(), token: Some(running.token.clone()), ca }], None)
}

/// Lines to paste, each with what it does; `prefix` is what a command needs to find this hub.
pub(super) fn what_next(running: &Running, prefix: &str, output: &Output) -> Result<()> {
    let program = format!("{prefix}{}", program());
    let ca = running.data_dir().join("tls/ca.pem");
    let docs = format!("curl --cacert {} {}/docs", ca.display(), running.url);
    let publish = format!(
        r#"echo '{{"id":"RULE-COURT-DEADLINE-V4","version":3,"payload":{{"deadline":"15:30","timezone":"local"}}}}' | {program} publish -"#
    );
    let dashboard = format!(
        "the dashboard: open {}/dashboard in a browser (it asks about the certificate first), sign in with this token",
        running.url
    );
    let lines = [
        (dashboard.as_str(), format!("cat {}", running.data_dir().join("admin.token").display())),
        ("publish another", publish),
        ("who has acknowledged it", format!("{program} status RULE-COURT-DEADLINE-V4 --wait")),
        ("send the first one again", format!("{program} replay RULE-COURT-DEADLINE-V3 --to LAW-FIRM-SYS --force")),
        ("the partners, and how they fare", format!("{program} partner list")),
        ("watch live", format!("{program} tap")),
        ("check the chain of receipts", format!("{program} ledger verify")),
        ("the API's own page (a browser asks about the certificate first)", docs),
    ];
    output.line(
        "\nThe hub and the partners stay up; Ctrl-C stops them. In another terminal (what happens shows here):",
    )?;
    for (what, line) in lines {
        if output.colour {
            output.line(format_args!("\n  {}\n  {}", format!("# {what}").dimmed(), line.bold()))?;
        } else {
            output.line(format_args!("\n  # {what}\n  {line}"))?;
        }
    }
    Ok(())
}

/// How this program is called: by its name when the shell finds this very file under it, else by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return "hms-ess".to_owned() };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("hms-ess")).find(|file| file.is_file());
    let found = found.and_then(|found| found.canonicalize().ok());
    if found.is_some_and(|found| own.canonicalize().is_ok_and(|own| own == found)) {
        return "hms-ess".to_owned();
    }
    own.display().to_string()
}
