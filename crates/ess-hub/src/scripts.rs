//! The evaluation processes: scripts run where they can be stopped.
//!
//! Nothing of a script is parsed or evaluated in the hub itself. A few processes of the same binary do it, each limited
//! in memory and processor time, and replaced when it oversteps; the hub waits and never works on a script's behalf.

mod process;
mod queue;
mod wire;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ess_core::schema::Violation;
use ess_core::script::{Bounds, CODE_ENGINE, CODE_INPUT, Clock, ScriptError, Unresolved};
use ess_core::table::Table;
use ess_core::time::Time;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

pub use worker::worker_main;

use queue::{Call, CallKind, Given, Queue};
use wire::Answer;

/// How evaluation processes are started.
#[derive(Debug, Clone)]
pub struct ScriptsOptions {
    /// The binary, as a rule the hub's own.
    pub program: PathBuf,
    /// Its arguments, `script-worker` for the hub's binary; they must lead to [`worker_main`].
    pub args: Vec<String>,
    /// Most processes at once; 1 at least.
    pub workers: usize,
    /// What each script may take.
    pub bounds: Bounds,
    /// How long a process with nothing to do is kept.
    pub idle: Duration,
    /// What scripts may look up.
    pub tables: Vec<Arc<Table>>,
}

impl ScriptsOptions {
    /// Two processes with the default bounds.
    #[must_use]
    pub fn of_program(program: PathBuf, args: Vec<String>) -> Self {
        Self { program, args, workers: 2, bounds: Bounds::default(), idle: Duration::from_secs(60), tables: Vec::new() }
    }
}

/// One evaluation.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The script; evaluations of equal texts share turns and history.
    pub script: Arc<str>,
    /// JSON text, or undefined.
    pub input: Option<Arc<str>>,
    /// Variables, name without `$`, and JSON text.
    pub bindings: Arc<[(String, String)]>,
    /// The event's recorded time. Absent when a script is only tried out: then the clock is real and dice roll.
    pub now: Option<Time>,
}

/// What the evaluation processes did so far, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScriptCounts {
    /// Answered calls.
    pub evaluations: u64,
    /// Of these, errors.
    pub errors: u64,
    /// Processes that were lost over a script.
    pub kills: u64,
    /// Living processes.
    pub processes: u64,
    /// Time that evaluations took, waiting for their turn not counted.
    pub time: Duration,
}

/// The pool of evaluation processes; clones share it.
#[derive(Clone)]
pub struct Scripts {
    shared: Arc<Shared>,
    owners: Arc<Owners>,
}

struct Program {
    path: PathBuf,
    args: Vec<String>,
}

/// Lookup tables, and which set of them it is.
struct TableSet {
    generation: u64,
    tables: Vec<Arc<Table>>,
}

/// What callers and the processes' owners share.
struct Shared {
    program: Program,
    bounds: Bounds,
    idle: Duration,
    workers: usize,
    /// Guards the pointer; held for a clone or a swap.
    tables: Mutex<Arc<TableSet>>,
    /// Guards the queue for as long as it takes to put in or take out.
    queue: Mutex<Queue>,
    arrival: Notify,
    closed: AtomicBool,
    evaluations: AtomicU64,
    errors: AtomicU64,
    kills: AtomicU64,
    processes: AtomicU64,
    time_us: AtomicU64,
}

