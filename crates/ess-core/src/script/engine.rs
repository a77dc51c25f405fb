//! One evaluation: read the input, run, print; and again with other stand-ins where the input holds numbers that a
//! double cannot.

use std::io;

use jsonata_core::evaluator::{Context, Evaluator, EvaluatorOptions};
use jsonata_core::value::JValue;
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

use super::exact::{Choice, Input, Numbers, RUNS};
use super::strict::{Paths, Unresolved};
use super::{CODE_ENGINE, CODE_INPUT, CODE_OUTPUT, CODE_STOPPED, Script, ScriptError, Surroundings, code, functions};

/// What one evaluation is given; the same for each of its runs.
struct Given<'a> {
    script: &'a Script,
    input: Option<Input<'a>>,
    bindings: Vec<(&'a str, Input<'a>)>,
    numbers: Numbers,
    around: Surroundings<'a>,
}

pub(super) fn evaluate(
    script: &Script,
    input: Option<&str>,
    bindings: &[(&str, &str)],
    around: Surroundings<'_>,
) -> Result<Option<String>, ScriptError> {
    let given = read(script, input, bindings, around)?;
    if given.numbers.is_empty() { given.print(&given.run(&Choice::first())?) } else { given.run_exactly() }
}

/// Runs the script with an eye on each of its paths.
pub(super) fn follow(
    script: &Script,
    input: Option<&str>,
    bindings: &[(&str, &str)],
    around: Surroundings<'_>,
) -> Result<Vec<Unresolved>, ScriptError> {
    let given = read(script, input, bindings, around)?;
    let choice = Choice::first();
    let mut paths = Paths::of(script.text(), script.expression.ast())?;
    let mut evaluator = given.evaluator(&choice)?;
    paths.watch(&mut evaluator)?;
    let value = given.input(&choice)?;
    evaluator.evaluate(paths.ast(), &value).map_err(|error| code::of_evaluator(&error))?;
    Ok(paths.unresolved())
}

fn read<'a>(
    script: &'a Script,
    input: Option<&'a str>,
    bindings: &[(&'a str, &'a str)],
    around: Surroundings<'a>,
) -> Result<Given<'a>, ScriptError> {
    let bytes = input.map_or(0, str::len) + bindings.iter().map(|(_, text)| text.len()).sum::<usize>();
    if bytes > around.bounds.input_bytes_max {
        let limit = around.bounds.input_bytes_max;
        return Err(ScriptError::new(CODE_INPUT, format!("the input is larger than {limit} bytes")));
    }
    let mut numbers = Numbers::default();
    let input = input.map(|text| numbers.read("$", text)).transpose()?;
    let mut used = Vec::new();
    for (name, text) in bindings {
        if script.uses.variable(&script.text, name) {
            used.push((*name, numbers.read(&format!("${name}"), text)?));
        }
    }
    Ok(Given { script, input, bindings: used, numbers, around })
}

