//! Sessions of the dashboard at one database: what one node begins or ends, every other one knows.

use std::time::Duration;

use ess_store::{Options, Session, SessionBounds, Sessions, Store};

use crate::server;
use crate::support::{Open, open, options};

const WITHIN: Duration = Duration::from_secs(10);
const TOKEN: [u8; 32] = [7; 32];
const BOUNDS: SessionBounds = SessionBounds {
    age_max: Duration::from_secs(12 * 3_600),
    idle_max: Duration::from_secs(3_600),
    count_max: 6,
    of_a_token_max: 3,
};

/// One database as two nodes see it.
struct Two {
    open: Open,
    a: Sessions,
    b: Sessions,
    _stores: [Store; 2],
    _dir: tempfile::TempDir,
}

impl Two {
    fn open() -> Self {
        let open = open();
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(open.dir.path().join("seal.key"), dir.path().join("seal.key")).unwrap();
        let options = Options { server: open.options().server, ..options(dir.path()) };
        let [a, b] = [(); 2].map(|()| Store::open(&options).unwrap());
        let [sessions_of_a, sessions_of_b] = [&a, &b].map(|opened| opened.nodes.clone().unwrap().sessions(BOUNDS));
        Self { open, a: sessions_of_a, b: sessions_of_b, _stores: [a.store, b.store], _dir: dir }
    }

    /// Moves the whole past of all sessions back.
    fn age(&self, column: &str, seconds: u64) {
        let sql = match column {
            "began_at" => "update dashboard_session set began_at = began_at - interval",
            _ => "update dashboard_session set seen_at = seen_at - interval",
        };
        server::execute(self.url(), &format!("{sql} '{seconds} seconds'"));
    }

    fn count(&self) -> usize {
        server::rows(self.url(), "select token::text from dashboard_session").len()
    }

    fn url(&self) -> &str {
        self.open.url.as_deref().unwrap()
    }
}

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

async fn goes_on(sessions: &Sessions, number: u8) -> bool {
    sessions.peek(key(number), WITHIN).await.unwrap().is_some()
}

