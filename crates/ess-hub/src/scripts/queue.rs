//! Who evaluates next: scripts take turns, however many evaluations each has waiting.
//!
//! A script whose evaluations had to be killed again and again is refused for a while with the same error, so that it
//! cannot keep the processes busy with dying.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ess_core::script::{Clock, ScriptError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::wire::{self, Answer, Request};

/// Evaluations of one script that may wait; more wait to wait.
const WAITING_MAX: usize = 64;
/// Scripts with a history; the idle ones are forgotten beyond this.
const SCRIPTS_MAX: usize = 4096;
/// Kills within [`KILLS_WITHIN`] that a script gets before it is refused.
const KILLS_MAX: usize = 3;
const KILLS_WITHIN: Duration = Duration::from_secs(60);
/// How long a script is refused.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// An evaluation that took longer marks its script as slow: it goes alone, and never to all processes at once.
const SLOW: Duration = Duration::from_millis(5);
/// One that took longer holds a process for so long that one process stays free of all such scripts together: partners
/// may mean harm by twos. More than a busy machine makes of a good script.
const LONG: Duration = Duration::from_millis(25);
/// Calls that travel to a process together.
const BATCH_MAX: usize = 16;

/// One evaluation or check that waits.
pub(super) struct Call {
    /// The script, or the schema: whose turn it is.
    pub(super) script: Arc<str>,
    pub(super) kind: CallKind,
    /// Where the answer goes; nobody may be there any more.
    pub(super) reply: oneshot::Sender<Answer>,
    /// Its place among the script's waiting ones.
    pub(super) _place: OwnedSemaphorePermit,
}

/// What a call is about.
pub(super) enum CallKind {
    Check,
    Evaluate(Given),
    Follow(Given),
    CheckSchema,
    Validate { payload: Arc<str> },
}

/// What a script is given.
pub(super) struct Given {
    pub(super) input: Option<Arc<str>>,
    pub(super) bindings: Arc<[(String, String)]>,
    pub(super) clock: Clock,
}

impl Call {
    /// Appends the call's frame.
    pub(super) fn write(&self, frame: &mut Vec<u8>) {
        let script = &*self.script;
        match &self.kind {
            CallKind::Check => wire::write_request(frame, &Request::Check { script }),
            CallKind::Evaluate(Given { input, bindings, clock }) => {
                let (input, bindings) = (input.as_deref(), borrowed(bindings));
                wire::write_request(frame, &Request::Evaluate { script, input, bindings, clock: *clock });
            }
            CallKind::Follow(Given { input, bindings, clock }) => {
                let (input, bindings) = (input.as_deref(), borrowed(bindings));
                wire::write_request(frame, &Request::Follow { script, input, bindings, clock: *clock });
            }
            CallKind::CheckSchema => wire::write_request(frame, &Request::CheckSchema { schema: script }),
            CallKind::Validate { payload } => {
                wire::write_request(frame, &Request::Validate { schema: script, payload });
            }
        }
    }
}

fn borrowed(bindings: &[(String, String)]) -> Vec<(&str, &str)> {
    bindings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// A script's calls and history.
struct Lane {
    gate: Arc<Semaphore>,
    calls: VecDeque<Call>,
    /// Processes that evaluate it now.
    running: usize,
    /// Whether the last evaluation took long, or none has ended yet: an unknown script may be anything.
    is_slow: bool,
    /// Whether the last evaluation was a [`LONG`] one, or none has ended yet.
    is_long: bool,
    /// Processes that evaluate it now and count among [`Queue::long`].
    long: usize,
    kills: VecDeque<Instant>,
    refused: Option<(Instant, ScriptError)>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(WAITING_MAX)),
            calls: VecDeque::new(),
            running: 0,
            is_slow: true,
            is_long: true,
            long: 0,
            kills: VecDeque::new(),
            refused: None,
        }
    }
}

impl Lane {
    fn is_idle(&self, now: Instant) -> bool {
        self.calls.is_empty()
            && self.running == 0
            && self.gate.available_permits() == WAITING_MAX
            && self.kills.back().is_none_or(|kill| now - *kill > KILLS_WITHIN)
    }
}

