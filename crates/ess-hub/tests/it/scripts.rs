//! Scripts run where they can be stopped: each bound, tried by a script that would overstep it.

use std::sync::Arc;
use std::time::Duration;

use ess_core::script::{
    Bounds, CODE_EXACT, CODE_MEMORY, CODE_NESTING, CODE_OUTPUT, CODE_RANDOM, CODE_SCRIPT, CODE_STOPPED, ScriptError,
};
use ess_core::time::Time;
use ess_hub::scripts::{Evaluation, Once, Scripts, ScriptsOptions, evaluate_once, worker_main};

/// Not a test but the evaluation process: this binary starts itself with these arguments, see [`options`].
#[test]
fn evaluation_process() {
    if std::env::args().any(|argument| argument == AS_WORKER) {
        // The test harness has something to print at the end, which is not for the hub.
        std::process::exit(if worker_main() == std::process::ExitCode::SUCCESS { 0 } else { 1 });
    }
}

const AS_WORKER: &str = "as-the-evaluation-process";

/// Evaluation processes of this test binary; a debug build on a busy machine needs more time than a hub gives.
pub(crate) fn options() -> ScriptsOptions {
    let args = ["--exact", "scripts::evaluation_process", AS_WORKER, "--nocapture"].map(str::to_owned).to_vec();
    let options = ScriptsOptions::of_program(std::env::current_exe().unwrap(), args);
    ScriptsOptions { bounds: Bounds { time: Duration::from_millis(200), ..Bounds::default() }, ..options }
}