#[tokio::test]
async fn a_session_that_one_node_began_is_known_to_the_other_until_either_ends_it() {
    let two = Two::open();
    two.a.begin(key(1), TOKEN, WITHIN).await.unwrap();
    let known = Session { token: TOKEN, has_notice: false };
    assert_eq!(two.b.find(key(1), WITHIN).await.unwrap(), Some(known));
    assert_eq!(two.b.find(key(2), WITHIN).await.unwrap(), None);
    two.b.end(key(1), WITHIN).await.unwrap();
    assert_eq!(two.a.find(key(1), WITHIN).await.unwrap(), None);
    two.a.end(key(1), WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_notice_is_told_once_at_whichever_node_and_its_secret_is_nowhere_in_the_database() {
    let two = Two::open();
    two.a.begin(key(1), TOKEN, WITHIN).await.unwrap();
    two.a.leave(key(1), b"an earlier word", WITHIN).await.unwrap();
    two.a.leave(key(1), b"whsec_of_the_next_page", WITHIN).await.unwrap();
    assert!(two.b.find(key(1), WITHIN).await.unwrap().unwrap().has_notice);
    let stored = server::rows(two.url(), "select encode(notice, 'escape') from dashboard_session");
    assert!(stored.len() == 1 && !stored[0].contains("whsec"), "{stored:?}");
    // Both pages at once: one of them has it.
    let (first, second) = tokio::join!(two.a.take_notice(key(1), WITHIN), two.b.take_notice(key(1), WITHIN));
    let told: Vec<Vec<u8>> = [first.unwrap(), second.unwrap()].into_iter().flatten().collect();
    assert_eq!(told, [b"whsec_of_the_next_page"]);
    assert!(!two.a.find(key(1), WITHIN).await.unwrap().unwrap().has_notice);
    // What was sealed for one session opens in no other.
    two.a.begin(key(2), TOKEN, WITHIN).await.unwrap();
    two.a.leave(key(1), b"whsec_of_the_next_page", WITHIN).await.unwrap();
    let moved = "update dashboard_session \
        set notice = (select notice from dashboard_session where notice is not null)";
    server::execute(two.url(), moved);
    two.b.take_notice(key(2), WITHIN).await.unwrap_err();
    assert!(two.b.take_notice(key(1), WITHIN).await.unwrap().is_some());
    // A word for a session that is gone is for nobody, and one that is too long is refused.
    two.a.leave(key(9), b"x", WITHIN).await.unwrap();
    two.a.leave(key(1), &[0; 70_000], WITHIN).await.unwrap_err();
}

#[tokio::test]
async fn a_session_ends_when_nobody_asks_and_at_the_latest_after_half_a_day() {
    let two = Two::open();
    two.a.begin(key(1), TOKEN, WITHIN).await.unwrap();
    two.age("seen_at", 3_500);
    // Asking without having seen it does not keep it; a request does.
    assert!(goes_on(&two.b, 1).await);
    two.age("seen_at", 50);
    assert!(two.b.find(key(1), WITHIN).await.unwrap().is_some());
    two.age("seen_at", 3_500);
    assert!(two.a.find(key(1), WITHIN).await.unwrap().is_some());
    two.age("seen_at", 3_601);
    assert!(two.a.find(key(1), WITHIN).await.unwrap().is_none() && !goes_on(&two.b, 1).await);
    two.a.begin(key(2), TOKEN, WITHIN).await.unwrap();
    assert_eq!(two.count(), 1, "who signs in clears away what is over");
    two.age("began_at", 12 * 3_600);
    assert!(two.b.find(key(2), WITHIN).await.unwrap().is_none(), "however often it is asked");
    two.b.clear(WITHIN).await.unwrap();
    assert_eq!(two.count(), 0);
}

#[tokio::test]
async fn a_request_is_written_down_once_a_minute_at_most() {
    let two = Two::open();
    two.a.begin(key(1), TOKEN, WITHIN).await.unwrap();
    let versions = || server::rows(two.url(), "select xmin::text || ' ' || ctid::text from dashboard_session");
    let before = versions();
    for _ in 0..3 {
        assert!(two.b.find(key(1), WITHIN).await.unwrap().is_some());
    }
    assert_eq!(versions(), before);
    two.age("seen_at", 61);
    let before = versions();
    assert!(goes_on(&two.b, 1).await);
    assert_eq!(versions(), before);
    assert!(two.b.find(key(1), WITHIN).await.unwrap().is_some());
    let after = versions();
    assert_ne!(after, before);
    assert!(two.a.find(key(1), WITHIN).await.unwrap().is_some());
    assert_eq!(versions(), after);
}

#[tokio::test]
async fn sessions_are_bounded_over_all_nodes_and_a_token_takes_no_room_of_others() {
    let two = Two::open();
    two.a.begin(key(100), [8; 32], WITHIN).await.unwrap();
    for number in 1..=4 {
        let node = if number % 2 == 0 { &two.a } else { &two.b };
        node.begin(key(number), TOKEN, WITHIN).await.unwrap();
    }
    assert!(!goes_on(&two.a, 1).await && goes_on(&two.a, 2).await && goes_on(&two.a, 100).await);
    // Of all together the one that was not seen for the longest makes room.
    for number in 5..=8 {
        two.b.begin(key(number), [number; 32], WITHIN).await.unwrap();
    }
    assert_eq!(two.count(), BOUNDS.count_max);
    assert!(!goes_on(&two.a, 100).await && goes_on(&two.a, 8).await);
    // Many at once at both: the bounds hold all the same.
    let begun = (10..20).map(|number| {
        let node = if number % 2 == 0 { two.a.clone() } else { two.b.clone() };
        tokio::spawn(async move { node.begin(key(number), TOKEN, WITHIN).await })
    });
    for task in begun.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let own =
        server::rows(two.url(), "select 'x' from dashboard_session where token = decode(repeat('07', 32), 'hex')");
    assert!(own.len() == BOUNDS.of_a_token_max && two.count() <= BOUNDS.count_max, "{} {}", own.len(), two.count());
}

#[tokio::test]
async fn a_store_that_is_open_goes_on_when_a_newer_hub_has_brought_the_tables_up_to_date() {
    let two = Two::open();
    server::execute(two.url(), "insert into schema_step (number) select max(number) + 1 from schema_step");
    two.open.publish("A-1", 1).await;
    // Its connections are lost: those that it makes anew ask for no number.
    server::cut(two.url());
    let published = async {
        while two.open.store.publish(crate::support::event("A-2", "1", 1)).await.is_err() {
            // Between two tries; the bound is below.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), published).await.unwrap();
    let refused = Store::open(&two.open.options()).err().expect("one that starts is refused").to_string();
    assert!(refused.contains("start a newer hub"), "{refused}");
}
