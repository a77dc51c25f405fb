//! The evaluation process: reads requests, evaluates them one after the other, writes answers.
//!
//! One thread evaluates, the other watches the process' own processor time, so that a busy machine is not blamed on a
//! script. What the engine cannot stop by itself ends with the process. It ends, too, when the hub is gone, and it
//! opens nothing: what it may touch is its two pipes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ess_core::schema::Checker;
use ess_core::script::{
    Bounds, CODE_ENGINE, CODE_MEMORY, CODE_SCHEMA, Script, ScriptError, Stop, Surroundings, Tables,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::time::ClockId;

use super::wire::{self, Answer, GREETING, Request};

/// The process ended itself because a script took too much processor time.
pub(super) const EXIT_STOPPED: u8 = 71;

/// Stack of the evaluating thread; what is deeper goes on segments of the heap.
const STACK_BYTES: usize = 16 << 20;
/// Compiled scripts that are kept, and schemas.
const KEPT_MAX: usize = 256;
/// Bytes of their texts that are kept.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// The largest frame with lookup tables, their names included.
const TABLES_FRAME_BYTES_MAX: usize = 8 << 20;
/// Memory in use at which a process makes room for a fresh one.
const RESIDENT_GROWTH_MAX: usize = 24 << 20;
/// How often the time is looked at while a script runs.
const WATCH_EVERY: Duration = Duration::from_millis(5);
/// Looks without anything to see, after which the watching thread sleeps until it is woken.
const WATCH_IDLE_LOOKS: u32 = 100;
/// How long an answer waits for others.
const HELD_MAX: Duration = Duration::from_millis(1);
/// Answers that wait for others.
const HELD_BYTES_MAX: usize = 32 << 10;
/// Longest message of an error.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// What the two threads share.
struct Watch {
    /// Odd while a script runs; grows by one at each beginning and end.
    turn: AtomicU64,
    /// Whether the watching thread must be woken.
    sleeps: AtomicBool,
    /// Whether the evaluation was seen running more than once: it may have left memory behind.
    was_long: AtomicBool,
    /// Ends the evaluation of this turn. Guards that no other one is ended.
    stop: Mutex<(u64, Stop)>,
}

/// The evaluation process' whole life: what the binary's hidden subcommand calls.
///
/// Speaks on standard input and output, and returns when the input ends.
#[must_use]
pub fn worker_main() -> ExitCode {
    let Ok((input, mut output)) = pipes() else {
        return ExitCode::FAILURE;
    };
    let mut input = BufReader::with_capacity(64 << 10, input);
    if output.write_all(GREETING).is_err() {
        return ExitCode::FAILURE;
    }
    // Found through /proc/self/exe it would be `exe` in lists of processes; where there is no such file it stays what it is.
    let _ = std::fs::write("/proc/self/comm", "hms-ess");
    // Nothing of an event may reach a core dump, and the hub's log has its own words for a panic.
    std::panic::set_hook(Box::new(|_| {}));
    let Some(bounds) = read_frame(&mut input, 4096).and_then(|body| wire::read_bounds(&body).ok()) else {
        return ExitCode::SUCCESS;
    };
    let Some(tables) = read_frame(&mut input, TABLES_FRAME_BYTES_MAX) else {
        return ExitCode::SUCCESS;
    };
    let watch = Arc::new(Watch {
        turn: AtomicU64::new(0),
        sleeps: AtomicBool::new(false),
        was_long: AtomicBool::new(false),
        stop: Mutex::new((0, Stop::default())),
    });
    let watcher = thread::current();
    let (shared, limits) = (Arc::clone(&watch), bounds.clone());
    let evaluating = thread::Builder::new().name("evaluate".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        // They are the operator's, not a script's: the limit comes on top of what they take.
        let read = wire::read_tables(&tables).ok().and_then(|tables| Tables::parse(&tables).ok());
        drop(tables);
        limit_process(limits.memory_bytes_max);
        let workbench = Workbench {
            bounds: limits,
            tables: read.unwrap_or_default(),
            scripts: Kept::default(),
            schemas: Kept::default(),
        };
        serve(&mut input, &mut output, workbench, &shared, &watcher);
        // The hub is gone, wants no more or has a fresh one; the watching thread has nothing left to watch.
        std::process::exit(0);
    });
    if evaluating.is_err() {
        return ExitCode::FAILURE;
    }
    keep_watch(&watch, bounds.time)
}

