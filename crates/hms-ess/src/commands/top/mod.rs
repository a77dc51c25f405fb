//! `hms-ess top`: the lanes of all partners, live on a terminal; one frame as text elsewhere.
//!
//! The terminal is given back however it ends: by `q`, by a failure, by a signal or by a panic.

mod frame;
mod screen;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::screen::{Act, Lane, Screen, Sort};
use crate::client::{Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Lanes that are shown at most.
const LANES_MAX: usize = 10_000;
/// Keys that wait to be read.
const KEYS_MAX: usize = 64;
/// How long the reader of keys waits before it looks whether it is to end.
const KEY_STEP: Duration = Duration::from_millis(100);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print one frame as text and end.
    #[arg(long)]
    once: bool,
    /// How often it asks the hub.
    #[arg(long, value_name = "SPAN", default_value = "1s")]
    interval: String,
    /// What stands first.
    #[arg(long, value_enum, default_value_t = Sort::Trouble)]
    sort: Sort,
    /// Only partners whose id holds this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

/// Shows.
pub(crate) async fn run(args: &TopArgs, client: &Client, output: &Output) -> Result<()> {
    let interval =
        ess_core::duration::parse(&args.interval).map_err(|wrong| Failure::usage(format!("--interval: {wrong}")))?;
    let interval = interval.clamp(Duration::from_millis(200), Duration::from_secs(60));
    // Asked before the terminal is taken over: a hub that is not there is told as ever.
    let first = lanes(client).await?;
    if output.json {
        return output.json(&json!({"items": first}));
    }
    let mut screen = Screen::new(client.hub(), args.sort, &args.filter);
    screen.take(first.iter().map(Lane::of).collect());
    if args.once || !output.terminal {
        return output.text(&frame::text(&screen, output));
    }
    live(&mut screen, interval, client, output).await
}

async fn lanes(client: &Client) -> Result<Vec<Value>> {
    client.list("/v1/lanes", LANES_MAX).await
}

/// Takes the terminal over until it is told to end.
async fn live(screen: &mut Screen, interval: Duration, client: &Client, output: &Output) -> Result<()> {
    // Also sets a hook that gives the terminal back before a panic is told.
    let mut terminal = ratatui::try_init().map_err(|error| Failure::io("could not take the terminal over", &error))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, mut keys) = mpsc::channel(KEYS_MAX);
    let reader = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || read_keys(&sender, &stop))
    };
    let ended = follow(screen, &mut terminal, &mut keys, interval, client, output.colour).await;
    stop.store(true, Ordering::Relaxed);
    keys.close();
    // It ends within a step; a reader that panicked has nothing to say.
    drop(reader.await);
    ratatui::try_restore().map_err(|error| Failure::io("could not give the terminal back", &error))?;
    ended
}

async fn follow(
    screen: &mut Screen,
    terminal: &mut ratatui::DefaultTerminal,
    keys: &mut mpsc::Receiver<Event>,
    interval: Duration,
    client: &Client,
    colour: bool,
) -> Result<()> {
    let mut stopped = std::pin::pin!(crate::serve::asked_to_stop());
    let mut due = Instant::now() + interval;
    let mut asked = None;
    loop {
        let drawn = terminal.draw(|target| frame::draw(target, screen, colour));
        drawn.map_err(|error| Failure::io("could not draw", &error))?;
        let act = tokio::select! {
            () = &mut stopped => return Ok(()),
            key = keys.recv() => match key {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => screen.press(key),
                // A new size is drawn in the next turn.
                Some(_) => Act::None,
            },
            () = sleep_until(due), if asked.is_none() => {
                asked = Some(Box::pin(lanes(client)));
                Act::None
            }
            // A hub that hangs must not hold the keys up.
            said = async { match &mut asked { Some(asked) => asked.await, None => std::future::pending().await } } => {
                asked = None;
                due = Instant::now() + interval;
                match said {
                    Ok(items) => {
                        client.hub().clone_into(&mut screen.hub);
                        screen.take(items.iter().map(Lane::of).collect());
                    }
                    Err(failure) => screen.note_failure(&failure.detail),
                }
                Act::None
            }
        };
        match act {
            Act::None => {}
            Act::Quit => return Ok(()),
            Act::Change { partner, verb } => {
                let path = format!("/v1/partners/{}/{verb}", encode(&partner));
                match client.post(&path, &json!({})).await {
                    Ok(_) => screen.note_change(&partner, verb),
                    Err(failure) => screen.note_failure(&failure.detail),
                }
                due = Instant::now();
            }
        }
    }
}

/// Hands keys and new sizes on until it is told to end.
fn read_keys(sender: &mpsc::Sender<Event>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match event::poll(KEY_STEP) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(event) => {
                    if sender.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            },
            // Without a terminal there are no keys; the receiver hears of it.
            Err(_) => return,
        }
    }
}
