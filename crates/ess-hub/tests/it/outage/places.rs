//! For each channel a partner's document, its real server, the ways in which that goes away, and what arrived there.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use ess_channels::Credential;
use ess_hub::Hub;
use serde_json::{Value, json};

use super::inbox::Fetcher;
use super::town::{number_in, number_of};
use super::wire::Receiver;
use crate::hanging_share::HangingShare;
use crate::kafka_cluster::Brokers;
use crate::link::{Fault, Link};
use crate::mosquitto::{Mosquitto, wait_for};
use crate::nats_server::NatsServer;
use crate::python::PythonServer;
use crate::rabbit::Rabbit;
use crate::sshd::Sshd;

/// A partner that is reached by some channel.
pub(crate) struct Place {
    /// Its document, without an id.
    pub(crate) document: Value,
    way: Way,
    /// The numbers of the events that arrived, in their order; twice if the server shows that they came twice.
    arrived: Box<dyn Fn() -> Vec<usize>>,
}

/// How its server is cut off.
enum Way {
    /// By the link to it.
    Link(Link),
    /// Its directory is gone, as a share that is not mounted, or hangs, as one whose server is gone. Another one lies beside.
    Share { hanging: RefCell<Option<HangingShare>>, dir: PathBuf, beside: PathBuf, parent: tempfile::TempDir },
    /// It asks no more.
    Inbox(Rc<RefCell<Fetcher>>),
}

impl Place {
    /// Who fetches is told where, and begins.
    pub(crate) fn open_doors(&mut self, hub: &Hub) {
        if let Way::Inbox(fetcher) = &self.way {
            fetcher.borrow_mut().meet(hub);
            fetcher.borrow_mut().ask(usize::MAX);
        }
    }

    /// The directories that the hub may write to: this partner's first.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        if let Way::Share { dir, beside, .. } = &self.way { vec![dir.clone(), beside.clone()] } else { Vec::new() }
    }

    /// Another partner of the same channel, which is well, where they could meet in this process: its document without an
    /// id.
    pub(crate) fn sibling(&self) -> Option<Value> {
        if let Way::Share { beside, .. } = &self.way { Some(into_dir(beside)) } else { None }
    }

    /// What that one has.
    pub(crate) fn arrived_beside(&self) -> Option<Vec<usize>> {
        if let Way::Share { beside, .. } = &self.way { Some(drops(beside)) } else { None }
    }

    /// What its server said so far.
    pub(crate) fn bytes_said(&self) -> usize {
        if let Way::Link(link) = &self.way { link.bytes_said() } else { 0 }
    }

    /// From now on a cut is due in the middle of what is sent: after so many bytes of the server.
    pub(crate) fn cut_after(&self, bytes: i64) {
        match &self.way {
            Way::Link(link) => link.set(Fault::CutAfter(bytes)),
            Way::Share { dir, .. } => {
                let (dir, before) = (dir.clone(), self.arrived().len());
                std::thread::spawn(move || {
                    wait_for("a drop", || drops(&dir).len() > before);
                    std::fs::rename(&dir, dir.with_extension("away")).unwrap();
                });
            }
            Way::Inbox(fetcher) => {
                fetcher.borrow_mut().go_away();
                fetcher.borrow_mut().ask(5);
            }
        }
    }

    /// Whether the cut came, and nothing of before it goes on.
    pub(crate) fn is_cut(&self) -> bool {
        match &self.way {
            Way::Link(link) => link.is_spent() && link.open() == 0,
            Way::Share { dir, .. } => !dir.exists(),
            Way::Inbox(fetcher) => fetcher.borrow_mut().is_gone(),
        }
    }

    /// Whether the cut comes at the same place each time; a share goes away some time.
    pub(crate) fn is_cut_in_the_middle(&self) -> bool {
        !matches!(self.way, Way::Share { .. })
    }

    /// Whether attempts wait for the partner to ask, so that there is no server that could be away.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.way, Way::Inbox(_))
    }

    /// The server is gone: who dials it is cut off.
    pub(crate) fn leave(&self) {
        if let Way::Link(link) = &self.way {
            link.set(Fault::Down);
        }
    }

    /// The server takes connections and says nothing; a call into the directory does not return. False where this system
    /// has no such thing.
    pub(crate) fn hang(&self) -> bool {
        match &self.way {
            Way::Link(link) => link.set(Fault::FreezeAfter(0)),
            Way::Inbox(fetcher) => fetcher.borrow_mut().go_away(),
            Way::Share { hanging, parent, .. } => {
                *hanging.borrow_mut() = HangingShare::over(&parent.path().join("mount"));
                return hanging.borrow().is_some();
            }
        }
        true
    }

    /// The server is there again, as it was.
    pub(crate) fn come_back(&self) {
        match &self.way {
            Way::Link(link) => link.set(Fault::None),
            Way::Share { hanging, dir, .. } => {
                if hanging.take().is_none() {
                    std::fs::rename(dir.with_extension("away"), dir).unwrap();
                }
            }
            Way::Inbox(fetcher) => fetcher.borrow_mut().ask(usize::MAX),
        }
    }

    pub(crate) fn arrived(&self) -> Vec<usize> {
        (self.arrived)()
    }

    fn by_link(link: Link, document: Value, arrived: impl Fn() -> Vec<usize> + 'static) -> Place {
        Place { document, way: Way::Link(link), arrived: Box::new(arrived) }
    }
}

/// The drops of a directory, by the time at which they were written; those of one tick of the clock by their number.
fn drops(dir: &Path) -> Vec<usize> {
    let mut found: Vec<(SystemTime, usize)> = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".json") {
            found.push((entry.metadata().unwrap().modified().unwrap(), number_of(&name)));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, number)| number).collect()
}

