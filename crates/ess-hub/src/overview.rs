//! What people look at: who has not acknowledged and why, the state of the whole, the last hour.
//!
//! Nothing here walks the log: lanes know what is open, and what is counted in the store is counted up to a bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ess_core::id::{EventId, PartnerId, PartnerNo, Seq};
use ess_core::lane::{Standing, Wait};
use ess_core::partner::Partner;
use ess_core::problem::Problem;
use ess_core::time::Time;
use ess_store::Recorded;

use crate::flow::Minute;
use crate::fresh::Fresh;
use crate::hub::Hub;
use crate::lanes::Surveyed;
use crate::pace::Pace;
use crate::publish::unavailable;

/// How long one survey serves everybody.
pub const SURVEY_AGE_MAX: Duration = Duration::from_millis(250);
/// Dead letters are counted up to here.
pub const DEAD_COUNTED: usize = 10_000;
/// What has waited longer than this without a failure is worth a look.
const SLOW_AFTER: Duration = Duration::from_secs(60);

/// How a partner stands, in one word; what needs somebody first stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// An open delivery has no bridge or its script fails.
    Blocked,
    /// The patience with it is over: what waits for it counts as dead letters until it answers.
    GivenUp,
    /// It keeps failing; one probe at a time.
    Offline,
    /// Delivered, no ACK came, and it is not sent again.
    Unacknowledged,
    /// Failed; another attempt is due.
    Retrying,
    /// Not failed, but open for longer than a minute.
    Slow,
    /// An operator said stop, and something waits.
    Paused,
    /// Nothing to do.
    Well,
}

/// One partner, as it stands.
#[derive(Debug, Clone)]
pub struct PartnerStanding {
    /// Its configuration.
    pub partner: Arc<Partner>,
    /// In one word.
    pub condition: Condition,
    /// Its lane.
    pub standing: Standing,
    /// Since when it is paused.
    pub paused_since: Option<Time>,
    /// Its last failure since the hub began.
    pub last_error: Option<String>,
    /// The oldest open event.
    pub oldest: Option<Oldest>,
    /// How quickly it acknowledged of late.
    pub pace: Pace,
    /// False when the hub that serves it did not say how it stands: the rest is not known then.
    pub is_heard: bool,
}

/// The oldest open event of a partner.
#[derive(Debug, Clone)]
pub struct Oldest {
    /// The event.
    pub event: EventId,
    /// When it was recorded.
    pub recorded_at: Time,
}

/// The hub on one page.
#[derive(Debug, Clone)]
pub struct Overview {
    /// When this was.
    pub at: Time,
    /// Why the hub can't serve, if so.
    pub unready: Option<String>,
    /// How many partners there are.
    pub partners: usize,
    /// Of these, those whose hub did not say how they stand: it is being replaced, or does not answer.
    pub unheard: usize,
    /// Events in the log.
    pub events: Seq,
    /// Receipts in the ledger.
    pub receipts: u64,
    /// Partners in each condition.
    pub counts: BTreeMap<Condition, usize>,
    /// Partners with anything open.
    pub unacked: usize,
    /// Dead letters, up to `DEAD_COUNTED`.
    pub dead: usize,
    /// The partners with the most of them.
    pub dead_by_partner: Vec<(PartnerId, usize)>,
    /// Those that need somebody, the most urgent first, cut at what was asked for.
    pub attention: Vec<PartnerStanding>,
    /// The last hour.
    pub hour: Vec<Minute>,
}

/// Which partners of the survey are wanted.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// A part of the id or the address, in any case.
    pub text: String,
    /// Only these.
    pub condition: Option<Condition>,
}

/// What all lanes said at one moment.
pub(crate) type Survey = Fresh<Vec<Arc<Surveyed>>>;

