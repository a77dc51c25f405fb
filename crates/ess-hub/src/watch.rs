//! Words that come apart from an attempt, fetched by the hub: receipt files are looked for, receipt topics listened to.
//!
//! Each partner whose channel can do that has one watch; one that has nothing outstanding sleeps. All of them are owned
//! by one loop and joined when the hub stops. A watch passes on what it hears as if the partner had said it by
//! `POST /v1/acks`, so that late words, doubled ones and those of others are judged in one place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ess_channels::{Awaited, Channel, Heard, Watch};
use ess_core::id::{EventId, PartnerNo, Seq};
use ess_core::lane::{OpenDelivery, OpenState};
use ess_core::problem::Problem;
use ess_core::receipt::Said;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::acks::Word;
use crate::clean;
use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Registered;

/// Receipts that are looked for at once for one partner.
const AWAITED_MAX: usize = 1_024;
/// Words that wait to be recorded.
const HEARD_MAX: usize = 64;
/// How long a watch that fails waits at first and at most.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What the loop is told.
enum Order {
    /// Watch this partner's channel from now on, in place of the one that it had.
    Watch(Arc<Registered>),
    /// A receipt of this partner is outstanding.
    Stir(PartnerNo),
    /// The partner is gone.
    Leave(PartnerNo),
    /// End every watch; answers when all have ended.
    Stop(oneshot::Sender<()>),
}

/// The loop's ear.
#[derive(Clone)]
pub struct Watches {
    orders: mpsc::UnboundedSender<Order>,
    /// Test messages whose receipts are waited for; locked for a look or a change. Each lasts as long as its request.
    tests: Arc<Mutex<HashMap<EventId, oneshot::Sender<Said>>>>,
}

/// A test message's receipt that is waited for; when it is dropped nobody waits any more.
pub struct AwaitedTest {
    event: EventId,
    said: oneshot::Receiver<Said>,
    watches: Watches,
}

impl AwaitedTest {
    /// What the partner said; nothing when it has said nothing by the deadline.
    pub async fn said(&mut self, deadline: Instant) -> Option<Said> {
        tokio::time::timeout_at(deadline, &mut self.said).await.ok()?.ok()
    }
}

impl Drop for AwaitedTest {
    fn drop(&mut self) {
        self.watches.tests().remove(&self.event);
    }
}

/// The loop's own end; `run` takes it.
pub struct Orders(mpsc::UnboundedReceiver<Order>);

impl Watches {
    /// The ear, and what the loop is to be started with.
    pub fn new() -> (Self, Orders) {
        let (orders, received) = mpsc::unbounded_channel();
        (Self { orders, tests: Arc::default() }, Orders(received))
    }

    /// Watches the partner's channel from now on.
    pub fn watch(&self, registered: &Arc<Registered>) {
        self.tell(Order::Watch(registered.clone()));
    }

    /// A receipt is outstanding: a watch that sleeps looks for it.
    pub fn stir(&self, no: PartnerNo) {
        self.tell(Order::Stir(no));
    }

    /// Watches the partner no more.
    pub fn leave(&self, no: PartnerNo) {
        self.tell(Order::Leave(no));
    }

    /// Waits for the receipt of a test message, which is no event of the log.
    pub fn await_test(&self, event: &EventId) -> AwaitedTest {
        let (sender, said) = oneshot::channel();
        self.tests().insert(event.clone(), sender);
        AwaitedTest { event: event.clone(), said, watches: self.clone() }
    }

    /// Hands a word to the one who waits for the receipt of a test message; gives it back when nobody does.
    fn answer_test(&self, event: &EventId, said: Said) -> Option<Said> {
        match self.tests().remove(event) {
            Some(waiting) => waiting.send(said).err(),
            None => Some(said),
        }
    }

    fn tests(&self) -> MutexGuard<'_, HashMap<EventId, oneshot::Sender<Said>>> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every watch.
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Order::Stop(reply));
        // The loop that is gone watches nothing.
        drop(answer.await);
    }

    fn tell(&self, order: Order) {
        drop(self.orders.send(order));
    }
}