impl Scripts {
    /// A pool; its processes start when there is something to do. Must be called within a runtime.
    #[must_use]
    pub fn start(options: ScriptsOptions) -> Self {
        let workers = options.workers.max(1);
        let shared = Arc::new(Shared {
            program: Program { path: options.program, args: options.args },
            bounds: options.bounds,
            idle: options.idle,
            workers,
            tables: Mutex::new(Arc::new(TableSet { generation: 0, tables: options.tables })),
            queue: Mutex::default(),
            arrival: Notify::new(),
            closed: AtomicBool::new(false),
            evaluations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            processes: AtomicU64::new(0),
            time_us: AtomicU64::new(0),
        });
        let own = |_| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { process::run(&shared).await })
        };
        let owners = (0..workers).map(own).collect();
        Self { shared, owners: Arc::new(Owners(Mutex::new(owners))) }
    }

    /// The bounds that hold for each script.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.shared.bounds
    }

    /// Evaluates a script; `None` is JSONata's undefined. Waits for its turn.
    ///
    /// # Errors
    /// JSONata's code, or one of the `E_…` codes of [`ess_core::script`].
    pub async fn evaluate(&self, evaluation: Evaluation) -> Answer {
        let (script, given) = self.given(evaluation)?;
        self.call(script, CallKind::Evaluate(given)).await
    }

    /// The paths of a script that give nothing on this input.
    ///
    /// # Errors
    /// As [`Scripts::evaluate`].
    pub async fn unresolved(&self, evaluation: Evaluation) -> Result<Vec<Unresolved>, ScriptError> {
        let (script, given) = self.given(evaluation)?;
        let answer = self.call(script, CallKind::Follow(given)).await?;
        read_answer(answer.as_deref().unwrap_or("[]"))
    }

    fn given(&self, evaluation: Evaluation) -> Result<(Arc<str>, Given), ScriptError> {
        let Evaluation { script, input, bindings, now } = evaluation;
        let bytes_max = self.shared.bounds.input_bytes_max;
        let bytes = input.as_ref().map_or(0, |input| input.len())
            + bindings.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if bytes > bytes_max {
            return Err(ScriptError::new(CODE_INPUT, format!("the input is larger than {bytes_max} bytes")));
        }
        let clock = now.map_or_else(|| Clock::Free(clock_now()), Clock::Event);
        Ok((script, Given { input, bindings, clock }))
    }

    /// Compiles a JSON Schema without using it.
    ///
    /// # Errors
    /// `E_SCHEMA` with what is wrong with it.
    pub async fn check_schema(&self, schema: &Arc<str>) -> Result<(), ScriptError> {
        self.call(schema.clone(), CallKind::CheckSchema).await.map(|_| ())
    }

    /// What is wrong with a payload by a JSON Schema, at most the first few things.
    ///
    /// # Errors
    /// The schema can't be used, or takes more than it may.
    pub async fn validate(&self, schema: &Arc<str>, payload: Arc<str>) -> Result<Vec<Violation>, ScriptError> {
        match self.call(schema.clone(), CallKind::Validate { payload }).await? {
            None => Ok(Vec::new()),
            Some(violations) => read_answer(&violations),
        }
    }

    /// Other lookup tables from now on; what is being evaluated ends with those that it began with.
    pub fn set_tables(&self, tables: Vec<Arc<Table>>) {
        let mut current = self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(TableSet { generation: current.generation + 1, tables });
    }

    /// Parses a script without running it.
    ///
    /// # Errors
    /// The parser's code with the place.
    pub async fn check(&self, script: &str) -> Result<(), ScriptError> {
        self.call(script.into(), CallKind::Check).await.map(|_| ())
    }

    async fn call(&self, script: Arc<str>, kind: CallKind) -> Answer {
        let bounds = &self.shared.bounds;
        if script.len() > bounds.script_bytes_max {
            return Err(ScriptError::too_large(bounds));
        }
        let closed = || ScriptError::new(CODE_ENGINE, "the hub is shutting down");
        let gate = self.shared.queue().gate(&script, Instant::now())?;
        let place = gate.acquire_owned().await.map_err(|_| closed())?;
        if self.shared.is_closed() {
            return Err(closed());
        }
        let (reply, answer) = oneshot::channel();
        self.shared.queue().push(Call { script, kind, reply, _place: place }, Instant::now());
        self.shared.arrival.notify_one();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> ScriptCounts {
        let shared = &self.shared;
        ScriptCounts {
            evaluations: shared.evaluations.load(Ordering::Relaxed),
            errors: shared.errors.load(Ordering::Relaxed),
            kills: shared.kills.load(Ordering::Relaxed),
            processes: shared.processes.load(Ordering::Relaxed),
            time: Duration::from_micros(shared.time_us.load(Ordering::Relaxed)),
        }
    }

    /// Takes no more calls, answers the waiting ones, and returns when all processes have ended.
    pub async fn close(self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let owners = std::mem::take(&mut *self.owners.0.lock().unwrap_or_else(PoisonError::into_inner));
        for owner in owners {
            while !owner.is_finished() {
                // Each owner looks for a notice of its own; one that comes early is kept.
                self.shared.arrival.notify_waiters();
                self.shared.arrival.notify_one();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The tasks that own the processes; the last pool that goes takes them along.
struct Owners(Mutex<Vec<JoinHandle<()>>>);

impl Drop for Owners {
    fn drop(&mut self) {
        for owner in self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            owner.abort();
        }
    }
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // The queue is whole between any two of its methods, so a panic elsewhere leaves it usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> Arc<TableSet> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn has_waiting(&self) -> bool {
        self.queue().has_waiting()
    }

    fn take(&self) -> Vec<Call> {
        self.queue().take(self.workers)
    }

    /// More for a process that has these tables and is at work on fast scripts.
    fn take_fast(&self, generation: u64) -> Vec<Call> {
        let calls = self.queue().take_fast(self.workers);
        if self.tables().generation == generation {
            return calls;
        }
        // They may have come with other tables.
        self.put_back(calls);
        Vec::new()
    }

    fn put_back(&self, calls: Vec<Call>) {
        let mut queue = self.queue();
        for call in &calls {
            queue.returned(&call.script);
        }
        queue.push_back(calls);
        drop(queue);
        self.arrival.notify_one();
    }

    fn suspect(&self, calls: Vec<Call>) {
        let mut queue = self.queue();
        calls.iter().for_each(|call| queue.suspect(&call.script));
        drop(queue);
        self.put_back(calls);
    }

    fn answer(&self, call: Call, answer: Answer, took: Duration) {
        match call.kind {
            // That it parses fast says nothing of how it runs.
            CallKind::Check | CallKind::CheckSchema => self.queue().returned(&call.script),
            CallKind::Evaluate(_) | CallKind::Follow(_) | CallKind::Validate { .. } => {
                self.queue().ended(&call.script, took);
            }
        }
        self.finish(call, answer, took);
    }

    /// The same, where the process goes: the script's next turn comes when there is another one.
    fn answer_last(&self, call: Call, answer: Answer, took: Duration) {
        if !matches!(call.kind, CallKind::Check | CallKind::CheckSchema) {
            self.queue().timed(&call.script, took);
        }
        self.finish(call, answer, took);
    }

    fn killed(&self, call: Call, error: ScriptError, took: Duration) {
        self.kills.fetch_add(1, Ordering::Relaxed);
        tracing::info!(code = %error.code, duration_ms = took.as_millis() as u64, "an evaluation process was lost over a script");
        self.queue().killed(&call.script, &error, Instant::now());
        self.finish(call, Err(error), took);
    }

    fn replaced(&self, script: &Arc<str>) {
        self.queue().returned(script);
        self.arrival.notify_one();
    }

    fn finish(&self, call: Call, answer: Answer, took: Duration) {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        self.time_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // Whoever asked may be gone.
        let _ = call.reply.send(answer);
        // A slow script may have waited for this one to end.
        self.arrival.notify_one();
    }
}

/// One evaluation for `hms-ess jsonata`.
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    /// The script.
    pub script: &'a str,
    /// JSON text; empty or absent is undefined.
    pub input: Option<&'a str>,
    /// A JSON object whose members are the variables.
    pub bind: Option<&'a str>,
}

/// Evaluates one script as the hub would, but with the real clock, and ends the process again. [`Bounds::roomy`] suits
/// a terminal.
///
/// # Errors
/// As [`Scripts::evaluate`]; also when `bind` is no JSON object.
pub async fn evaluate_once(options: ScriptsOptions, once: Once<'_>) -> Answer {
    let bindings: Bindings = match once.bind {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| ScriptError::new(CODE_INPUT, format!("the bindings are no JSON object: {error}")))?,
        None => Bindings::default(),
    };
    let scripts = Scripts::start(ScriptsOptions { workers: 1, ..options });
    let evaluation = Evaluation {
        script: once.script.into(),
        input: once.input.filter(|input| !input.trim().is_empty()).map(Arc::from),
        bindings: bindings.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect(),
        now: None,
    };
    let answer = scripts.evaluate(evaluation).await;
    scripts.close().await;
    answer
}

fn read_answer<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ScriptError> {
    serde_json::from_str(text).map_err(|_| ScriptError::new(CODE_ENGINE, "the evaluation process was misunderstood"))
}

type Bindings = std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>;

fn clock_now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
