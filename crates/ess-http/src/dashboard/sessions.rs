//! Who is signed in: random ids that stand for a token, bounded, and each ends by itself. A hub that has its store for itself keeps
//! them in memory only; hubs that share one keep them there, so that it does not matter which one a browser comes to.
//!
//! Never holds a token's text. A session is only as good as its token: every request asks the hub whether it still is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ess_core::problem::{Code, Problem};
use ess_hub::sessions::{SESSION_BOUNDS, SessionKey, SharedSessions, form_token_of};
use ess_hub::{Hub, TokenMark};
use serde::{Deserialize, Serialize};

/// What is told on the next page is cut here.
const NOTICE_BYTES_MAX: usize = 8 * 1024;

/// Open streams ask a shared store no more often, however much happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The text in the cookie.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(String);

/// What a person is told once, on the next page.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// What was done.
    pub(crate) text: String,
    /// A text to take over, such as a new secret: shown this once.
    pub(crate) secret: Option<String>,
    /// Whether it went as wished.
    pub(crate) is_good: bool,
}

/// A session that goes on.
#[derive(Clone, Copy)]
pub(crate) struct Session {
    pub(crate) mark: TokenMark,
    /// Something is to be told on its next page.
    pub(crate) has_notice: bool,
}

/// All sessions.
pub(crate) enum Sessions {
    /// In this hub's memory: a restart ends them.
    Here(Here),
    /// In the store that hubs share.
    Shared(SharedSessions),
}

impl SessionId {
    /// A text that may be one: 64 hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| Self(text.to_owned()))
    }

    /// 256 random bits.
    fn random() -> Result<Self, Problem> {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(|_| Problem::new(Code::Internal, "the system gives no random bytes"))?;
        Ok(Self(random.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// What goes into the cookie.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Stands in every form; a page of somebody else's does not know it.
    pub(crate) fn form_token(&self) -> String {
        form_token_of(&self.0)
    }

    fn key(&self) -> SessionKey {
        SessionKey::of(&self.0)
    }
}

impl Sessions {
    /// Those of this hub.
    pub(crate) fn of(hub: &Hub) -> Self {
        hub.shared_sessions().map_or_else(|| Self::Here(Here::default()), Self::Shared)
    }

    /// Begins a session for a token that was just shown.
    pub(crate) async fn begin(&self, mark: TokenMark) -> Result<SessionId, Problem> {
        let id = SessionId::random()?;
        match self {
            Self::Here(here) => here.begin(&id, mark, Instant::now()),
            Self::Shared(shared) => shared.begin(id.key(), mark).await?,
        }
        Ok(id)
    }

    /// The session of this id, if it goes on; it was seen now.
    pub(crate) async fn find(&self, id: &SessionId) -> Result<Option<Session>, Problem> {
        match self {
            Self::Here(here) => Ok(here.find(id, Instant::now())),
            Self::Shared(shared) => {
                Ok(shared.find(id.key()).await?.map(|(mark, has_notice)| Session { mark, has_notice }))
            }
        }
    }

    /// How often an open stream looks whether its session goes on.
    pub(crate) fn look_every(&self) -> Duration {
        match self {
            Self::Here(_) => Duration::ZERO,
            Self::Shared(_) => LOOK_EVERY,
        }
    }

    /// Whether the session goes on; an open stream alone does not keep it.
    pub(crate) async fn goes_on(&self, id: &SessionId) -> Result<bool, Problem> {
        match self {
            Self::Here(here) => Ok(here.goes_on(id, Instant::now())),
            Self::Shared(shared) => shared.goes_on(id.key()).await,
        }
    }

    /// Ends a session.
    pub(crate) async fn end(&self, id: &SessionId) -> Result<(), Problem> {
        match self {
            Self::Here(here) => {
                here.end(id);
                Ok(())
            }
            Self::Shared(shared) => shared.end(id.key()).await,
        }
    }

    /// Leaves word for the session's next page: of what was done already.
    pub(crate) async fn leave(&self, id: &SessionId, mut notice: Notice) -> Result<(), Problem> {
        notice.text.truncate(notice.text.floor_char_boundary(NOTICE_BYTES_MAX));
        match self {
            Self::Here(here) => {
                here.leave(id, notice);
                Ok(())
            }
            Self::Shared(shared) => {
                let text = serde_json::to_vec(&notice);
                let text = text.map_err(|_| Problem::new(Code::Internal, "a notice could not be written"))?;
                shared.leave(id.key(), &text).await.map_err(|problem| word_lost(&problem))
            }
        }
    }

    /// Takes the word that was left. What can't be had now stays for another page; what a newer hub wrote is not shown.
    pub(crate) async fn take_notice(&self, id: &SessionId) -> Option<Notice> {
        match self {
            Self::Here(here) => here.take_notice(id),
            Self::Shared(shared) => {
                let text = shared.take_notice(id.key()).await.ok()??;
                serde_json::from_slice(&text).ok()
            }
        }
    }
}

/// What was done can't be told on the next page.
fn word_lost(problem: &Problem) -> Problem {
    Problem::new(Code::Unavailable, format!("it was done, but what came of it could not be kept: {}", problem.detail))
        .with_hint("do not send it again: look at the page first; a new secret that was not shown is made again by another rotation")
}

/// Sessions in memory.
#[derive(Default)]
pub(crate) struct Here {
    /// Guards the map; held for look-ups and single changes.
    open: Mutex<HashMap<SessionId, Kept>>,
}

struct Kept {
    mark: TokenMark,
    began: Instant,
    seen: Instant,
    notice: Option<Notice>,
}

impl Here {
    fn begin(&self, id: &SessionId, mark: TokenMark, now: Instant) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, kept| !kept.is_over(now));
        let own = open.values().filter(|kept| kept.mark == mark).count();
        if own >= SESSION_BOUNDS.of_a_token_max {
            drop_oldest(&mut open, |kept| kept.mark == mark);
        } else if open.len() >= SESSION_BOUNDS.count_max {
            drop_oldest(&mut open, |_| true);
        }
        open.insert(id.clone(), Kept { mark, began: now, seen: now, notice: None });
    }

    fn find(&self, id: &SessionId, now: Instant) -> Option<Session> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = open.get_mut(id)?;
        if kept.is_over(now) {
            open.remove(id);
            return None;
        }
        kept.seen = now;
        Some(Session { mark: kept.mark, has_notice: kept.notice.is_some() })
    }

    fn goes_on(&self, id: &SessionId, now: Instant) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).is_some_and(|kept| !kept.is_over(now))
    }

    fn end(&self, id: &SessionId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn leave(&self, id: &SessionId, notice: Notice) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = open.get_mut(id) {
            kept.notice = Some(notice);
        }
    }

    fn take_notice(&self, id: &SessionId) -> Option<Notice> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get_mut(id)?.notice.take()
    }
}