/// A partner that is watched.
struct Seat {
    stirred: Arc<Notify>,
    watches: Vec<AbortHandle>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// Runs until it is told to stop.
pub async fn run(hub: Hub, Orders(mut orders): Orders) {
    let mut seats: HashMap<PartnerNo, Seat> = HashMap::new();
    let mut watches = JoinSet::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            // What was aborted is let go of.
            Some(_) = watches.join_next() => continue,
        };
        match order {
            Some(Order::Watch(registered)) => {
                seats.remove(&registered.no);
                if let Some(seat) = seat(&hub, &registered, &mut watches) {
                    seats.insert(registered.no, seat);
                }
            }
            Some(Order::Stir(no)) => {
                if let Some(seat) = seats.get(&no) {
                    seat.stirred.notify_one();
                }
            }
            Some(Order::Leave(no)) => drop(seats.remove(&no)),
            Some(Order::Stop(reply)) => {
                watches.shutdown().await;
                let _ = reply.send(());
                return;
            }
            None => return,
        }
    }
}

/// Starts the watches of a partner: of its channel, and of the one for its dry runs, and what cleans up there.
fn seat(hub: &Hub, registered: &Arc<Registered>, watches: &mut JoinSet<()>) -> Option<Seat> {
    let mut seat = Seat { stirred: Arc::default(), watches: Vec::new() };
    let own = registered.channel.as_ref().ok();
    match own.map(|channel| channel.watch()) {
        Some(Watch::Look(every)) => {
            // One watch looks in both places: what is awaited is read once.
            let watch = look_on(hub.clone(), registered.clone(), every, seat.stirred.clone());
            seat.watches.push(watches.spawn(watch));
        }
        Some(Watch::Listen) => {
            let others = registered.test_channel.as_ref().and_then(|channel| channel.as_ref().ok());
            for channel in own.into_iter().chain(others) {
                let watch = listen_on(hub.clone(), registered.clone(), channel.clone());
                seat.watches.push(watches.spawn(watch));
            }
        }
        Some(Watch::None) | None => {}
    }
    let fallback = registered.fallback.as_ref().and_then(|way| way.channel.as_ref().ok());
    if let Some(channel) = fallback.filter(|channel| channel.watch() == Watch::Listen) {
        let watch = listen_on(hub.clone(), registered.clone(), channel.clone());
        seat.watches.push(watches.spawn(watch));
    }
    if let Some(after) = registered.partner.clean_after {
        seat.watches.push(watches.spawn(clean::run(hub.clone(), registered.clone(), after)));
    }
    (!seat.watches.is_empty()).then_some(seat)
}

