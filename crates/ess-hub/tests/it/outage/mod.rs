//! What an outage does to a channel, the same for each: the hub's own lanes with the real channel against the real server,
//! which goes away in mid-flight for 30 minutes and then hangs. The minutes are simulated: the clock is moved by hand
//! between the answers of real sockets, so that nothing here waits for a timer.

mod inbox;
mod places;
mod town;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use places::Place;
use town::Town;

/// Events of a round, over so many subjects.
const EVENTS: usize = 24;
const SUBJECTS: usize = 4;
/// Attempts that may be under way to the partner, and so the most that a cut can double.
const IN_FLIGHT: usize = 4;

/// The channels, each with a server that can go away and hang.
macro_rules! channels {
    ($($name:ident: $open:expr,)*) => {$(
        #[tokio::test]
        async fn $name() {
            check($open).await;
        }
    )*};
}

channels! {
    webhook_outlives_half_an_hour_without_its_server: places::webhook().await,
    sftp_outlives_half_an_hour_without_its_server: places::sftp().await,
    file_outlives_half_an_hour_without_its_share: places::file(),
    mqtt_outlives_half_an_hour_without_its_broker: places::mqtt().await,
    mllp_outlives_half_an_hour_without_its_receiver: places::mllp().await,
    pull_outlives_half_an_hour_without_its_partner: places::pull(),
    amqp_outlives_half_an_hour_without_its_broker: places::amqp().await,
    nats_outlives_half_an_hour_without_its_server: places::nats().await,
    email_outlives_half_an_hour_without_its_server: places::email().await,
    s3_outlives_half_an_hour_without_its_store: places::s3().await,
    kafka_outlives_half_an_hour_without_its_broker: places::kafka().await,
}

async fn check(place: Place) {
    let mut town = Town::with(place).await;
    an_outage_of_half_an_hour_loses_nothing_and_doubles_only_what_was_in_flight(&mut town).await;
    a_server_that_hangs_costs_only_its_own_lane(&mut town).await;
    town.stop().await;
}

async fn an_outage_of_half_an_hour_loses_nothing_and_doubles_only_what_was_in_flight(town: &mut Town) {
    // What the server says to half a round, once its connections are made.
    let mut said = 0;
    for _ in 0..2 {
        let before = town.place.bytes_said();
        town.publish(EVENTS / 2).await;
        town.recovers(Duration::from_secs(60)).await;
        said = town.place.bytes_said() - before;
    }
    let whole = town.place.arrived().len();
    assert_eq!(whole, EVENTS);
    town.place.cut_after(i64::try_from(said).unwrap());
    town.publish(EVENTS).await;
    town.until("the way is cut", async |town| town.place.is_cut() && town.is_quiet().await).await;
    let before = town.place.arrived().len() - whole;
    if town.place.is_cut_in_the_middle() {
        assert!(0 < before && before < EVENTS, "the cut came when {before} of {EVENTS} were there");
    }
    town.place.leave();
    for _ in 0..3 {
        town.pass(Duration::from_secs(600)).await;
        town.publish(EVENTS / 3).await;
    }
    town.witness_has_everything().await;
    assert!(town.lane().await.offline_since.is_some() || town.place.is_asked(), "nobody noticed that it was away");
    town.place.come_back();
    town.recovers(Duration::from_secs(600)).await;
    let arrived = town.place.arrived();
    let doubled = arrived.len() - town.published();
    assert!(doubled <= IN_FLIGHT, "{doubled} doubled: {arrived:?}");
    check_order(&arrived, town.published());
}

async fn a_server_that_hangs_costs_only_its_own_lane(town: &mut Town) {
    if !town.place.hang() {
        return;
    }
    town.is_hanging = true;
    town.publish(EVENTS).await;
    // No time passes for the hub meanwhile: the others do not wait for an attempt of the hanging one to end.
    town.witness_has_everything().await;
    let lane = town.lane().await;
    assert!(lane.backlog > 0 && lane.in_flight as usize <= IN_FLIGHT, "{lane:?}");
    // Its attempts end with their time limit.
    town.pass(Duration::from_secs(60)).await;
    if !town.place.is_asked() {
        town.until("the attempts are over", async |town| {
            town.lane().await.last_error.is_some_and(|error| error.contains("timed out"))
        })
        .await;
    }
    town.is_hanging = false;
    town.place.come_back();
    town.recovers(Duration::from_secs(1_200)).await;
    check_order(&town.place.arrived(), town.published());
}

/// Each event of the first `published` is there, and in its subject's order; one that came twice came twice in a row.
#[track_caller]
fn check_order(arrived: &[usize], published: usize) {
    let mut by_subject: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for number in arrived {
        by_subject.entry(number % SUBJECTS).or_default().push(*number);
    }
    for subject in 0..SUBJECTS {
        let mut came = by_subject.remove(&subject).unwrap_or_default();
        came.dedup();
        let wanted: Vec<usize> = (0..published).filter(|number| number % SUBJECTS == subject).collect();
        assert_eq!(came, wanted, "subject {subject}");
    }
}