impl Hub {
    /// Turns at each commit of the store: something changed. Nothing is put into words for it.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.delivery.store.commits()
    }

    /// The hub on one page, with at most so many partners that need attention.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn overview(&self, attention_max: usize) -> Result<Overview, Problem> {
        let survey = self.survey().await;
        self.overview_of(&survey, attention_max).await
    }

    /// Partners that no hub spoke of. A hub alone speaks of all that it has.
    fn unheard(&self, survey: &[Arc<Surveyed>]) -> usize {
        if !self.is_shared() {
            return 0;
        }
        self.delivery.registry.snapshot().partners.len().saturating_sub(survey.len())
    }

    /// The same for these partners.
    pub(crate) async fn overview_of(
        &self,
        survey: &[Arc<Surveyed>],
        attention_max: usize,
    ) -> Result<Overview, Problem> {
        let now = self.now();
        let (dead, dead_by_partner) = self.count_dead(survey).await?;
        let events = self.delivery.store.head().await.map_err(|error| unavailable(&error))?;
        let receipts = self.ledger_head().await?.size;
        let slow = self.seq_before(now, SLOW_AFTER, events).await?;
        let mut counts = BTreeMap::new();
        let mut waiting: Vec<(Rank<'_>, &Surveyed)> = Vec::new();
        for surveyed in survey.iter() {
            let condition = condition(surveyed, slow);
            *counts.entry(condition).or_insert(0) += 1;
            if condition != Condition::Well {
                waiting.push((rank(condition, surveyed), surveyed));
            }
        }
        let unheard = self.unheard(survey);
        let unacked = survey.iter().filter(|surveyed| has_open(&surveyed.standing)).count();
        // Only the first ones are shown: the others need no order.
        if waiting.len() > attention_max {
            waiting.select_nth_unstable_by(attention_max, |a, b| a.0.cmp(&b.0));
            waiting.truncate(attention_max);
        }
        waiting.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut attention = Vec::with_capacity(waiting.len());
        let mut known = BTreeMap::new();
        for (rank, surveyed) in waiting {
            attention.push(self.standing_of(surveyed, rank.condition, &mut known).await?);
        }
        Ok(Overview {
            at: now,
            unready: self.unready(),
            partners: survey.len() + unheard,
            unheard,
            events,
            receipts,
            counts,
            unacked,
            dead,
            dead_by_partner,
            attention,
            hour: self.delivery.flow.hour(now),
        })
    }

    /// A page of partners by id, with how many fit; `after` is the last id of the page before.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn partner_standings(
        &self,
        search: &Search,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<PartnerStanding>, usize), Problem> {
        let survey = self.survey().await;
        let events = self.delivery.store.head().await.map_err(|error| unavailable(&error))?;
        let slow = self.seq_before(self.now(), SLOW_AFTER, events).await?;
        let text = search.text.to_ascii_lowercase();
        let fits = |surveyed: &&Arc<Surveyed>| {
            let partner = &surveyed.registered.partner;
            let has_text = |of: &str| of.to_ascii_lowercase().contains(&text);
            (text.is_empty() || has_text(partner.id.as_str()) || partner.url.as_deref().is_some_and(has_text))
                && search.condition.is_none_or(|wanted| condition(surveyed, slow) == wanted)
        };
        let mut found: Vec<&Arc<Surveyed>> = survey.iter().filter(fits).collect();
        let count = found.len();
        found.sort_unstable_by(|a, b| a.registered.partner.id.cmp(&b.registered.partner.id));
        let rest = found.into_iter().filter(|one| after.is_none_or(|after| one.registered.partner.id.as_str() > after));
        let mut page = Vec::new();
        let mut known = BTreeMap::new();
        for surveyed in rest.take(limit) {
            page.push(self.standing_of(surveyed, condition(surveyed, slow), &mut known).await?);
        }
        Ok((page, count))
    }

    /// How one partner stands.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn partner_standing(&self, id: &PartnerId) -> Result<PartnerStanding, Problem> {
        let survey = self.survey().await;
        // The survey is shared and may be older than the act whose result is looked at here, such as a pause.
        let registered = self.delivery.registry.snapshot().partner(id)?.clone();
        let events = self.delivery.store.head().await.map_err(|error| unavailable(&error))?;
        let slow = self.seq_before(self.now(), SLOW_AFTER, events).await?;
        let known = survey.iter().find(|surveyed| surveyed.registered.no == registered.no);
        let is_heard = known.is_some() || !self.is_shared();
        let (standing, last_error) =
            known.map(|known| (known.standing.clone(), known.last_error.clone())).unwrap_or_default();
        let surveyed = Surveyed { registered, standing, last_error };
        let standing = self.standing_of(&surveyed, condition(&surveyed, slow), &mut BTreeMap::new()).await?;
        Ok(PartnerStanding { is_heard, ..standing })
    }

    /// How many partners no hub spoke of: theirs is being replaced, or does not answer.
    pub async fn unheard_partners(&self) -> usize {
        let survey = self.survey().await;
        self.unheard(&survey)
    }

    /// Open deliveries that lanes hold, and when the oldest of partners that are not paused was recorded.
    pub(crate) async fn open_of(&self, survey: &[Arc<Surveyed>]) -> Result<(u64, Option<Time>), Problem> {
        let open = survey.iter().map(|surveyed| u64::from(surveyed.standing.open)).sum();
        let moving = survey.iter().filter(|surveyed| surveyed.registered.paused_since.is_none());
        let oldest = moving.filter_map(|surveyed| surveyed.standing.oldest).min();
        let Some(seq) = oldest else { return Ok((open, None)) };
        Ok((open, self.oldest(seq).await?.map(|oldest| oldest.recorded_at)))
    }

    /// How the lanes of this node stand: what it counts itself is not what others count as well.
    pub(crate) async fn own_survey(&self) -> Arc<Vec<Arc<Surveyed>>> {
        match &self.cluster {
            None => self.survey().await,
            Some(_) => Arc::new(self.lanes.survey().await),
        }
    }

    async fn survey(&self) -> Arc<Vec<Arc<Surveyed>>> {
        let made = self.survey.get(|| async { Ok::<_, std::convert::Infallible>(self.survey_all().await) }).await;
        match made {
            Ok(survey) => survey,
            Err(never) => match never {},
        }
    }

    /// Those on record, and what waits for partners that are given up, as far as their lanes know.
    async fn count_dead(&self, survey: &[Arc<Surveyed>]) -> Result<(usize, Vec<(PartnerId, usize)>), Problem> {
        let counted = self.delivery.store.dead_by_partner(DEAD_COUNTED).await.map_err(|error| unavailable(&error))?;
        let mut counts: BTreeMap<PartnerNo, usize> = counted.into_iter().collect();
        for surveyed in survey.iter().filter(|surveyed| surveyed.standing.is_given_up) {
            let standing = &surveyed.standing;
            let waiting = standing.open.saturating_sub(standing.blocked + standing.awaiting_ack);
            *counts.entry(surveyed.registered.no).or_default() += waiting as usize;
        }
        let snapshot = self.delivery.registry.snapshot();
        let all = counts.values().sum();
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut named: Vec<(PartnerId, usize)> = counts.map(|(no, count)| (snapshot.name(no), count)).collect();
        named.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok((all, named))
    }

    /// The last event that was recorded more than `age` ago: seqs and recording times grow together.
    pub(crate) async fn seq_before(&self, now: Time, age: Duration, head: Seq) -> Result<Seq, Problem> {
        let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let then = Time::from_micros(now.as_micros().saturating_sub(micros));
        self.delivery.store.last_before(then, head).await.map_err(|error| unavailable(&error))
    }

    async fn standing_of(
        &self,
        surveyed: &Surveyed,
        condition: Condition,
        known: &mut BTreeMap<Seq, Option<Oldest>>,
    ) -> Result<PartnerStanding, Problem> {
        let standing = surveyed.standing.clone();
        let oldest = match standing.oldest {
            None => None,
            Some(seq) => match known.get(&seq) {
                Some(oldest) => oldest.clone(),
                None => known.entry(seq).or_insert(self.oldest(seq).await?).clone(),
            },
        };
        Ok(PartnerStanding {
            partner: surveyed.registered.partner.clone(),
            condition,
            standing,
            paused_since: surveyed.registered.paused_since,
            last_error: surveyed.last_error.clone(),
            oldest,
            pace: self.delivery.paces.of(surveyed.registered.no, self.now()),
            is_heard: true,
        })
    }

    async fn oldest(&self, seq: Seq) -> Result<Option<Oldest>, Problem> {
        if let Some(cell) = self.delivery.cells.get(seq) {
            let event = &cell.event;
            return Ok(Some(Oldest { event: event.content.id.clone(), recorded_at: event.recorded_at }));
        }
        let found = self.delivery.store.event(seq).await.map_err(|error| unavailable(&error))?;
        Ok(found
            .map(|Recorded { event, .. }| Oldest { event: event.content.id.clone(), recorded_at: event.recorded_at }))
    }
}

