//! What one node asks of another: acts on partners that the other serves, and how they stand there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ess_core::access::{Principal, Role};
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::Standing;
use ess_core::message::Message;
use ess_core::problem::{Code, Problem};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::NodeNo;
use serde::{Deserialize, Serialize};

use super::words::{Chosen, Fares, Said, Taken};
use super::{ASK_WITHIN, nobody_serves};
use crate::acks::Word;
use crate::hub::Hub;
use crate::inbox::Fetched;
use crate::lanes::{LaneReport, Surveyed};
use crate::past::Day;
use crate::publish::unavailable;
use crate::view::{CheckpointView, PartnerTest};

/// How long an answer of another node is waited for, beside what is asked to take long.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a page waits for what other nodes know.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How often a partner on its way from one node to another is looked for, and how long.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const LOOK_FOR: Duration = Duration::from_secs(3);

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Call {
    /// A partner's word.
    Word { partner: PartnerNo, said: Said, evidence: u8, round: Option<u32> },
    /// A test message.
    Test { partner: PartnerNo, by: String },
    /// Messages of an inbox.
    Take { partner: PartnerNo, most: usize, wait: Duration },
    /// An event sent again to those of these partners that are served there.
    Replay { event: Seq, partners: Vec<PartnerNo> },
    /// Dead letters tried again.
    Redrive(Chosen),
    /// Dead letters given up.
    Discard(Chosen, String),
    /// Open deliveries of an event given up.
    Cancel { event: Seq, reason: String },
    /// How a lane fares.
    Inspect(PartnerNo),
    /// How those of these lanes fare that are there.
    InspectEach(Vec<PartnerNo>),
    /// A partner's last day.
    Day(PartnerNo),
    /// How all lanes stand.
    Survey,
    /// A checkpoint of the ledger.
    Checkpoint,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// The partner is not served there.
    NotHere,
    Refused(Problem),
    Tested {
        message_id: String,
        status: Option<u16>,
        acked: bool,
        took: Duration,
        reason: String,
    },
    Taken(Vec<Taken>, Duration),
    Replayed(Vec<(PartnerNo, u32)>),
    Count(u64),
    Lane {
        in_flight: u32,
        offline_since: Option<Time>,
        last_error: Option<String>,
    },
    Lanes(Vec<Fares>),
    Day(Day),
    Survey(Vec<(PartnerNo, Standing, Option<String>)>),
    Checkpoint {
        size: u64,
        at: Time,
        note: String,
    },
}

const EVIDENCES: [Evidence; 5] =
    [Evidence::Body, Evidence::Status, Evidence::Callback, Evidence::File, Evidence::Topic];

impl Call {
    /// A partner's word about an event, or about one round of it.
    pub(crate) fn word(partner: PartnerNo, word: &Word, evidence: Evidence, round: Option<u32>) -> Self {
        let evidence = EVIDENCES.iter().position(|known| *known == evidence).unwrap_or(0);
        Self::Word { partner, said: Said::of(word), evidence: u8::try_from(evidence).unwrap_or(0), round }
    }

    /// How long its answer may take.
    fn within(&self) -> Duration {
        match self {
            // A partner's own bound, and time for its answer to come back.
            Self::Test { .. } => Duration::from_secs(70),
            Self::Take { wait, .. } => *wait + ANSWER_WITHIN,
            // A page is shown without what is not told by then.
            Self::Survey | Self::InspectEach(_) => LOOK_WITHIN,
            Self::Redrive(_) | Self::Discard(..) | Self::Replay { .. } => Duration::from_secs(30),
            _ => ANSWER_WITHIN,
        }
    }
}

impl Answer {
    /// What it says, or the problem that it is.
    fn judged(self) -> Result<Self, Problem> {
        match self {
            Self::Refused(problem) => Err(problem),
            Self::NotHere => Err(nobody_serves()),
            other => Ok(other),
        }
    }

    fn of<T>(result: Result<T, Problem>, told: impl FnOnce(T) -> Self) -> Self {
        result.map_or_else(Self::Refused, told)
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        if let Self::Count(count) = self { *count } else { 0 }
    }

    /// Whom an event is sent again, each with its round.
    pub(crate) fn replayed(self) -> Vec<(PartnerNo, u32)> {
        if let Self::Replayed(replayed) = self { replayed } else { Vec::new() }
    }

    /// What a test brought.
    pub(crate) fn tested(self) -> Result<PartnerTest, Problem> {
        match self {
            Self::Tested { message_id, status, acked, took, reason } => {
                Ok(PartnerTest { message_id, status, acked, took, reason })
            }
            _ => Err(nobody_serves()),
        }
    }

    /// What an inbox gave.
    pub(crate) fn fetched(self) -> Result<Fetched, Problem> {
        match self {
            Self::Taken(taken, lease) => {
                Ok(Fetched { messages: taken.into_iter().map(Message::from).collect(), lease })
            }
            _ => Err(nobody_serves()),
        }
    }

    /// A partner's last day.
    pub(crate) fn day(self) -> Day {
        if let Self::Day(day) = self { day } else { Day::default() }
    }