/// Standard input and output as files: no line buffering, no lock.
fn pipes() -> io::Result<(File, File)> {
    let input = rustix::stdio::stdin().try_clone_to_owned()?;
    let output = rustix::stdio::stdout().try_clone_to_owned()?;
    Ok((File::from(input), File::from(output)))
}

/// Limits what the process may take from here on. A system without one of these limits goes without it.
fn limit_process(memory_bytes_max: usize) {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    if let Some(memory) = memory() {
        let most = (memory.virtual_bytes + memory_bytes_max) as u64;
        let _ = rustix::process::setrlimit(Resource::As, Rlimit { current: Some(most), maximum: Some(most) });
    }
}

struct Memory {
    virtual_bytes: usize,
    resident_bytes: usize,
}

fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map_while(|word| word.parse::<usize>().ok());
    let page = rustix::param::page_size();
    Some(Memory { virtual_bytes: pages.next()? * page, resident_bytes: pages.next()? * page })
}

/// What requests are answered with.
struct Workbench {
    bounds: Bounds,
    tables: Tables,
    scripts: Kept<Script>,
    schemas: Kept<Checker>,
}

/// Answers requests until the input ends, or until a fresh process is to go on.
fn serve(
    input: &mut BufReader<File>,
    output: &mut impl Write,
    mut workbench: Workbench,
    watch: &Watch,
    watcher: &thread::Thread,
) {
    let resident_before = memory().map_or(0, |memory| memory.resident_bytes);
    let bounds = &workbench.bounds;
    let frame_bytes_max = bounds.input_bytes_max + bounds.script_bytes_max.max(16 << 20);
    // Answers that go together: each write wakes the hub, which costs more than a small script.
    let mut held = Vec::new();
    let mut held_since = Instant::now();
    while let Some(body) = read_frame(input, frame_bytes_max) {
        let stop = Stop::default();
        if let Ok(mut shared) = watch.stop.lock() {
            *shared = (watch.turn.fetch_add(1, Ordering::SeqCst) + 1, stop.clone());
        }
        if watch.sleeps.swap(false, Ordering::SeqCst) {
            watcher.unpark();
        }
        let answer = catch(|| workbench.answer(&body, &stop));
        watch.turn.fetch_add(1, Ordering::SeqCst);
        drop(body);
        if held.is_empty() {
            held_since = Instant::now();
        }
        let is_due = watch.was_long.swap(false, Ordering::SeqCst) || memory_is_due(&answer);
        let grown =
            is_due && memory().is_some_and(|memory| memory.resident_bytes > resident_before + RESIDENT_GROWTH_MAX);
        if grown {
            wire::write_farewell(&mut held);
            wire::write_answer(&mut held, &answer);
            // Where this fails, the hub is gone.
            let _ = output.write_all(&held);
            return;
        }
        wire::write_answer(&mut held, &answer);
        let is_last = input.buffer().is_empty();
        if is_last || answer.is_err() || held.len() > HELD_BYTES_MAX || held_since.elapsed() > HELD_MAX {
            if output.write_all(&held).is_err() {
                return;
            }
            held.clear();
            held.shrink_to(2 * HELD_BYTES_MAX);
        }
    }
}

/// Whether the memory is worth a look: after an error, or a large result.
fn memory_is_due(answer: &Answer) -> bool {
    match answer {
        Ok(text) => text.as_ref().is_some_and(|text| text.len() > 16 << 10),
        Err(_) => true,
    }
}

/// A panic of the engine is an error of the script, not the end of the process.
fn catch(answer: impl FnOnce() -> Answer) -> Answer {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(answer)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let is_memory = text.contains("alloc") || text.contains("capacity overflow") || text.contains("mmap");
        Err(if is_memory {
            ScriptError::new(CODE_MEMORY, "the script wants more memory than it may have")
        } else {
            ScriptError::new(CODE_ENGINE, "the engine failed on this script")
        })
    })
}