pub(crate) async fn webhook() -> Place {
    let receiver = Receiver::start().await;
    let link = Link::to(receiver.address).await;
    let url = format!("http://{}/hook", link.address);
    let document = json!({"channel": "webhook", "url": url, "ack": {"by": "status"}});
    Place::by_link(link, document, move || receiver.taken())
}

pub(crate) async fn mllp() -> Place {
    let receiver = Receiver::of_hl7().await;
    let link = Link::to(receiver.address).await;
    let adapter = r#"[{"segment": "NTE", "1": "1", "3": $event.id}]"#;
    let document = json!({"channel": "mllp", "url": format!("mllp://{}", link.address), "adapter": adapter});
    Place::by_link(link, document, move || receiver.taken())
}

pub(crate) async fn sftp() -> Place {
    let sshd = Sshd::start().await;
    let link = Link::to(sshd.address).await;
    let credential = sshd.key();
    let Credential::Key { user: Some(user), key, .. } = &credential else { panic!("no key") };
    let url = format!("sftp://{user}@{}{}", link.address, sshd.inbox.display());
    let document = json!({
        "channel": "sftp", "url": url, "host_key": sshd.host_key, "auth": {"key": key}, "ack": {"by": "status"},
    });
    Place::by_link(link, document, move || drops(&sshd.inbox))
}

pub(crate) fn file() -> Place {
    let parent = tempfile::tempdir().unwrap();
    let (dir, beside) = (parent.path().join("mount/share"), parent.path().join("beside"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::create_dir(&beside).unwrap();
    let document = into_dir(&dir);
    let at = dir.clone();
    let arrived = move || if at.exists() { drops(&at) } else { drops(&at.with_extension("away")) };
    let way = Way::Share { hanging: RefCell::default(), dir, beside, parent };
    Place { document, way, arrived: Box::new(arrived) }
}

/// A partner's document whose drops go there.
fn into_dir(dir: &Path) -> Value {
    json!({"channel": "file", "url": format!("file://{}", dir.display()), "ack": {"by": "status"}})
}

pub(crate) async fn mqtt() -> Place {
    let broker = Mosquitto::start();
    let partner = broker.subscribe("rules/#", &[]);
    let link = Link::to(broker.address).await;
    let url = format!("mqtt://{}/rules/{{id}}", link.address);
    let document = json!({"channel": "mqtt", "url": url, "ack": {"by": "status"}});
    Place::by_link(link, document, move || {
        let _running = &broker;
        partner.got().iter().map(|got| number_of(&got.topic)).collect()
    })
}

pub(crate) fn pull() -> Place {
    let fetcher = Rc::<RefCell<Fetcher>>::default();
    let looked_at = Rc::clone(&fetcher);
    let arrived = move || looked_at.borrow().taken();
    Place { document: json!({"channel": "pull"}), way: Way::Inbox(fetcher), arrived: Box::new(arrived) }
}

pub(crate) async fn amqp() -> Place {
    let rabbit = Rabbit::start("").await;
    rabbit.client().make_queue("court", "rules.#", b"");
    let link = Link::to(rabbit.address).await;
    let url = format!("amqp://{}/%2F/amq.topic/rules.{{id}}", link.address);
    let auth = json!({"user": "hub", "password": "s3cret pass"});
    let document = json!({"channel": "amqp", "url": url, "auth": auth, "ack": {"by": "status"}});
    let taken = RefCell::<Vec<usize>>::default();
    Place::by_link(link, document, move || {
        let mut client = rabbit.client();
        while let Some(message) = client.take("court") {
            taken.borrow_mut().push(number_in(&message.body));
        }
        taken.borrow().clone()
    })
}

pub(crate) async fn nats() -> Place {
    let server = NatsServer::start("").await;
    server.make_stream("RULES", json!({"subjects": ["rules.>"]}));
    let link = Link::to(server.address).await;
    let url = format!("nats://{}/rules.{{id}}", link.address);
    let auth = json!({"user": "hub", "password": "s3cret pass"});
    let document = json!({"channel": "nats", "url": url, "auth": auth, "ack": {"by": "status"}});
    Place::by_link(link, document, move || {
        server.stored("RULES").iter().map(|stored| number_of(&stored.subject)).collect()
    })
}

pub(crate) async fn kafka() -> Place {
    let brokers = Brokers::start(1);
    brokers.tell("make rules 3");
    let link = Link::to(brokers.addresses[0]).await;
    brokers.tell(&format!("say 1 {}", link.address));
    let document = json!({
        "channel": "kafka", "url": format!("kafka://{}/rules", link.address), "ack": {"by": "status"},
    });
    // These brokers keep what came twice twice, whatever its number.
    Place::by_link(link, document, move || {
        brokers.records("rules").iter().map(|record| number_in(&record.body)).collect()
    })
}

pub(crate) async fn email() -> Place {
    let server = PythonServer::start("mail.py");
    let link = Link::to(server.address).await;
    let url = format!("smtp://{}?to=clerk@court.example", link.address);
    let document = json!({"channel": "email", "url": url, "tls": "none", "ack": {"by": "status"}});
    Place::by_link(link, document, move || named(&server))
}

pub(crate) async fn s3() -> Place {
    let store = PythonServer::start("store.py");
    store.ask("PUT", "/rules", b"");
    let link = Link::to(store.address).await;
    let auth = json!({"user": "id", "password": "secret"});
    let document = json!({
        "channel": "s3", "url": "s3://rules/inbox", "endpoint": format!("http://{}", link.address), "auth": auth,
        "ack": {"by": "status"},
    });
    Place::by_link(link, document, move || named(&store))
}

/// What a server of Python's says that it took, by name.
fn named(server: &PythonServer) -> Vec<usize> {
    server.taken().iter().map(|words| number_of(&words[0])).collect()
}
