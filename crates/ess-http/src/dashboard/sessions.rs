//! Who is signed in: random ids that stand for a token. Kept in memory only, bounded, and each ends by itself.
//!
//! Never holds a token's text. A session is only as good as its token: every request asks the hub whether it still is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ess_core::problem::{Code, Problem};
use ess_hub::TokenMark;

/// A session ends this long after the sign-in, whatever happens.
pub(crate) const SESSION_AGE_MAX: Duration = Duration::from_secs(12 * 3_600);
/// A session ends after this long without a request.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(3_600);
/// Sessions at once.
const SESSIONS_MAX: usize = 4_096;
/// Sessions at once of one token: the oldest makes room.
const SESSIONS_PER_TOKEN_MAX: usize = 32;

/// The text in the cookie.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(String);

/// What a person is told once, on the next page.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What was done.
    pub(crate) text: String,
    /// A text to take over, such as a new secret: shown this once.
    pub(crate) secret: Option<String>,
    /// Whether it went as wished.
    pub(crate) is_good: bool,
}

/// One session.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) mark: TokenMark,
    /// Stands in every form; a page of somebody else's does not know it.
    pub(crate) csrf: String,
    began: Instant,
    seen: Instant,
    notice: Option<Notice>,
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    /// Guards the map; held for look-ups and single changes.
    open: Mutex<HashMap<SessionId, Session>>,
}

impl SessionId {
    /// A text that may be one: 64 hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| Self(text.to_owned()))
    }

    /// What goes into the cookie.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Sessions {
    /// Begins a session for a token that was just shown.
    pub(crate) fn begin(&self, mark: TokenMark, now: Instant) -> Result<SessionId, Problem> {
        let (id, csrf) = (SessionId(random_text()?), random_text()?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, session| !session.is_over(now));
        let own = open.values().filter(|session| session.mark == mark).count();
        if own >= SESSIONS_PER_TOKEN_MAX {
            drop_oldest(&mut open, |session| session.mark == mark);
        } else if open.len() >= SESSIONS_MAX {
            drop_oldest(&mut open, |_| true);
        }
        open.insert(id.clone(), Session { mark, csrf, began: now, seen: now, notice: None });
        Ok(id)
    }

    /// The session of this id, if it goes on; it was seen now.
    pub(crate) fn find(&self, id: &SessionId, now: Instant) -> Option<Session> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get_mut(id)?;
        if session.is_over(now) {
            open.remove(id);
            return None;
        }
        session.seen = now;
        Some(session.clone())
    }

    /// The session of this id, if it goes on; an open stream alone does not keep it.
    pub(crate) fn peek(&self, id: &SessionId, now: Instant) -> Option<Session> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).filter(|session| !session.is_over(now)).cloned()
    }

    /// Ends a session.
    pub(crate) fn end(&self, id: &SessionId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Leaves word for the session's next page.
    pub(crate) fn leave(&self, id: &SessionId, notice: Notice) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = open.get_mut(id) {
            session.notice = Some(notice);
        }
    }

    /// Takes the word that was left.
    pub(crate) fn take_notice(&self, id: &SessionId) -> Option<Notice> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get_mut(id)?.notice.take()
    }
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= SESSION_AGE_MAX
            || now.saturating_duration_since(self.seen) >= SESSION_IDLE_MAX
    }
}

fn drop_oldest(open: &mut HashMap<SessionId, Session>, is_meant: impl Fn(&Session) -> bool) {
    let oldest = open.iter().filter(|(_, session)| is_meant(session)).min_by_key(|(_, session)| session.seen);
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        open.remove(&id);
    }
}

/// 256 random bits as hex.
fn random_text() -> Result<String, Problem> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|_| Problem::new(Code::Internal, "the system gives no random bytes"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str) -> TokenMark {
        TokenMark::of(name)
    }

    #[test]
    fn a_session_ends_when_nobody_asks_and_at_the_latest_after_half_a_day() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let id = sessions.begin(mark("a"), start).unwrap();
        assert!(SessionId::parse(id.as_str()).is_some());
        let mut now = start;
        while now + SESSION_IDLE_MAX / 2 < start + SESSION_AGE_MAX {
            now += SESSION_IDLE_MAX / 2;
            assert!(sessions.find(&id, now).is_some());
        }
        assert!(sessions.find(&id, start + SESSION_AGE_MAX).is_none());
        let id = sessions.begin(mark("a"), start).unwrap();
        assert!(sessions.find(&id, start + SESSION_IDLE_MAX).is_none());
        assert!(sessions.find(&id, start).is_none(), "what has ended does not come back");
    }

    #[test]
    fn sessions_are_bounded_and_a_token_takes_no_room_of_others() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let other = sessions.begin(mark("other"), start).unwrap();
        let ids: Vec<SessionId> = (0..=SESSIONS_PER_TOKEN_MAX as u64)
            .map(|second| sessions.begin(mark("one"), start + Duration::from_secs(second)).unwrap())
            .collect();
        assert!(sessions.find(&ids[0], start).is_none() && sessions.find(&ids[1], start).is_some());
        assert!(sessions.find(&other, start).is_some());
    }

    #[test]
    fn a_notice_is_told_once_and_an_end_is_an_end() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.begin(mark("a"), now).unwrap();
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
