//! The hub's side of `cargo xtask bench --scenario scripts`: `evaluate HUB-BINARY FOLDER PROCESSES` gives the folder's script and
//! inputs to so many evaluation processes of that binary, as the hub does, and tells how long that took.
//!
//! It is a program of its own because the pool must be built as it is shipped; it holds nothing but the pool and its callers.

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ess_core::script::ScriptError;
use ess_core::time::Time;
use ess_hub::scripts::{Evaluation, Scripts, ScriptsOptions};

/// Callers that wait at once, as when many events are on their way.
const CALLERS: usize = 32;

/// The script and the events' payloads, over and over.
struct Work {
    scripts: Scripts,
    script: Arc<str>,
    inputs: Vec<Arc<str>>,
    bindings: Arc<[(String, String)]>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(program), Some(folder), Some(workers)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: evaluate HUB-BINARY FOLDER PROCESSES".into());
    };
    let workers = workers.parse()?;
    let folder = PathBuf::from(folder);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let options = ScriptsOptions::of_program(PathBuf::from(program), vec!["script-worker".to_owned()]);
        let work = Arc::new(Work::read(&folder, Scripts::start(ScriptsOptions { workers, ..options }))?);
        let mut outputs = Vec::new();
        for number in 0..work.inputs.len() {
            outputs.push(work.evaluate(number).await?.ok_or("a script gave no result")?);
        }
        std::fs::write(folder.join("hub.ndjson"), outputs.join("\n"))?;
        // A thread of the pool may block here: nothing else is to be done until the next line comes.
        for line in io::stdin().lock().lines() {
            let seconds = run(&work, line?.parse()?).await?;
            writeln!(io::stdout(), "{seconds}")?;
        }
        work.scripts.clone().close().await;
        Ok(())
    })
}

impl Work {
    fn read(folder: &Path, scripts: Scripts) -> io::Result<Self> {
        let text = |name: &str| std::fs::read_to_string(folder.join(name));
        Ok(Self {
            scripts,
            script: Arc::from(text("script.jsonata")?),
            inputs: text("inputs.ndjson")?.lines().map(Arc::from).collect(),
            bindings: Arc::from([("event".to_owned(), text("event.json")?)]),
        })
    }

    async fn evaluate(&self, number: usize) -> Result<Option<String>, ScriptError> {
        let evaluation = Evaluation {
            script: Arc::clone(&self.script),
            input: Some(Arc::clone(&self.inputs[number % self.inputs.len()])),
            bindings: Arc::clone(&self.bindings),
            now: Some(Time::from_micros(1_767_225_600_000_000)),
        };
        self.scripts.evaluate(evaluation).await
    }
}

/// Evaluates so many, each caller the next one that is left; the seconds that it took.
async fn run(work: &Arc<Work>, evaluations: usize) -> Result<f64, Box<dyn Error>> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let call = |_| {
        let (work, next) = (Arc::clone(work), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= evaluations {
                    return Ok::<(), ScriptError>(());
                }
                work.evaluate(number).await?;
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(call).collect();
    for caller in callers {
        caller.await??;
    }
    Ok(began.elapsed().as_secs_f64())
}