/// Looks for receipts as long as some are outstanding.
async fn look_on(hub: Hub, registered: Arc<Registered>, every: Duration, stirred: Arc<Notify>) {
    let mut wait = every;
    loop {
        let looked = match hub.awaited(&registered).await {
            Ok(awaited) if awaited.is_empty() => {
                stirred.notified().await;
                continue;
            }
            Ok(awaited) => look(&hub, &registered, &awaited).await,
            Err(problem) => Err(problem.detail),
        };
        match looked {
            Ok(()) => wait = every,
            Err(reason) => {
                if wait == every {
                    let partner = &registered.partner.id;
                    tracing::warn!(partner.id = %partner, reason, "could not look for the receipts of {partner}");
                }
                wait = (wait * 2).min(WAIT_MAX.max(every));
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn look(hub: &Hub, registered: &Registered, awaited: &[Awaited]) -> Result<(), String> {
    if registered.test_channel.is_none() {
        return look_in(hub, registered, &registered.channel, awaited).await;
    }
    for test in [false, true] {
        let part: Vec<Awaited> = awaited.iter().filter(|one| one.test == test).cloned().collect();
        if !part.is_empty() {
            look_in(hub, registered, registered.channel_for(test), &part).await?;
        }
    }
    Ok(())
}

async fn look_in(
    hub: &Hub,
    registered: &Registered,
    channel: &Result<Arc<Channel>, String>,
    awaited: &[Awaited],
) -> Result<(), String> {
    let channel = channel.as_ref().map_err(Clone::clone)?;
    let deadline = || Instant::now() + registered.partner.timeout;
    for heard in channel.look(awaited, deadline()).await.map_err(|failure| failure.reason)? {
        let settled = awaited.iter().find(|one| one.event == heard.event && one.test == heard.test);
        if !hub.hear(registered, heard).await {
            continue;
        }
        if let Some(awaited) = settled
            && let Err(failure) = channel.settle(awaited, deadline()).await
        {
            let (partner, reason) = (&registered.partner.id, failure.reason);
            tracing::warn!(partner.id = %partner, event.id = %awaited.event, reason, "could not remove a receipt");
        }
    }
    Ok(())
}

/// Keeps a subscription up.
async fn listen_on(hub: Hub, registered: Arc<Registered>, channel: Arc<Channel>) {
    let (sender, mut words) = mpsc::channel(HEARD_MAX);
    let mut wait = WAIT_FIRST;
    loop {
        let mut listening = std::pin::pin!(channel.listen(&sender));
        let failure = loop {
            tokio::select! {
                failure = &mut listening => break failure,
                Some(heard) = words.recv() => {
                    wait = WAIT_FIRST;
                    hub.hear(&registered, heard).await;
                }
            }
        };
        if wait == WAIT_FIRST {
            let (partner, reason) = (&registered.partner.id, failure.reason);
            tracing::warn!(partner.id = %partner, reason, "could not listen to the receipts of {partner}");
        }
        // An attempt may have connected meanwhile, and words come by its connection.
        let mut pause = std::pin::pin!(tokio::time::sleep(wait));
        wait = (wait * 2).min(WAIT_MAX);
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(heard) = words.recv() => {
                    wait = WAIT_FIRST;
                    hub.hear(&registered, heard).await;
                }
            }
        }
    }
}

impl Hub {
    /// What the partner was given and has not acknowledged, oldest first.
    async fn awaited(&self, registered: &Registered) -> Result<Vec<Awaited>, Problem> {
        // What lanes have recorded just now is to be seen.
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        let mut awaited = Vec::new();
        let mut after = (Seq(0), 0);
        while awaited.len() < AWAITED_MAX {
            let page = self.delivery.store.open_deliveries(registered.no, after, AWAITED_MAX).await;
            let page = page.map_err(|error| unavailable(&error))?;
            let Some(last) = page.last() else { break };
            after = (last.key.seq, last.key.round);
            for open in page.iter().filter(|open| is_outstanding(open)).take(AWAITED_MAX - awaited.len()) {
                let Some(sent) = &open.sent else { continue };
                // One that can't be read now is looked for the next time.
                let Ok(cell) = self.delivery.cell(open.key.seq).await else { continue };
                let event = cell.event.content.id.clone();
                awaited.push(Awaited { event, version: sent.version, test: open.test });
            }
        }
        Ok(awaited)
    }

    /// Takes a word that a channel brought; true when it is durable.
    async fn hear(&self, registered: &Registered, heard: Heard) -> bool {
        let Heard { event, test, said, evidence } = heard;
        let Some(said) = self.delivery.watches.answer_test(&event, said) else { return true };
        let word = match said {
            Said::Ack => Word::Ack { event: event.clone(), test, digest: None },
            Said::Nack { reason } => Word::Nack { event: event.clone(), test, reason, retryable: false },
            Said::Retry { reason } => Word::Nack { event: event.clone(), test, reason, retryable: true },
        };
        let taken = self.take_word(word, registered, evidence).await;
        if let Err(problem) = &taken {
            let partner = &registered.partner.id;
            tracing::warn!(partner.id = %partner, event.id = %event, reason = problem.detail, "a receipt was not taken");
        }
        taken.is_ok()
    }
}

/// The partner has it, by all that the hub knows.
fn is_outstanding(open: &OpenDelivery) -> bool {
    match open.state {
        OpenState::AwaitingAck => true,
        // It was delivered before, and sending it again failed.
        OpenState::Retrying => open.resends > 0,
        OpenState::Pending | OpenState::Blocked => false,
    }
}