impl Given<'_> {
    /// Runs the script with these stand-ins.
    fn run(&self, choice: &Choice) -> Result<JValue, ScriptError> {
        let input = self.input(choice)?;
        let result = if self.bindings.is_empty() && !self.script.uses.functions() {
            // Without variables and functions from outside, the engine runs its faster, compiled form.
            self.script.expression.evaluate_with_options(&input, self.options())
        } else {
            self.evaluator(choice)?.evaluate(self.script.expression.ast(), &input)
        };
        result.map_err(|error| match code::of_evaluator(&error) {
            // The engine says that it was cancelled, which is not what was wrong.
            error if error.code == CODE_STOPPED && self.around.stop.0.is_cancelled() => {
                ScriptError::too_slow(self.around.bounds)
            }
            error => error,
        })
    }

    fn input(&self, choice: &Choice) -> Result<JValue, ScriptError> {
        match &self.input {
            Some(input) => self.parse("the input", input, choice),
            None => Ok(JValue::Undefined),
        }
    }

    fn options(&self) -> EvaluatorOptions {
        EvaluatorOptions {
            timeout_ms: None,
            cancel: Some(self.around.stop.0.clone()),
            max_stack_depth: Some(self.around.bounds.stack_depth),
            max_sequence_length: Some(self.around.bounds.sequence_length_max),
        }
    }

    /// The engine with variables and functions from outside.
    fn evaluator(&self, choice: &Choice) -> Result<Evaluator, ScriptError> {
        let mut context = Context::new();
        for (name, binding) in &self.bindings {
            context.bind((*name).to_owned(), self.parse(&format!("${name}"), binding, choice)?);
        }
        let mut evaluator = Evaluator::with_options(context, self.options());
        functions::install(&mut evaluator, self.around.clock, self.around.tables)?;
        Ok(evaluator)
    }

    fn parse(&self, name: &str, input: &Input, choice: &Choice) -> Result<JValue, ScriptError> {
        let result = if self.numbers.is_empty() {
            JValue::from_json_str(input.plain())
        } else {
            JValue::from_json_str(&input.with_stand_ins(&self.numbers, choice))
                .map(|value| self.numbers.make_infinite(value, choice))
        };
        result.map_err(|error| ScriptError::new(CODE_INPUT, format!("{name} is not JSON: {error}")))
    }

    /// Runs the script with each of the stand-ins; what they agree on is the result.
    fn run_exactly(&self) -> Result<Option<String>, ScriptError> {
        let first = self.run(&Choice::first());
        if first.as_ref().is_err_and(|error| error.code == CODE_STOPPED) {
            return first.map(|_| None);
        }
        // In this order, because a script that uses a number as a length is told from the small ones.
        for run in 1..RUNS {
            if !self.agrees(&first, &Choice { run, range: 0..self.numbers.len() })? {
                return Err(self.numbers.refusal(self.culprit(&first, run)?));
            }
        }
        self.print(&first?)
    }

    /// Whether the script gives the same with other stand-ins.
    fn agrees(&self, first: &Result<JValue, ScriptError>, choice: &Choice) -> Result<bool, ScriptError> {
        match (first, self.run(choice)) {
            (Ok(first), Ok(other)) => Ok(self.numbers.agree(first, &other, choice)),
            (_, Err(error)) if error.code == CODE_STOPPED => Err(error),
            (Err(first), Err(other)) => Ok(*first == other),
            _ => Ok(false),
        }
    }

    /// The number without which the run would agree with the first one, found by halving.
    fn culprit(&self, first: &Result<JValue, ScriptError>, run: usize) -> Result<usize, ScriptError> {
        let mut range = 0..self.numbers.len();
        while range.len() > 1 {
            let middle = range.start + range.len() / 2;
            range = if self.agrees(first, &Choice { run, range: range.start..middle })? {
                middle..range.end
            } else {
                range.start..middle
            };
        }
        Ok(range.start)
    }

    fn print(&self, value: &JValue) -> Result<Option<String>, ScriptError> {
        if value.is_undefined() {
            return Ok(None);
        }
        let bytes_max = self.around.bounds.output_bytes_max;
        let mut output = Output { text: Vec::new(), bytes_max };
        let printed = serde_json::to_writer(&mut output, &Printed { value, numbers: &self.numbers });
        match (printed, String::from_utf8(output.text)) {
            (Ok(()), Ok(text)) => Ok(Some(text)),
            (Err(error), _) if error.is_io() => {
                Err(ScriptError::new(CODE_OUTPUT, format!("the output is larger than {bytes_max} bytes")))
            }
            (Err(error), _) => Err(ScriptError::new(CODE_ENGINE, error.to_string())),
            (_, Err(error)) => Err(ScriptError::new(CODE_ENGINE, error.to_string())),
        }
    }
}

/// A text that ends in an error when it grows past its bound.
struct Output {
    text: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value as the engine prints it, but with copied numbers as they were written.
struct Printed<'a> {
    value: &'a JValue,
    numbers: &'a Numbers,
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.numbers;
        match self.value {
            value if numbers.is_empty() => value.serialize(serializer),
            JValue::Number(number) => match numbers.written(*number) {
                Some(text) => {
                    let raw = RawValue::from_string(text.to_owned()).map_err(S::Error::custom)?;
                    raw.serialize(serializer)
                }
                None => self.value.serialize(serializer),
            },
            JValue::Array(items) => serializer.collect_seq(items.iter().map(|value| Printed { value, numbers })),
            JValue::Object(members) => {
                serializer.collect_map(members.iter().map(|(key, value)| (key, Printed { value, numbers })))
            }
            value => value.serialize(serializer),
        }
    }
}
