//! Several addresses of a hub: commands go on at the next one, and what may have been done is done once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use crate::program::{PATIENCE, RunningHub, Said, program, run};

/// An address that was free a moment ago.
fn dead() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A server of one answer; empty, it hangs up. It remembers the first lines of what it was asked.
fn server(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let request = read_request(&mut stream.unwrap(), answer);
            kept.lock().unwrap().push(request);
        }
    });
    (url, asked)
}

fn read_request(stream: &mut TcpStream, answer: &str) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    stream.write_all(answer.as_bytes()).unwrap();
    first.trim_end().trim_end_matches(" HTTP/1.1").to_owned()
}

const BUSY: &str = "HTTP/1.1 503 X\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: 57\r\n\r\n\
                    {\"code\":\"unavailable\",\"detail\":\"the hub is stopping now\"}";

/// Two hubs that know the same tokens and partners.
fn pair(prepare: impl Fn(&RunningHub)) -> (RunningHub, RunningHub) {
    let mut first = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    prepare(&first);
    first.signal("TERM");
    assert_eq!(first.wait(), Some(0));
    let second = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(first.folder.path().join("hms-ess-data")).arg(second.path()).status();
    assert!(copied.unwrap().success());
    let folder = std::mem::replace(&mut first.folder, tempfile::tempdir().unwrap());
    (RunningHub::start_in(folder, &["--http"]), RunningHub::start_in(second, &["--http"]))
}

fn token(hub: &RunningHub) -> String {
    std::fs::read_to_string(hub.folder.path().join("hms-ess-data/admin.token")).unwrap().trim().to_owned()
}

/// A command as this hub's administrator, at these addresses.
fn at(hub: &RunningHub, hubs: &[&str], words: &[&str]) -> Command {
    let mut command = program(hub.folder.path());
    command.env("HMS_ESS_TOKEN", token(hub)).env("HMS_ESS_HUB", hubs.join(",")).args(words);
    command
}

fn say(hub: &RunningHub, hubs: &[&str], words: &[&str]) -> Said {
    run(&mut at(hub, hubs, words))
}

fn publish(hub: &RunningHub, id: &str) {
    hub.file("next.json", &format!(r#"{{"id":"{id}","version":1,"payload":1}}"#));
    hub.run(&["publish", "next.json"]).ok();
}

/// A command that does not end by itself, and its lines.
struct Following {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, out, err }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The next line that holds the text.
#[track_caller]
fn line(lines: &Receiver<String>, text: &str) -> String {
    let (mut seen, began) = (Vec::new(), std::time::Instant::now());
    loop {
        match lines.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => seen.push(line),
            Err(why) => panic!("no line with {text:?} ({why}): {seen:?}"),
        }
    }
}

#[test]
fn a_command_goes_on_at_the_next_address_when_the_first_cannot_be_reached() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    hub.file("p.yaml", "id: P\nchannel: pull\n");
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    let dead = dead();
    // Nothing was sent, so this is safe for what is done once, too.
    say(&hub, &[&dead, &hub.url], &["partner", "add", "p.yaml"]).ok();
    let said = run(program(hub.folder.path()).env("HMS_ESS_TOKEN", token(&hub)).args([
        "publish",
        "e.json",
        "--hub",
        &format!("{dead}/, {}", hub.url),
    ]));
    assert_eq!(said.ok(), "RULE-A-V1 recorded as number 1, for 1 partner\n");
    // What does not speak TLS is as good as not there.
    let tls = hub.url.replace("http:", "https:");
    say(&hub, &[&tls, &hub.url], &["partner", "pause", "P"]).ok();
}

#[test]
fn a_hub_that_hangs_is_given_up_while_there_is_another() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("https://{}", silent.local_addr().unwrap());
    say(&hub, &[&hanging, &hub.url], &["partner", "list"]).ok();
}

