//! What scripts do.

use proptest::prelude::*;

use super::*;

const NOW: Clock = Clock::Event(Time::from_micros(1_732_000_000_123_456));

fn bounds() -> Bounds {
    // A loaded machine must not decide a test.
    Bounds { time: Duration::from_secs(20), ..Bounds::default() }
}

fn tables() -> Tables {
    Tables::parse(&[("courts", r#"[{"id":"C1","name":"Cook County"},{"id":"C2","name":"Lake County"}]"#)]).unwrap()
}

fn run(script: &str, input: &str) -> Result<Option<String>, ScriptError> {
    Script::parse(script, &bounds())?.evaluate(
        Some(input),
        &[("event", r#"{"id":"E-1","n":9007199254740993}"#)],
        Surroundings { bounds: &bounds(), stop: &Stop::default(), clock: NOW, tables: &tables() },
    )
}

#[track_caller]
fn check(script: &str, input: &str, expected: &str) {
    assert_eq!(run(script, input), Ok(Some(expected.to_owned())), "{script}");
}

#[track_caller]
fn check_error(script: &str, input: &str, code: &str) -> ScriptError {
    match run(script, input) {
        Err(error) if error.code == code => error,
        other => panic!("{script} on {input}: {other:?} instead of {code}"),
    }
}

#[test]
fn a_script_reshapes_its_input_in_the_order_it_writes() {
    check(r#"{"z": a, "a": b.c, "t": $event.id}"#, r#"{"a":1,"b":{"c":[1,2]}}"#, r#"{"z":1,"a":[1,2],"t":"E-1"}"#);
    assert_eq!(run("missing", "{}"), Ok(None));
}

#[test]
fn the_clock_is_the_events_and_dice_are_refused() {
    check("$now()", "{}", r#""2024-11-19T07:06:40.123Z""#);
    check("$now('[Y]-[M01]')", "{}", r#""2024-11""#);
    check("$millis()", "{}", "1732000000123");
    check("$eval('$millis()')", "{}", "1732000000123");
    check_error("$random()", "{}", CODE_RANDOM);
    check_error("$map([1..3], $random)", "{}", CODE_RANDOM);
    assert_eq!(run("$shuffle([1..9])", "{}"), run("$shuffle([1..9])", "{}"));
}

#[test]
fn times_are_told_in_named_zones() {
    let input = r#"{"t":"2026-07-01T16:00:00Z"}"#;
    check("$toZone(t, 'America/Chicago')", input, r#""2026-07-01T11:00:00-05:00""#);
    check("$toZone('2026-01-01T16:00:00.5Z', 'America/Chicago')", input, r#""2026-01-01T10:00:00.5-06:00""#);
    check("$zoneOffset(0, 'Asia/Kolkata')", input, r#""+0530""#);
    check(
        "$fromMillis($toMillis(t), '[H01]:[m01] [D1] [MNn]', $zoneOffset(t, 'Pacific/Honolulu'))",
        input,
        r#""06:00 1 July""#,
    );
    assert_eq!(run("$toZone(missing, 'Europe/Paris')", input), Ok(None));
    for wrong in ["$toZone(t, 'Europe/Pariss')", "$toZone('noon', 'Europe/Paris')", "$toZone(t)", "$zoneOffset(t, 1)"] {
        check_error(wrong, input, "E_ZONE");
    }
}

#[test]
fn a_number_that_a_double_cannot_hold_is_copied_as_written() {
    let input = r#"{"n":9007199254740993,"d":0.1000000000000000055,"l":[{"id":12345678901234567890,"x":2},{"id":-1e400,"x":1}]}"#;
    check("$", input, input);
    check(
        r#"{"a": n, "b": [d], "c": l.id, "e": $event.n, "s": $sum(l.x)}"#,
        input,
        r#"{"a":9007199254740993,"b":[0.1000000000000000055],"c":[12345678901234567890,-1e400],"e":9007199254740993,"s":3}"#,
    );
    check("l^(x).id", input, "[-1e400,12345678901234567890]");
    check("$type(n)", input, r#""number""#);
    check("n = $event.n", input, "true");
    check("n ? 'yes' : 'no'", input, r#""yes""#);
    check("$merge([$, {'k': 1}])", r#"{"n":9007199254740993}"#, r#"{"n":9007199254740993,"k":1}"#);
    check("$ ~> |l|{'x': 5}|", r#"{"l":{"x":1,"n":9007199254740993}}"#, r#"{"l":{"x":5,"n":9007199254740993}}"#);
}

#[test]
fn a_number_that_a_double_cannot_hold_is_never_computed_with() {
    let input =
        r#"{"n":9007199254740993,"d":0.1000000000000000055,"l":[{"id":12345678901234567890},{"id":-1e400}],"t":"abc"}"#;
    for script in [
        "n + 1",
        "n = d",
        "n - 0.0000001",
        "n * 2",
        "n / 2",
        "n % 2",
        "-n",
        "n > 5",
        "n < d",
        "5 <= n",
        "d >= d and n > d",
        "$string(n)",
        "n & ''",
        "$string($)",
        "$abs(n)",
        "$floor(d)",
        "$round(n)",
        "$max([n, 100])",
        "$min([n, 3])",
        "$sum([n, 1])",
        "$average([n, 1])",
        "$sort([n, d])",
        "$sort(l.id)",
        "l^(id)",
        "$length($string(n))",
        "$formatNumber(n, '0')",
        "$formatBase(n, 16)",
        "$power(n, 2)",
        "$sqrt(n)",
        "[1..n]",
        "$pad('a', n)",
        "$substring(t, n)",
        "l[$$.n]",
        "n > 5 ? 'a' : 'b'",
        "$ ~> $string",
        "$map(l, function($v){$v.id + 1})",
        "$reduce([n, 1], function($a, $b){$a + $b})",
        "{'a': $string(n)}",
        "$fromMillis(n)",
        "$formatInteger(n, 'w')",
        "$eval('n + 1')",
        "n = n + 1",
        "$lookup({'9007199254740993': 1}, $string(n))",
        "$string(n) = '9007199254740993'",
        "$contains($string(n), '3')",
        "$number($string(n) & '0')",
        "$event.n + 1",
    ] {
        let error = run(script, input).unwrap_err();
        assert!(error.code == CODE_EXACT || script == "[1..n]" || script == "$pad('a', n)", "{script}: {error:?}");
    }
    assert!(check_error("l.(id + 1)", input, CODE_EXACT).message.contains("$.l[0].id"), "names the path");
    assert!(check_error("d + $event.n", r#"{"d":1}"#, CODE_EXACT).message.contains("$event.n"), "names the binding");
    assert!(check_error("l[1].id < 3", input, CODE_EXACT).message.contains("$.l[1].id"), "names the right one");
}

#[test]
fn ordinary_numbers_are_computed_with() {
    check("a + b", r#"{"a":0.1,"b":0.2}"#, "0.30000000000000004");
    check("a * 2", r#"{"a":100.00}"#, "200");
    check("[$, $ + 1]", "9007199254740990", "[9007199254740990,9007199254740991]");
    check(
        "$",
        "[0.30000000000000004,1.7976931348623157e+308,5e-324,123456789.12345679]",
        "[0.30000000000000004,1.7976931348623157e+308,5e-324,123456789.12345679]",
    );
}

#[test]
fn errors_carry_code_and_place() {
    for (script, code, position) in [
        ("a +", "S0207", Some(3)),
        ("{'a': 1", "S0203", Some(7)),
        ("1 + + 2", "S0211", Some(4)),
        ("a /* b", "S0106", Some(2)),
        ("'abc", "S0101", Some(0)),
        ("[1, 2", "S0203", Some(5)),
        ("a b", "S0201", Some(2)),
        ("1 + 'x'", "T2002", Some(2)),
        ("$length(5)", "T0410", Some(0)),
        ("{'a': 1,\n 'b': $number('x')}", "D3030", Some(15)),
        ("$nothing(1)", "T1006", Some(0)),
    ] {
        let error = check_error(script, "{}", code);
        assert_eq!(error.position, position, "{script}: {error}");
    }
}

#[test]
fn a_place_names_line_column_and_word() {
    let error = ScriptError { position: Some(15), ..ScriptError::new("D3030", "") };
    let place = error.place("{'a': 1,\n 'b': $number('x')}").unwrap();
    assert_eq!((place.line, place.column, place.text.as_str()), (2, 7, "$number"));
    assert_eq!(place.line_text, " 'b': $number('x')}");
}

#[test]
fn an_error_is_shown_with_its_line_and_a_mark() {
    let script = "{\n  'a': 1,\n  'b': $number(t) + 1\n}";
    let error = run(script, r#"{"t":"x"}"#).unwrap_err();
    assert_eq!(
        error.shown(script),
        "D3030: Cannot convert 'x' to number (line 3, column 8, at `$number`)\n3 |   'b': $number(t) + 1\n  |        ^^^^^^^"
    );
    assert_eq!(ScriptError::new("E_X", "y").shown(script), "E_X: y");
}

#[test]
fn what_is_too_large_or_too_deep_is_refused() {
    check_error(&format!("'{}'", "x".repeat(300 << 10)), "{}", CODE_SCRIPT);
    check_error(&format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)), "{}", CODE_NESTING);
    check_error("$", &format!("{}1{}", "[".repeat(1000), "]".repeat(1000)), CODE_INPUT);
    check_error("[1..200000].('0123456789')", "{}", CODE_OUTPUT);
    check_error("[1..10000000]", "{}", "D2015");
    check_error("($f := function($n){1 + $f($n + 1)}; $f(1))", "{}", CODE_STOPPED);
}

proptest! {
    #[test]
    fn any_number_is_copied_in_its_value(digits in "[1-9][0-9]{0,40}", fraction in "(\\.[0-9]{1,30})?", exponent in "(e-?[1-9][0-9]{0,2})?", minus in "-?") {
        let number = format!("{minus}{digits}{fraction}{exponent}");
        let input = format!(r#"{{"a":[{number},1],"b":"{number}"}}"#);
        let output = run(r#"{"x": b, "y": a[0], "z": {"w": a}}"#, &input).unwrap().unwrap();
        let value: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(&output).unwrap();
        prop_assert!(exact::same_decimal(value["y"].get(), &number), "{} became {}", number, value["y"].get());
    }

    #[test]
    fn computing_is_refused_or_right(n in 9_007_199_254_740_992_u64.., op in "[-+*/%]", m in 1_u32..100) {
        let input = format!(r#"{{"n":{n}}}"#);
        let error = run(&format!("n {op} {m}"), &input);
        if m == 1 && (op == "*" || op == "/") {
            prop_assert!(error == Ok(Some(n.to_string())) || error.is_err());
        } else {
            prop_assert_eq!(error.unwrap_err().code, CODE_EXACT);
        }
    }
}

#[test]
fn a_table_is_looked_up_by_its_name() {
    check("$table('courts')[id = $$.court].name", r#"{"court":"C2"}"#, r#""Lake County""#);
    check("$count($table('courts'))", "{}", "2");
    check("$eval('$table(\"courts\")[0].id')", "{}", r#""C1""#);
    let error = check_error("1 + $table('cuorts')", "{}", CODE_TABLE);
    assert!(error.message.contains("there is no table \"cuorts\""), "{error}");
    check_error("$table()", "{}", CODE_TABLE);
    check_error("$table(3)", "{}", CODE_TABLE);
}

#[track_caller]
fn check_unresolved(script: &str, input: &str, expected: &[(&str, u32, u32, u32)]) {
    let bounds = bounds();
    let around = Surroundings { bounds: &bounds, stop: &Stop::default(), clock: NOW, tables: &tables() };
    let found =
        Script::parse(script, &bounds).unwrap().unresolved(Some(input), &[("event", r#"{"id":"E-1"}"#)], around);
    let found = found.unwrap();
    let found: Vec<_> =
        found.iter().map(|at| (at.path.as_str(), at.position.unwrap_or(999), at.times, at.of)).collect();
    assert_eq!(found, expected, "{script}");
}

#[test]
fn paths_that_give_nothing_are_named_with_their_place() {
    let input = r#"{"deadline":"16:00","fees":[{"amount":1},{"amont":2},{"amount":3}],"where":{"county":"Cook"}}"#;
    check_unresolved("{'d': deadline, 'c': where.county, 'e': $event.id}", input, &[]);
    check_unresolved("{'d': deadlin}", input, &[("deadlin", 6, 1, 1)]);
    check_unresolved(
        "{'c': where.conty, 'e': $event.idd}",
        input,
        &[("where.conty", 6, 1, 1), ("$event.idd", 24, 1, 1)],
    );
    check_unresolved("fees.{'a': amount}", input, &[("amount", 11, 1, 3)]);
    check_unresolved("$map(fees, function($fee) { $fee.amout })", input, &[("$fee.amout", 28, 3, 3)]);
    check_unresolved(
        "fees[amount > 1 and missing].x",
        input,
        &[("fees[…].x", 0, 1, 1), ("amount", 5, 1, 3), ("missing", 20, 1, 1)],
    );
    check_unresolved("(x; deadline; x)", input, &[("x", 1, 1, 1), ("x", 14, 1, 1)]);
    check_unresolved("deadline ? 1 : other", input, &[]);
    check_unresolved("missing ?: `odd name`", input, &[("`odd name`", 11, 1, 1)]);
}