pub(crate) fn evaluation(script: &str, input: &str) -> Evaluation {
    Evaluation {
        script: script.into(),
        input: Some(input.into()),
        bindings: Arc::from([("event".to_owned(), r#"{"id":"E-1"}"#.to_owned())]),
        now: Some(Time::from_micros(1_732_000_000_123_456)),
    }
}

async fn evaluate(scripts: &Scripts, script: &str, input: &str) -> Result<Option<String>, ScriptError> {
    scripts.evaluate(evaluation(script, input)).await
}

/// Resident memory of this process in bytes.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A hostile script is answered by this code, and the pool is as before.
async fn check_hostile(script: &str, codes: &[&str]) {
    let scripts = Scripts::start(ScriptsOptions { workers: 1, ..options() });
    assert_eq!(evaluate(&scripts, "a + 1", r#"{"a":1}"#).await, Ok(Some("2".to_owned())));
    let before = resident_bytes();
    let error = evaluate(&scripts, script, "{}").await.unwrap_err();
    let shown: String = script.chars().take(80).collect();
    assert!(codes.contains(&error.code.as_str()), "{shown}: {error:?}");
    assert_eq!(evaluate(&scripts, "a + 1", r#"{"a":1}"#).await, Ok(Some("2".to_owned())), "after {shown}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "the hub grew by {grown} bytes over {shown}");
    scripts.close().await;
}

macro_rules! hostile {
    ($($name:ident: $script:expr => $codes:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            check_hostile(&$script, &$codes).await;
        })*
    };
}

hostile! {
    endless_tail_recursion_is_stopped: "($f := function($n){$f($n + 1)}; $f(1))" => [CODE_STOPPED];
    endless_mutual_recursion_is_stopped:
        "($f := function($n){$g($n + 1)}; $g := function($n){$f($n)}; $f(1))" => [CODE_STOPPED, "T1006"];
    deep_recursion_is_stopped: "($f := function($n){1 + $f($n + 1)}; $f(1))" => [CODE_STOPPED];
    a_long_range_is_refused: "[1..10000000]" => ["D2015"];
    a_product_of_ranges_is_stopped: "[1..1000000].[1..1000000]" => [CODE_STOPPED, CODE_MEMORY, "D2015"];
    one_endless_built_in_call_is_stopped: "$pad('x', 1000000000)" => [CODE_STOPPED, CODE_MEMORY];
    doubling_texts_is_stopped:
        "$reduce([1..60], function($a, $i){$a & $a}, 'xxxxxxxxxxxxxxxx')" => [CODE_MEMORY, CODE_STOPPED];
    doubling_arrays_is_stopped:
        "$reduce([1..60], function($a, $i){$append($a, $a)}, [1, 2])" => [CODE_MEMORY, CODE_STOPPED, "D2015"];
    nesting_values_is_stopped:
        "$reduce([1..900000], function($a, $i){[[$a]]}, [1])" => [CODE_MEMORY, CODE_STOPPED, CODE_OUTPUT, "E_ENGINE"];
    a_regex_too_large_to_compile_is_refused:
        "$contains($pad('', 100000, 'a') & 'b', /((((a{1,1000}){1,1000}){1,1000}b){1,1000})$/)" => [CODE_STOPPED, CODE_MEMORY, "D1004", "D3010", "E_ENGINE", "S0302"];
    a_regex_over_and_over_is_stopped:
        "[1..100000].$match($pad('', 10000, 'a') & 'b', /(a|aa|aaa)*(.*a){20}c/)" => [CODE_STOPPED, CODE_MEMORY];
    deep_nesting_is_refused: format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)) => [CODE_NESTING];
    deep_nesting_of_operators_is_refused_or_stopped: format!("{}1", "-".repeat(100_000)) => [CODE_NESTING];
    a_long_chain_of_operators_hurts_nobody: format!("'a'{}", " & 'a'".repeat(40_000)) => [CODE_NESTING];
    a_large_script_is_refused: format!("'{}'", "x".repeat(1 << 20)) => [CODE_SCRIPT];
    eval_is_bounded_like_everything_else: "$eval('($f := function($n){$f($n + 1)}; $f(1))')" => [CODE_STOPPED, "D3121"];
    eval_of_deep_nesting_is_refused_or_stopped:
        "$eval($pad('', 10000, '(') & '1' & $pad('', 10000, ')'))" => [CODE_STOPPED, CODE_MEMORY, "D3120", "E_SCRIPT"];
    a_large_output_is_refused: "[1..200000].('0123456789')" => [CODE_OUTPUT];
}

#[tokio::test]
async fn other_scripts_go_on_beside_a_hostile_one_which_is_refused_in_the_end() {
    let scripts = Scripts::start(options());
    let hostile = {
        let scripts = scripts.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                evaluate(&scripts, "$pad('x', 1000000000)", "{}").await.unwrap_err();
            }
        })
    };
    for number in 0..500 {
        let input = format!(r#"{{"a":{number}}}"#);
        assert_eq!(evaluate(&scripts, "{'b': a}", &input).await, Ok(Some(format!(r#"{{"b":{number}}}"#))));
    }
    hostile.await.unwrap();
    assert_eq!(scripts.counts().kills, 3, "after three kills it is refused without trying");
    scripts.close().await;
}

#[tokio::test]
async fn a_script_that_cost_a_process_is_answered_the_next_time_too() {
    let scripts = Scripts::start(options());
    // One after the other, with nothing else that would wake whoever lost its process.
    for _ in 0..3 {
        let answer = evaluate(&scripts, "$pad('x', 1000000000)", "{}");
        let error = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap().unwrap_err();
        assert!([CODE_STOPPED, CODE_MEMORY].contains(&error.code.as_str()), "{error:?}");
    }
    scripts.close().await;
}

#[tokio::test]
async fn a_script_that_is_stopped_is_told_its_bound() {
    let scripts = Scripts::start(options());
    let error = evaluate(&scripts, "($f := function($n){$f($n + 1)}; $f(1))", "{}").await.unwrap_err();
    assert_eq!(error, ScriptError::new(CODE_STOPPED, "the script takes longer than 200 ms"));
    scripts.close().await;
}

#[tokio::test]
async fn many_callers_each_get_their_own_answer() {
    let scripts = Scripts::start(options());
    let callers = (0..400_u32).map(|number| {
        let scripts = scripts.clone();
        tokio::spawn(async move {
            let script = if number % 2 == 0 { "$.n * 2 & $event.id" } else { "{'n': $.n}" };
            (number, evaluate(&scripts, script, &format!(r#"{{"n":{number}}}"#)).await)
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        let (number, answer) = caller.await.unwrap();
        let expected = if number % 2 == 0 { format!("\"{}E-1\"", number * 2) } else { format!(r#"{{"n":{number}}}"#) };
        assert_eq!(answer, Ok(Some(expected)));
    }
    assert_eq!(scripts.counts().evaluations, 400);
    scripts.close().await;
}

#[tokio::test]
async fn an_idle_process_goes_and_a_call_brings_one_back() {
    let scripts = Scripts::start(ScriptsOptions { idle: Duration::from_millis(20), workers: 1, ..options() });
    for _ in 0..3 {
        assert_eq!(evaluate(&scripts, "1", "{}").await, Ok(Some("1".to_owned())));
        let gone = async {
            while scripts.counts().processes > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }
    scripts.close().await;
}

#[tokio::test]
async fn a_regex_that_is_catastrophic_elsewhere_takes_linear_time() {
    let scripts = Scripts::start(options());
    let script = "$contains($pad('', 100000, 'a') & 'b', /^((a+)+)+(a|aa)*(.*a){20}$/)";
    assert_eq!(evaluate(&scripts, script, "{}").await, Ok(Some("false".to_owned())));
    scripts.close().await;
}

#[tokio::test]
async fn large_inputs_and_outputs_pass_side_by_side() {
    let scripts = Scripts::start(ScriptsOptions { workers: 1, ..options() });
    let text = "x".repeat(900_000);
    let callers = (0..8).map(|_| {
        let (scripts, input) = (scripts.clone(), format!(r#"{{"a":"{text}"}}"#));
        tokio::spawn(async move { evaluate(&scripts, "a", &input).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert_eq!(caller.await.unwrap().unwrap().unwrap().len(), text.len() + 2);
    }
    scripts.close().await;
}

#[tokio::test]
async fn numbers_and_the_clock_are_as_the_event_has_them() {
    let scripts = Scripts::start(options());
    let input = r#"{"n":9007199254740993}"#;
    assert_eq!(
        evaluate(&scripts, "{'n': n, 't': $now()}", input).await,
        Ok(Some(r#"{"n":9007199254740993,"t":"2024-11-19T07:06:40.123Z"}"#.to_owned()))
    );
    assert_eq!(evaluate(&scripts, "n + 1", input).await.unwrap_err().code, CODE_EXACT);
    assert_eq!(evaluate(&scripts, "$random()", input).await.unwrap_err().code, CODE_RANDOM);
    let error = scripts.check("{'a': \n b c}").await.unwrap_err();
    assert_eq!((error.code.as_str(), error.position), ("S0202", Some(10)));
    scripts.close().await;
}

#[tokio::test]
async fn one_evaluation_takes_bindings_and_an_empty_input() {
    let once = Once { script: "$x.y & $type($)", input: Some(""), bind: Some(r#"{"x":{"y":"z"}}"#) };
    assert_eq!(evaluate_once(options(), once).await, Ok(Some("\"z\"".to_owned())));
    let once = Once { script: "missing", input: Some("{}"), bind: None };
    assert_eq!(evaluate_once(options(), once).await, Ok(None));
    let once = Once { script: "$random() < 1", input: None, bind: None };
    assert_eq!(evaluate_once(options(), once).await, Ok(Some("true".to_owned())));
    let once = Once { script: "1", input: None, bind: Some("[]") };
    assert_eq!(evaluate_once(options(), once).await.unwrap_err().code, "E_INPUT");
}

#[tokio::test]
async fn a_program_that_is_none_is_an_error_not_a_wait() {
    let options = ScriptsOptions { program: "/nowhere/hms-ess".into(), workers: 1, ..options() };
    let scripts = Scripts::start(options);
    assert_eq!(evaluate(&scripts, "1", "{}").await.unwrap_err().code, "E_ENGINE");
    scripts.close().await;
}
