//! The functions that the hub puts in the place of the engine's, clock and dice, and those that it adds: time zones by name,
//! lookup tables.

use std::cell::Cell;
use std::rc::Rc;

use jiff::tz::TimeZoneDatabase;
use jiff::{Timestamp, ZonedDateTime};
use jsonata_core::evaluator::{Evaluator, EvaluatorError, EvaluatorOptions};
use jsonata_core::parser;
use jsonata_core::value::JValue;

use super::{CODE_RANDOM, CODE_ZONE, Clock, ScriptError, Tables};

/// Which of the names that need the slower evaluator a script may use; `true` when in doubt.
pub(super) struct Uses {
    /// Clock, dice, time zones or tables.
    functions: bool,
    /// `$eval`, which may use anything.
    eval: bool,
}

impl Uses {
    /// What this text may use. A name that does not stand in the text cannot be used by it, save through `$eval`.
    pub(super) fn of(text: &str) -> Self {
        let ours = ["$now", "$millis", "$random", "$shuffle", "$toZone", "$zoneOffset", "$table"];
        Self { functions: ours.iter().any(|name| text.contains(name)), eval: text.contains("$eval") }
    }

    /// Whether the hub's functions must be put in place.
    pub(super) fn functions(&self) -> bool {
        self.functions || self.eval
    }

    /// Whether a variable of this name may be used by a script of this text.
    pub(super) fn variable(&self, text: &str, name: &str) -> bool {
        self.eval || text.match_indices(name).any(|(at, _)| text[..at].ends_with('$'))
    }
}

/// Puts the hub's functions in place.
pub(super) fn install(evaluator: &mut Evaluator, clock: Clock, tables: &Tables) -> Result<(), ScriptError> {
    let failed = |error: EvaluatorError| super::code::of_evaluator(&error);
    let millis = clock.time().as_micros().div_euclid(1000) as f64;
    evaluator
        .register_fn_override("millis", move |args: &[JValue]| {
            nothing_given("millis", args).map(|()| JValue::Number(millis))
        })
        .map_err(failed)?;
    evaluator.register_fn_override("now", move |args: &[JValue]| now(millis, args)).map_err(failed)?;
    // The order follows from the time, so that a replay shuffles alike.
    let dice = Rc::new(Dice(Cell::new(clock.time().as_micros().cast_unsigned() | 1)));
    let shuffling = Rc::clone(&dice);
    evaluator.register_fn_override("shuffle", move |args: &[JValue]| shuffle(&shuffling, args)).map_err(failed)?;
    let is_refused = matches!(clock, Clock::Event(_));
    evaluator
        .register_fn_override("random", move |args: &[JValue]| {
            if is_refused {
                let text = format!("{CODE_RANDOM}: $random() would give another result when the event is sent again");
                return Err(EvaluatorError::EvaluationError(text));
            }
            // 53 bits: as many as a double between 0 and 1 has.
            nothing_given("random", args).map(|()| JValue::Number((dice.roll() >> 11) as f64 / (1_u64 << 53) as f64))
        })
        .map_err(failed)?;
    evaluator
        .register_fn("toZone", |args: &[JValue]| {
            in_zone("toZone", args, |time| time.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string())
        })
        .map_err(failed)?;
    evaluator
        .register_fn("zoneOffset", |args: &[JValue]| {
            in_zone("zoneOffset", args, |time| time.strftime("%z").to_string())
        })
        .map_err(failed)?;
    let tables = tables.clone();
    evaluator.register_fn("table", move |args: &[JValue]| tables.look_up(args)).map_err(failed)?;
    Ok(())
}

/// `f(timestamp, zone)`: an RFC 3339 text, or milliseconds since 1970, in an IANA time zone. Undefined in, undefined out.
///
/// The zones are those that the program was built with: the machine's own would make another machine's replay differ.
fn in_zone(name: &str, args: &[JValue], show: impl Fn(&ZonedDateTime) -> String) -> Result<JValue, EvaluatorError> {
    let refuse = |what: &str| Err(EvaluatorError::EvaluationError(format!("{CODE_ZONE}: ${name}(): {what}")));
    let [time, zone] = args else { return refuse("takes a time and a zone, such as America/Chicago") };
    let timestamp = match time {
        JValue::Undefined => return Ok(JValue::Undefined),
        JValue::Number(millis) => Timestamp::from_millisecond(*millis as i64).ok(),
        JValue::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(timestamp) = timestamp else { return refuse("the time is neither RFC 3339 nor milliseconds") };
    let JValue::String(zone) = zone else { return refuse("the zone is no text") };
    match TimeZoneDatabase::bundled().get(zone) {
        Ok(zone) => Ok(JValue::from(show(&timestamp.to_zoned_datetime(zone)))),
        Err(_) => refuse(&format!("there is no time zone {zone:?}")),
    }
}

/// xorshift64*: even enough for what scripts do, and it repeats.
struct Dice(Cell<u64>);

impl Dice {
    fn roll(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn nothing_given(name: &str, args: &[JValue]) -> Result<(), EvaluatorError> {
    if args.is_empty() {
        return Ok(());
    }
    Err(EvaluatorError::TypeError(format!(
        "T0410: Argument 1 of function \"{name}\" does not match function signature"
    )))
}

/// `$now([picture [, timezone]])`, written by the engine's own `$fromMillis`.
fn now(millis: f64, args: &[JValue]) -> Result<JValue, EvaluatorError> {
    let text = match args.len() {
        0 => "$fromMillis($)",
        1 => "$fromMillis($, $picture)",
        _ => "$fromMillis($, $picture, $zone)",
    };
    let ast = parser::parse(text).map_err(|error| EvaluatorError::EvaluationError(error.to_string()))?;
    let mut context = jsonata_core::evaluator::Context::new();
    for (name, value) in ["picture", "zone"].into_iter().zip(args) {
        context.bind(name.to_owned(), value.clone());
    }
    Evaluator::with_options(context, EvaluatorOptions::default()).evaluate(&ast, &JValue::Number(millis))
}

/// `$shuffle`, Fisher and Yates'.
fn shuffle(dice: &Dice, args: &[JValue]) -> Result<JValue, EvaluatorError> {
    let mut items = match args.first() {
        None | Some(JValue::Undefined) => return Ok(JValue::Undefined),
        Some(JValue::Array(items)) => items.to_vec(),
        Some(other) => vec![other.clone()],
    };
    for last in (1..items.len()).rev() {
        let chosen = dice.roll() % (last as u64 + 1);
        items.swap(last, usize::try_from(chosen).unwrap_or(0));
    }
    Ok(JValue::array(items))
}