#[test]
fn what_an_id_makes_one_goes_on_where_it_may_have_been_done_and_all_else_does_not() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.file("many.ndjson", "{\"id\":\"RULE-B-V1\",\"version\":1,\"payload\":1}\n");
    for answer in ["", BUSY] {
        let (url, asked) = server(answer);
        let hubs = [url.as_str(), hub.url.as_str()];
        say(&hub, &hubs, &["publish", "e.json"]).ok();
        say(&hub, &hubs, &["publish", "many.ndjson"]).ok();
        say(&hub, &hubs, &["status", "RULE-A-V1"]).ok();
        let said = say(&hub, &hubs, &["token", "create", "--role", "auditor"]).refused(1);
        if answer.is_empty() {
            assert!(said.contains("broke off") && said.contains("no other address was asked"), "{said}");
        } else {
            assert!(said.starts_with("error: the hub is stopping now\n"), "{said}");
        }
        let asked = asked.lock().unwrap().clone();
        // The second question of `status` goes to the one that answered the first.
        let status = "GET /v1/events/RULE-A-V1/status?test=false";
        assert_eq!(asked, ["POST /v1/events", "POST /v1/events", status, "POST /v1/tokens"]);
    }
    assert_eq!(hub.json(&["token", "list"])["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_refusal_is_the_hubs_word_and_no_other_is_asked() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    let (url, asked) = server("");
    let said = say(&hub, &[&hub.url, &url], &["status", "NOTHING-V1"]).refused(1);
    assert!(said.starts_with("error: there is no event NOTHING-V1"), "{said}");
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn when_no_address_does_it_each_is_named_with_its_reason() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    let (dead, (busy, _)) = (dead(), server(BUSY));
    let both = format!("{busy} answered 503: the hub is stopping now; no hub answers at {dead} (connection refused)");
    let said = say(&hub, &[&busy, &dead], &["partner", "list"]).refused(1);
    assert!(said.starts_with(&format!("error: none of 2 addresses did it: {both}\n\nhint: ")), "{said}");
    let said = say(&hub, &[&dead, &busy], &["partner", "list", "--json"]).refused(1);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    let detail = value["detail"].as_str().unwrap();
    assert!(value["code"] == "unavailable" && detail.contains(&dead) && detail.contains(&busy), "{value}");
}

#[test]
fn doctor_looks_at_each_address() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    let (dead, (busy, _)) = (dead(), server(BUSY));
    let said = say(&hub, &[&dead, &busy, &hub.url], &["doctor", "--json"]);
    assert_eq!(said.code, Some(1));
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let found: Vec<(&str, &str)> = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["check"] == "hub")
        .map(|one| (one["grade"].as_str().unwrap(), one["what"].as_str().unwrap()))
        .collect();
    let [first, second, third] = found.as_slice() else { panic!("{value}") };
    assert!(first.0 == "fail" && first.1.contains(&dead), "{value}");
    assert!(second.0 == "fail" && second.1 == format!("{busy} answers and is not ready"), "{value}");
    assert!(third.0 == "ok" && third.1.contains(&hub.url), "{value}");
    assert!(
        value["findings"].as_array().unwrap().iter().any(|one| one["check"] == "targets" || one["check"] == "target")
    );
}

#[test]
fn tap_goes_on_at_the_next_address_when_its_hub_stops() {
    let (mut first, second) = pair(|_| {});
    let tap = Following::start(at(&first, &[&first.url, &second.url], &["tap"]));
    line(&tap.err, "listening");
    publish(&first, "RULE-A-V1");
    line(&tap.out, "RULE-A-V1");
    first.signal("TERM");
    assert_eq!(first.wait(), Some(0));
    let told = line(&tap.err, "going on at");
    assert!(told.contains(&first.url) && told.contains(&second.url), "{told}");
    publish(&second, "RULE-B-V1");
    line(&tap.out, "RULE-B-V1");
}

#[test]
fn listen_goes_on_at_the_next_address_when_its_hub_stops() {
    let (mut first, second) = pair(|hub| {
        hub.file("p.yaml", "id: CLINIC\nchannel: pull\n");
        hub.run(&["partner", "add", "p.yaml"]).ok();
        let made = hub.json(&["token", "create", "--role", "partner", "--partner", "CLINIC"]);
        hub.file("token", made["token"].as_str().unwrap());
    });
    let (webhook, asked) = server("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let forward = format!("{webhook}/update");
    let words = ["listen", "CLINIC", "--forward", &forward, "--by-status"];
    let mut command = at(&first, &[&first.url, &second.url], &words);
    command.env("HMS_ESS_TOKEN", std::fs::read_to_string(first.folder.path().join("token")).unwrap());
    let listen = Following::start(command);
    publish(&first, "RULE-A-V1");
    line(&listen.out, "RULE-A-V1: acknowledged");
    first.signal("TERM");
    assert_eq!(first.wait(), Some(0));
    publish(&second, "RULE-B-V1");
    line(&listen.out, "RULE-B-V1: acknowledged");
    assert_eq!(*asked.lock().unwrap(), ["POST /update", "POST /update"]);
}