    /// A checkpoint.
    pub(crate) fn checkpoint(self) -> Result<CheckpointView, Problem> {
        match self {
            Self::Checkpoint { size, at, note } => Ok(CheckpointView { size, at, note }),
            _ => Err(nobody_serves()),
        }
    }
}

/// Where a partner is served.
enum Server {
    Here,
    There(NodeNo),
}

impl Hub {
    /// Asks the node that serves a partner; `None` when it is this one.
    ///
    /// # Errors
    /// What the other says, or that nobody serves the partner now.
    pub(crate) async fn ask_server(&self, no: PartnerNo, call: impl Fn() -> Call) -> Result<Option<Answer>, Problem> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let until = tokio::time::Instant::now() + LOOK_FOR;
        loop {
            match self.server_of(no).await? {
                Some(Server::Here) => return Ok(None),
                Some(Server::There(node)) => {
                    let call = call();
                    let within = call.within();
                    match cluster.post.ask(node, call, within).await {
                        Some(Answer::NotHere) => {}
                        Some(answer) => return answer.judged().map(Some),
                        None => return Err(nobody_serves()),
                    }
                }
                None => {}
            }
            if tokio::time::Instant::now() >= until {
                return Err(nobody_serves());
            }
            // It is on its way from one node to another, and nobody says when it is there; `until` bounds the wait.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn server_of(&self, no: PartnerNo) -> Result<Option<Server>, Problem> {
        let Some(cluster) = &self.cluster else { return Ok(Some(Server::Here)) };
        if cluster.serves(no) {
            return Ok(Some(Server::Here));
        }
        let seat = cluster.nodes.seat_of(no, ASK_WITHIN).await.map_err(|error| unavailable(&error))?;
        // One that is this node's and has no lane yet is on its way here.
        Ok(seat.filter(|node| Some(*node) != cluster.me()).map(Server::There))
    }

    /// Asks all other nodes the same.
    ///
    /// # Errors
    /// What one of them says, or that one did not answer.
    pub(crate) async fn ask_others(&self, call: &Call) -> Result<Vec<Answer>, Problem> {
        let Some(cluster) = &self.cluster else { return Ok(Vec::new()) };
        let asked = cluster.others().into_iter().map(|node| cluster.post.ask(node, call.clone(), call.within()));
        let mut answers = Vec::new();
        for answer in join_all(asked).await {
            answers.push(answer.ok_or_else(silent)?.judged()?);
        }
        Ok(answers)
    }