impl Workbench {
    fn answer(&mut self, body: &[u8], stop: &Stop) -> Answer {
        let mut answer = self.work(wire::read_request(body)?, stop);
        if let Err(error) = &mut answer
            && error.message.len() > MESSAGE_BYTES_MAX
        {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| error.message.is_char_boundary(*end)).unwrap_or(0);
            error.message.truncate(end);
        }
        answer
    }

    fn work(&mut self, request: Request<'_>, stop: &Stop) -> Answer {
        let bounds = &self.bounds;
        let parse = |script: &str| Script::parse(script, bounds);
        let around = |clock| Surroundings { bounds, stop, clock, tables: &self.tables };
        match request {
            Request::Check { script } => parse(script).map(|_| None),
            Request::Evaluate { script, input, bindings, clock } => {
                self.scripts.get(script, parse)?.evaluate(input, &bindings, around(clock))
            }
            Request::Follow { script, input, bindings, clock } => {
                let unresolved = self.scripts.get(script, parse)?.unresolved(input, &bindings, around(clock))?;
                let told = serde_json::to_string(&unresolved);
                told.map(Some).map_err(|error| ScriptError::new(CODE_ENGINE, error.to_string()))
            }
            Request::CheckSchema { schema } => compile(schema).map(|_| None),
            Request::Validate { schema, payload } => {
                let checker = self.schemas.get(schema, compile)?;
                let violations = checker.violations(payload).map_err(|error| ScriptError::new(CODE_SCHEMA, error))?;
                if violations.is_empty() {
                    return Ok(None);
                }
                let told = serde_json::to_string(&violations);
                told.map(Some).map_err(|error| ScriptError::new(CODE_ENGINE, error.to_string()))
            }
        }
    }
}

fn compile(schema: &str) -> Result<Checker, ScriptError> {
    Checker::compile(schema).map_err(|error| ScriptError::new(CODE_SCHEMA, error))
}

/// What was compiled, by its text; the longest unused goes first.
struct Kept<T> {
    by_text: HashMap<Box<str>, (T, u64)>,
    bytes: usize,
    uses: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { by_text: HashMap::new(), bytes: 0, uses: 0 }
    }
}

impl<T> Kept<T> {
    fn get(&mut self, text: &str, compile: impl FnOnce(&str) -> Result<T, ScriptError>) -> Result<&T, ScriptError> {
        self.uses += 1;
        if !self.by_text.contains_key(text) {
            let compiled = compile(text)?;
            while self.by_text.len() >= KEPT_MAX
                || (self.bytes + text.len() > KEPT_BYTES_MAX && !self.by_text.is_empty())
            {
                let oldest = self.by_text.iter().min_by_key(|(_, (_, used))| *used).map(|(text, _)| text.clone());
                if let Some(oldest) = oldest {
                    self.bytes -= oldest.len();
                    self.by_text.remove(&oldest);
                }
            }
            self.bytes += text.len();
            self.by_text.insert(text.into(), (compiled, 0));
        }
        let Some((compiled, used)) = self.by_text.get_mut(text) else {
            return Err(ScriptError::new(CODE_ENGINE, "the script was not kept"));
        };
        *used = self.uses;
        Ok(compiled)
    }
}

/// A frame's body; `None` at the end of the input or on a length that no frame has.
fn read_frame(input: &mut impl Read, bytes_max: usize) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_le_bytes(length)).ok().filter(|length| *length <= bytes_max)?;
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    Some(body)
}

/// Looks at the processor time of whatever runs: asks it to stop at its bound, ends the process at twice that.
fn keep_watch(watch: &Watch, bound: Duration) -> ! {
    let mut seen = (0, Duration::ZERO);
    let mut idle_looks = 0;
    loop {
        if idle_looks >= WATCH_IDLE_LOOKS {
            watch.sleeps.store(true, Ordering::SeqCst);
            if watch.turn.load(Ordering::SeqCst) == seen.0 {
                thread::park();
            }
            watch.sleeps.store(false, Ordering::SeqCst);
            idle_looks = 0;
        }
        thread::park_timeout(WATCH_EVERY);
        let turn = watch.turn.load(Ordering::SeqCst);
        if turn != seen.0 {
            seen = (turn, processor_time());
            idle_looks = 0;
            continue;
        }
        if turn.is_multiple_of(2) {
            idle_looks += 1;
            continue;
        }
        watch.was_long.store(true, Ordering::SeqCst);
        let taken = processor_time().saturating_sub(seen.1);
        if taken >= bound * 2 + WATCH_EVERY * 2 {
            std::process::exit(i32::from(EXIT_STOPPED));
        }
        if taken >= bound
            && let Ok(stop) = watch.stop.lock()
            && stop.0 == turn
        {
            stop.1.stop();
        }
    }
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