/// All scripts' calls.
#[derive(Default)]
pub(super) struct Queue {
    lanes: HashMap<Arc<str>, Lane>,
    /// Scripts with waiting calls, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// Processes that evaluate a script that [`Lane::is_long`].
    long: usize,
}

impl Queue {
    /// Where a call of this script asks for its place, or the error for which the script is refused now.
    pub(super) fn gate(&mut self, script: &Arc<str>, now: Instant) -> Result<Arc<Semaphore>, ScriptError> {
        if self.lanes.len() >= SCRIPTS_MAX && !self.lanes.contains_key(script) {
            self.lanes.retain(|_, lane| !lane.is_idle(now));
        }
        let lane = self.lanes.entry(Arc::clone(script)).or_default();
        match &lane.refused {
            Some((until, error)) if now < *until => Err(error.clone()),
            _ => Ok(Arc::clone(&lane.gate)),
        }
    }

    /// Adds a call; its answer may come at once.
    pub(super) fn push(&mut self, call: Call, now: Instant) {
        let lane = self.lanes.entry(Arc::clone(&call.script)).or_default();
        if let Some((_, error)) = lane.refused.as_ref().filter(|(until, _)| now < *until) {
            // Whoever asked may be gone.
            let _ = call.reply.send(Err(error.clone()));
            return;
        }
        if lane.calls.is_empty() {
            self.turns.push_back(Arc::clone(&call.script));
        }
        lane.calls.push_back(call);
    }

    /// Puts calls back to the front: a process died under them that another one's script had killed.
    pub(super) fn push_back(&mut self, calls: Vec<Call>) {
        for call in calls.into_iter().rev() {
            let lane = self.lanes.entry(Arc::clone(&call.script)).or_default();
            if lane.calls.is_empty() {
                self.turns.push_front(Arc::clone(&call.script));
            }
            lane.calls.push_front(call);
        }
    }

    /// Whether a call waits, be it for another one of its script to end.
    pub(super) fn has_waiting(&self) -> bool {
        !self.turns.is_empty()
    }

    /// More calls for one of so many processes that still has some; none when it is the turn of a script that goes alone.
    pub(super) fn take_fast(&mut self, workers: usize) -> Vec<Call> {
        let mut waiting = self.turns.iter().filter_map(|script| self.lanes.get(script));
        if waiting.any(|lane| lane.is_slow || lane.is_long) { Vec::new() } else { self.take(workers) }
    }