    /// The same, without those that do not answer.
    pub(crate) async fn hear_others(&self, call: &Call) -> Vec<Answer> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let asked = cluster.others().into_iter().map(|node| cluster.post.ask(node, call.clone(), call.within()));
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks the node that does what one does for all; `None` when it is this one.
    pub(crate) async fn ask_leader(&self, call: Call) -> Result<Option<Answer>, Problem> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        if self.leads() {
            return Ok(None);
        }
        let leader = super::leader(&cluster.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1);
        let Some(leader) = leader.filter(|leader| Some(*leader) != cluster.me()) else { return Err(silent()) };
        let within = call.within();
        cluster.post.ask(leader, call, within).await.ok_or_else(silent)?.judged().map(Some)
    }

    /// How a partner's lane fares, wherever it is; nothing is known of one that is on its way.
    pub(crate) async fn inspect_lane(&self, no: PartnerNo) -> LaneReport {
        let (cluster, node) = match (&self.cluster, self.server_of(no).await) {
            (Some(cluster), Ok(Some(Server::There(node)))) => (cluster, node),
            (_, Ok(Some(Server::Here))) => return self.lanes.inspect(no).await,
            _ => return LaneReport::default(),
        };
        match cluster.post.ask(node, Call::Inspect(no), ASK_WITHIN).await {
            Some(Answer::Lane { in_flight, offline_since, last_error }) => {
                LaneReport { in_flight, offline_since, last_error }
            }
            _ => LaneReport::default(),
        }
    }

    /// How these partners' lanes fare, wherever they are: each node is asked once, all side by side. Nothing is known of those
    /// that are on their way, or whose node does not answer in time.
    pub(crate) async fn inspect_lanes(&self, partners: &[PartnerNo]) -> BTreeMap<PartnerNo, LaneReport> {
        let (here, elsewhere): (Vec<PartnerNo>, Vec<PartnerNo>) = partners.iter().partition(|no| self.serves(**no));
        let mut found: BTreeMap<PartnerNo, LaneReport> = self.lanes.inspect_each(&here).await.into_iter().collect();
        let Some(cluster) = self.cluster.as_ref().filter(|_| !elsewhere.is_empty()) else { return found };
        // Who serves whom that can't be asked now is shown as what is not known.
        let seats = cluster.nodes.seats_of(elsewhere, LOOK_WITHIN).await.unwrap_or_default();
        let mut by_node: BTreeMap<NodeNo, Vec<PartnerNo>> = BTreeMap::new();
        for (partner, node) in seats.into_iter().filter(|(_, node)| Some(*node) != cluster.me()) {
            by_node.entry(node).or_default().push(partner);
        }
        let asked = by_node.into_iter().map(|(node, partners)| {
            let call = Call::InspectEach(partners);
            let within = call.within();
            cluster.post.ask(node, call, within)
        });
        for answer in join_all(asked).await {
            let Some(Answer::Lanes(lanes)) = answer else { continue };
            found.extend(lanes.into_iter().map(<(PartnerNo, LaneReport)>::from));
        }
        found
    }

    /// How all lanes stand, on all nodes that answer.
    pub(crate) async fn survey_all(&self) -> Vec<Arc<Surveyed>> {
        let mut survey = self.lanes.survey().await;
        if self.cluster.is_some() {
            let snapshot = self.delivery.registry.snapshot();
            for answer in self.hear_others(&Call::Survey).await {
                let Answer::Survey(told) = answer else { continue };
                survey.extend(told.into_iter().filter_map(|(no, standing, last_error)| {
                    let registered = snapshot.by_no.get(&no)?.clone();
                    Some(Arc::new(Surveyed { registered, standing, last_error }))
                }));
            }
        }
        survey
    }

    /// Answers another node.
    pub(super) async fn answer(&self, call: Call) -> Answer {
        match call {
            Call::Word { partner, said, evidence, round } => {
                let Some(registered) = self.served_here(partner) else { return Answer::NotHere };
                let evidence = EVIDENCES.get(usize::from(evidence)).copied().unwrap_or(Evidence::Callback);
                let taken = self.take_word_about(said.into_word(), &registered, evidence, round).await;
                Answer::of(taken, |()| Answer::Done)
            }
            Call::Test { partner, by } => {
                let Some(registered) = self.served_here(partner) else { return Answer::NotHere };
                let by = Principal { token_id: by, role: Role::Admin, expires_at: None };
                let tested = self.test_partner(&registered.partner.id, &by).await;
                Answer::of(tested, |PartnerTest { message_id, status, acked, took, reason }| Answer::Tested {
                    message_id,
                    status,
                    acked,
                    took,
                    reason,
                })
            }
            Call::Take { partner, most, wait } => {
                let Some(registered) = self.served_here(partner) else { return Answer::NotHere };
                let fetched = self.take_from_inbox(&registered.partner.id, most, wait).await;
                let told =
                    |Fetched { messages, lease }| Answer::Taken(messages.into_iter().map(Taken::from).collect(), lease);
                Answer::of(fetched, told)
            }
            Call::Replay { event, partners } => {
                let partners = partners.into_iter().filter(|no| self.serves(*no)).collect();
                Answer::of(self.replay_here(event, partners).await, Answer::Replayed)
            }
            Call::Redrive(chosen) => Answer::of(self.redrive_here(&chosen.into()).await, Answer::Count),
            Call::Discard(chosen, reason) => {
                Answer::of(self.discard_here(&chosen.into(), &reason).await, Answer::Count)
            }
            Call::Cancel { event, reason } => Answer::of(self.cancel_here(event, &reason).await, |()| Answer::Done),
            Call::Inspect(no) => {
                let LaneReport { in_flight, offline_since, last_error } = self.lanes.inspect(no).await;
                Answer::Lane { in_flight, offline_since, last_error }
            }
            Call::InspectEach(partners) => {
                let here: Vec<PartnerNo> = partners.into_iter().filter(|no| self.serves(*no)).collect();
                Answer::Lanes(self.lanes.inspect_each(&here).await.into_iter().map(Fares::from).collect())
            }
            Call::Day(no) => Answer::Day(self.lanes.day(no).await),
            Call::Survey => {
                let survey = self.lanes.survey().await;
                let told = survey.iter().map(|surveyed| {
                    let Surveyed { registered, standing, last_error } = &**surveyed;
                    (registered.no, standing.clone(), last_error.clone())
                });
                Answer::Survey(told.collect())
            }
            Call::Checkpoint if self.leads() => {
                Answer::of(self.make_checkpoint().await, |CheckpointView { size, at, note }| Answer::Checkpoint {
                    size,
                    at,
                    note,
                })
            }
            Call::Checkpoint => Answer::NotHere,
        }
    }

    fn served_here(&self, no: PartnerNo) -> Option<Arc<crate::registry::Registered>> {
        let registered = self.delivery.registry.snapshot().by_no.get(&no).cloned();
        registered.filter(|_| self.serves(no))
    }
}

/// Another node does not answer.
fn silent() -> Problem {
    Problem::new(Code::Unavailable, "another node does not answer; part of it may be done")
        .with_hint("try again; `hms-ess nodes` shows which node is not heard of")
        .with_retry_after(Duration::from_secs(1))
}

/// Waits for all of them side by side.
async fn join_all<T>(asked: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut asked: Vec<_> = asked.map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = asked.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_waiting = false;
        for (one, answer) in asked.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            match one.as_mut().poll(context) {
                std::task::Poll::Ready(ready) => *answer = Some(ready),
                std::task::Poll::Pending => is_waiting = true,
            }
        }
        if is_waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    answers.into_iter().flatten().collect()
}