impl Kept {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= SESSION_BOUNDS.age_max
            || now.saturating_duration_since(self.seen) >= SESSION_BOUNDS.idle_max
    }
}

fn drop_oldest(open: &mut HashMap<SessionId, Kept>, is_meant: impl Fn(&Kept) -> bool) {
    let oldest = open.iter().filter(|(_, kept)| is_meant(kept)).min_by_key(|(_, kept)| kept.seen);
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        open.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION_AGE_MAX: Duration = SESSION_BOUNDS.age_max;
    const SESSION_IDLE_MAX: Duration = SESSION_BOUNDS.idle_max;
    const SESSIONS_PER_TOKEN_MAX: usize = SESSION_BOUNDS.of_a_token_max;

    fn begin(sessions: &Here, mark: TokenMark, now: Instant) -> SessionId {
        let id = SessionId::random().unwrap();
        sessions.begin(&id, mark, now);
        id
    }

    fn mark(name: &str) -> TokenMark {
        TokenMark::of(name)
    }

    #[test]
    fn a_session_ends_when_nobody_asks_and_at_the_latest_after_half_a_day() {
        let (sessions, start) = (Here::default(), Instant::now());
        let id = begin(&sessions, mark("a"), start);
        assert!(SessionId::parse(id.as_str()).is_some());
        let mut now = start;
        while now + SESSION_IDLE_MAX / 2 < start + SESSION_AGE_MAX {
            now += SESSION_IDLE_MAX / 2;
            assert!(sessions.find(&id, now).is_some());
        }
        assert!(sessions.find(&id, start + SESSION_AGE_MAX).is_none());
        let id = begin(&sessions, mark("a"), start);
        assert!(sessions.find(&id, start + SESSION_IDLE_MAX).is_none());
        assert!(sessions.find(&id, start).is_none(), "what has ended does not come back");
    }

    #[test]
    fn sessions_are_bounded_and_a_token_takes_no_room_of_others() {
        let (sessions, start) = (Here::default(), Instant::now());
        let other = begin(&sessions, mark("other"), start);
        let ids: Vec<SessionId> = (0..=SESSIONS_PER_TOKEN_MAX as u64)
            .map(|second| begin(&sessions, mark("one"), start + Duration::from_secs(second)))
            .collect();
        assert!(sessions.find(&ids[0], start).is_none() && sessions.find(&ids[1], start).is_some());
        assert!(sessions.find(&other, start).is_some());
    }

    #[test]
    fn a_notice_is_told_once_and_an_end_is_an_end() {
        let (sessions, now) = (Here::default(), Instant::now());
        let id = begin(&sessions, mark("a"), now);
        sessions.leave(&id, Notice { text: "paused".to_owned(), secret: None, is_good: true });
        assert_eq!(sessions.take_notice(&id).unwrap().text, "paused");
        assert!(sessions.take_notice(&id).is_none());
        sessions.end(&id);
        assert!(sessions.find(&id, now).is_none());
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(65)] {
            assert!(SessionId::parse(bad).is_none(), "{bad}");
        }
    }
}