    /// The calls that one of so many processes takes next; empty when there is nothing for it to do.
    pub(super) fn take(&mut self, workers: usize) -> Vec<Call> {
        let share = self.turns.iter().filter_map(|script| self.lanes.get(script)).map(|lane| lane.calls.len());
        let share = share.sum::<usize>().div_ceil(workers).clamp(1, BATCH_MAX);
        let mut calls: Vec<Call> = Vec::new();
        // As many as it may take, and each script that can't go now once.
        for _ in 0..self.turns.len() + share {
            let Some(script) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&script) else {
                continue;
            };
            // One process stays free of a slow script, and of all long ones, if there are several.
            let room = workers.saturating_sub(1).max(1);
            let may_run =
                (!lane.is_slow || (calls.is_empty() && lane.running < room)) && (!lane.is_long || self.long < room);
            if may_run && let Some(call) = lane.calls.pop_front() {
                lane.running += 1;
                let is_long = usize::from(lane.is_long);
                lane.long += is_long;
                self.long += is_long;
                calls.push(call);
            }
            let is_slow = lane.is_slow;
            if !lane.calls.is_empty() {
                self.turns.push_back(script);
            }
            if calls.len() >= share || (may_run && is_slow) {
                break;
            }
        }
        calls
    }

    /// Notes that an evaluation of this script ended, and how long it took.
    pub(super) fn ended(&mut self, script: &Arc<str>, took: Duration) {
        self.returned(script);
        self.timed(script, took);
    }

    /// Notes how long an evaluation of this script took, whose process went with it: it counts as running until
    /// [`Queue::returned`] says that there is another process.
    pub(super) fn timed(&mut self, script: &Arc<str>, took: Duration) {
        if let Some(lane) = self.lanes.get_mut(script) {
            lane.is_slow = took > SLOW;
            lane.is_long = took > LONG;
        }
    }

    /// Notes that a call left its process without an evaluation: it was a check, or had not begun.
    pub(super) fn returned(&mut self, script: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(script) {
            lane.running = lane.running.saturating_sub(1);
            let was_long = lane.long.min(1);
            lane.long -= was_long;
            self.long -= was_long;
        }
    }

    /// Notes that a process was lost over one of several scripts, of which this is one: it goes alone until it has ended.
    pub(super) fn suspect(&mut self, script: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(script) {
            lane.is_slow = true;
        }
    }

    /// Notes that a process had to be killed over this script; too often, and its waiting calls are refused as well.
    /// The script counts as running until [`Queue::returned`] says that there is another process: what is left of the
    /// others is not its next.
    pub(super) fn killed(&mut self, script: &Arc<str>, error: &ScriptError, now: Instant) {
        let Some(lane) = self.lanes.get_mut(script) else { return };
        lane.is_slow = true;
        lane.is_long = true;
        lane.kills.push_back(now);
        while lane.kills.front().is_some_and(|kill| now - *kill > KILLS_WITHIN) {
            lane.kills.pop_front();
        }
        if lane.kills.len() < KILLS_MAX {
            return;
        }
        lane.kills.clear();
        lane.refused = Some((now + REFUSED_FOR, error.clone()));
        for call in lane.calls.drain(..) {
            let _ = call.reply.send(Err(error.clone()));
        }
        self.turns.retain(|other| other != script);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(queue: &mut Queue, script: &str, now: Instant) -> oneshot::Receiver<Answer> {
        let script: Arc<str> = script.into();
        let gate = queue.gate(&script, now).unwrap_or_default_gate();
        let (reply, answer) = oneshot::channel();
        let place = gate.try_acquire_owned().unwrap();
        queue.push(Call { script, kind: CallKind::Check, reply, _place: place }, now);
        answer
    }

    trait OrGate {
        fn unwrap_or_default_gate(self) -> Arc<Semaphore>;
    }

    impl OrGate for Result<Arc<Semaphore>, ScriptError> {
        fn unwrap_or_default_gate(self) -> Arc<Semaphore> {
            self.unwrap_or_else(|_| Arc::new(Semaphore::new(1)))
        }
    }

    fn names(calls: &[Call]) -> Vec<&str> {
        calls.iter().map(|call| &*call.script).collect()
    }

    fn know_as_fast(queue: &mut Queue, scripts: &[&str], now: Instant) {
        for script in scripts {
            queue.gate(&Arc::from(*script), now).unwrap();
            queue.ended(&Arc::from(*script), Duration::ZERO);
        }
    }

    #[test]
    fn scripts_take_turns_however_many_calls_each_has() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["a", "b", "c"], now);
        let _answers: Vec<_> = ["a", "a", "a", "b", "c"].map(|script| call(&mut queue, script, now)).into();
        assert_eq!(names(&queue.take(1)), ["a", "b", "c", "a", "a"]);
        assert!(queue.take(1).is_empty());
    }

    #[test]
    fn a_slow_script_goes_alone_and_leaves_a_process_free() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["b", "c"], now);
        queue.gate(&"slow".into(), now).unwrap();
        queue.ended(&"slow".into(), SLOW * 2);
        let _answers: Vec<_> = ["slow", "slow", "b", "b", "c", "c"].map(|script| call(&mut queue, script, now)).into();
        let first = queue.take(2);
        assert_eq!(names(&first), ["slow"]);
        assert_eq!(names(&queue.take(2)), ["b", "c", "b"]);
    }

    // Both processes took calls of a hostile script before the first of them had ended.
    #[test]
    fn a_process_is_given_no_more_while_a_script_waits_that_goes_alone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["a"], now);
        let _answers: Vec<_> = ["a", "new"].map(|script| call(&mut queue, script, now)).into();
        assert!(queue.take_fast(2).is_empty());
        assert_eq!(names(&queue.take(2)), ["a"]);
        assert_eq!(names(&queue.take(2)), ["new"]);
        let _answer = call(&mut queue, "a", now);
        assert_eq!(names(&queue.take_fast(2)), ["a"]);
    }

    #[test]
    fn an_unknown_script_leaves_a_process_free_until_it_has_ended_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["b"], now);
        let _answers: Vec<_> = ["new", "new", "b", "new"].map(|script| call(&mut queue, script, now)).into();
        assert_eq!(names(&queue.take(2)), ["new"]);
        assert_eq!(names(&queue.take(2)), ["b"]);
        assert!(queue.take(2).is_empty());
        queue.ended(&"new".into(), Duration::ZERO);
        assert_eq!(names(&queue.take(2)), ["new"]);
    }

    // Two hostile partners had a process each, and the others none.
    #[test]
    fn long_scripts_together_leave_a_process_free() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["one", "two", "b"], now);
        queue.ended(&"one".into(), LONG * 2);
        queue.ended(&"two".into(), LONG * 2);
        let _answers: Vec<_> = ["one", "two", "one", "b"].map(|script| call(&mut queue, script, now)).into();
        assert_eq!(names(&queue.take(2)), ["one"]);
        assert_eq!(names(&queue.take(2)), ["b"]);
        assert!(queue.take(2).is_empty());
        queue.ended(&"one".into(), LONG * 2);
        assert_eq!(queue.take(2).len(), 1);
        assert!(queue.take(2).is_empty());
    }

    // Answers travel together, so the first one without an answer need not be the one that killed the process.
    #[test]
    fn scripts_that_a_process_was_lost_under_go_alone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        know_as_fast(&mut queue, &["a", "b"], now);
        let _answers: Vec<_> = ["a", "b"].map(|script| call(&mut queue, script, now)).into();
        let both = queue.take(1);
        assert_eq!(names(&both), ["a", "b"]);
        for call in &both {
            queue.suspect(&call.script);
            queue.returned(&call.script);
        }
        queue.push_back(both);
        assert_eq!(names(&queue.take(1)), ["a"]);
        queue.ended(&"a".into(), Duration::ZERO);
        assert_eq!(names(&queue.take(1)), ["b"]);
    }

    // Otherwise it has the other process before there is a fresh one, and the others have none.
    #[test]
    fn a_script_that_cost_a_process_waits_for_its_successor() {
        let now = Instant::now();
        let killed = |queue: &mut Queue| queue.killed(&"bad".into(), &ScriptError::new("E_MEMORY", "too much"), now);
        let made_room = |queue: &mut Queue| queue.timed(&"bad".into(), LONG * 2);
        for cost in [&killed as &dyn Fn(&mut Queue), &made_room] {
            let mut queue = Queue::default();
            know_as_fast(&mut queue, &["b"], now);
            let _answers: Vec<_> = ["bad", "bad", "b"].map(|script| call(&mut queue, script, now)).into();
            assert_eq!(names(&queue.take(2)), ["bad"]);
            cost(&mut queue);
            assert_eq!(names(&queue.take(2)), ["b"]);
            assert!(queue.take(2).is_empty());
            queue.returned(&"bad".into());
            assert_eq!(names(&queue.take(2)), ["bad"]);
        }
    }

    #[test]
    fn a_script_that_is_killed_again_and_again_is_refused_for_a_while() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let error = ScriptError::new("U1001", "stopped");
        let mut waiting = call(&mut queue, "bad", now);
        for _ in 0..KILLS_MAX {
            queue.killed(&"bad".into(), &error, now);
        }
        assert_eq!(waiting.try_recv().unwrap(), Err(error.clone()));
        assert_eq!(queue.gate(&"bad".into(), now).err(), Some(error));
        assert!(queue.gate(&"bad".into(), now + REFUSED_FOR).is_ok());
        assert!(queue.gate(&"good".into(), now).is_ok());
    }
}