/// What is more urgent is less.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    is_last: bool,
    is_routine: bool,
    oldest: Seq,
    condition: Condition,
    id: &'a PartnerId,
}

fn rank(condition: Condition, surveyed: &Surveyed) -> Rank<'_> {
    let standing = &surveyed.standing;
    Rank {
        // A pause is somebody's will: it stands below what nobody wanted.
        is_last: condition == Condition::Paused || !has_open(standing),
        is_routine: standing.urgent == 0,
        oldest: standing.oldest.unwrap_or(Seq(u64::MAX)),
        condition,
        id: &surveyed.registered.partner.id,
    }
}

fn has_open(standing: &Standing) -> bool {
    standing.open > 0 || standing.has_more
}

fn condition(surveyed: &Surveyed, slow: Seq) -> Condition {
    let standing = &surveyed.standing;
    if surveyed.registered.paused_since.is_some() {
        return if has_open(standing) { Condition::Paused } else { Condition::Well };
    }
    if standing.blocked > 0 {
        return Condition::Blocked;
    }
    if standing.is_given_up && has_open(standing) {
        return Condition::GivenUp;
    }
    if standing.offline_since.is_some() {
        return Condition::Offline;
    }
    let Some(speaker) = &standing.speaker else { return Condition::Well };
    match speaker.wait {
        Wait::Ack => Condition::Unacknowledged,
        _ if standing.retrying > 0 || speaker.reason.is_some() => Condition::Retrying,
        _ if standing.oldest.is_some_and(|oldest| oldest <= slow) => Condition::Slow,
        _ => Condition::Well,
    }
}
