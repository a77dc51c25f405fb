//! One evaluation: parse the input, run, print.

use jsonata_core::evaluator::{Context, Evaluator, EvaluatorOptions};
use jsonata_core::value::JValue;

use super::{Bounds, CODE_INPUT, CODE_OUTPUT, Clock, Script, ScriptError, code, functions};

pub(super) fn evaluate(
    script: &Script,
    input: Option<&str>,
    bindings: &[(&str, &str)],
    bounds: &Bounds,
    clock: Clock,
) -> Result<Option<String>, ScriptError> {
    let bytes = input.map_or(0, str::len) + bindings.iter().map(|(_, text)| text.len()).sum::<usize>();
    if bytes > bounds.input_bytes_max {
        let limit = bounds.input_bytes_max;
        return Err(ScriptError::new(
            CODE_INPUT,
            format!("the input is larger than {limit} bytes"),
        ));
    }
    let used: Vec<_> = bindings
        .iter()
        .filter(|(name, _)| script.uses.variable(&script.text, name))
        .collect();
    let input = match input {
        Some(text) => parse("the input", text)?,
        None => JValue::Undefined,
    };
    let options = EvaluatorOptions {
        timeout_ms: Some(u64::try_from(bounds.time.as_millis()).unwrap_or(u64::MAX).max(1)),
        cancel: None,
        max_stack_depth: Some(bounds.stack_depth),
        max_sequence_length: Some(bounds.sequence_length_max),
    };
    let result = if used.is_empty() && !script.uses.clock() {
        script.expression.evaluate_with_options(&input, options)
    } else {
        let mut context = Context::new();
        for (name, text) in used {
            context.bind((*name).to_owned(), parse(name, text)?);
        }
        let mut evaluator = Evaluator::with_options(context, options);
        functions::install(&mut evaluator, clock)?;
        evaluator.evaluate(script.expression.ast(), &input)
    };
    print(&result.map_err(|error| code::of_evaluator(&error))?, bounds)
}

fn parse(name: &str, text: &str) -> Result<JValue, ScriptError> {
    JValue::from_json_str(text).map_err(|error| ScriptError::new(CODE_INPUT, format!("{name} is not JSON: {error}")))
}

fn print(value: &JValue, bounds: &Bounds) -> Result<Option<String>, ScriptError> {
    if value.is_undefined() {
        return Ok(None);
    }
    let text = value
        .to_json_string()
        .map_err(|error| ScriptError::new(CODE_OUTPUT, error.to_string()))?;
    if text.len() > bounds.output_bytes_max {
        let limit = bounds.output_bytes_max;
        return Err(ScriptError::new(
            CODE_OUTPUT,
            format!("the output is larger than {limit} bytes"),
        ));
    }
    Ok(Some(text))
}
