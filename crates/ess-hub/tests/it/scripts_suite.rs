//! JSONata's official suite, run through evaluation processes as the hub uses them, bounds included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ess_core::script::{Bounds, ScriptError};
use ess_hub::scripts::{Evaluation, Scripts, ScriptsOptions};
use serde_json::Value;

use crate::scripts::options;

/// Files that serde_json cannot read: they hold lone surrogates, which are no Unicode text.
const UNREADABLE: [&str; 2] = ["function-encodeUrl/case002.json", "function-encodeUrlComponent/case002.json"];

/// Cases that build ten million numbers, which needs more memory than a hub gives to a script.
const ROOMY: [&str; 2] = ["range-operator/case021.json[0]", "range-operator/case024.json[0]"];

/// One case of the suite.
struct Case {
    name: String,
    script: Arc<str>,
    input: Option<Arc<str>>,
    bindings: Arc<[(String, String)]>,
    time: Option<Duration>,
    depth: Option<usize>,
    expected: Expected,
    is_unordered: bool,
}

enum Expected {
    Undefined,
    Result(Value),
    Code(String),
    AnyError,
}

/// Where the suite lies: beside the repository, or where `HMS_ESS_SHARED` says.
fn suite() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = [
        std::env::var_os("HMS_ESS_SHARED").map(PathBuf::from),
        Some(root.join("../shared")),
        Some(root.join("../../shared")),
    ];
    shared.into_iter().flatten().map(|shared| shared.join("jsonata-suite")).find(|suite| suite.is_dir())
}

fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// Reads all cases, and the names of the files that cannot be read.
fn read(suite: &Path) -> (Vec<Case>, Vec<String>) {
    let (mut cases, mut unreadable) = (Vec::new(), Vec::new());
    for group in sorted_entries(&suite.join("groups")) {
        for file in sorted_entries(&group) {
            if file.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let name = format!(
                "{}/{}",
                group.file_name().unwrap().to_string_lossy(),
                file.file_name().unwrap().to_string_lossy()
            );
            let text = std::fs::read_to_string(&file).unwrap();
            let Ok(value) = serde_json::from_str::<Value>(&text) else {
                unreadable.push(name);
                continue;
            };
            let all = if let Value::Array(all) = value { all } else { vec![value] };
            cases.extend(all.iter().enumerate().map(|(index, case)| read_case(suite, &group, &name, index, case)));
        }
    }
    (cases, unreadable)
}

fn read_case(suite: &Path, group: &Path, name: &str, index: usize, case: &Value) -> Case {
    let script = match &case["expr"] {
        Value::String(script) => script.clone(),
        _ => std::fs::read_to_string(group.join(case["expr-file"].as_str().unwrap())).unwrap(),
    };
    let input = match (&case["dataset"], case.get("data")) {
        (Value::String(dataset), _) => {
            Some(std::fs::read_to_string(suite.join("datasets").join(format!("{dataset}.json"))).unwrap())
        }
        (_, Some(data)) => Some(data.to_string()),
        _ => None,
    };
    let bindings = case["bindings"].as_object().into_iter().flatten();
    let code = case["code"].as_str().or(case["error"]["code"].as_str());
    Case {
        name: format!("{name}[{index}]"),
        script: script.into(),
        input: input.map(Arc::from),
        bindings: bindings.map(|(name, value)| (name.clone(), value.to_string())).collect(),
        time: case["timelimit"].as_u64().map(Duration::from_millis),
        depth: case["depth"].as_u64().and_then(|depth| usize::try_from(depth).ok()),
        expected: match (code, case.get("result"), case.get("error")) {
            (Some(code), _, _) => Expected::Code(code.to_owned()),
            (None, Some(result), _) => Expected::Result(result.clone()),
            (None, None, Some(_)) => Expected::AnyError,
            (None, None, None) => Expected::Undefined,
        },
        is_unordered: case["unordered"].as_bool().unwrap_or(false),
    }
}

/// Why an answer is not what a case expects.
fn fault(case: &Case, answer: &Result<Option<String>, ScriptError>) -> Option<String> {
    let is_right = match (&case.expected, answer) {
        (Expected::Undefined, Ok(None)) | (Expected::AnyError, Err(_)) => true,
        (Expected::Code(code), Err(error)) => *code == error.code,
        (Expected::Result(result), Ok(Some(text))) => {
            let mut pair = [result.clone(), serde_json::from_str(text).unwrap()];
            if case.is_unordered {
                for items in pair.iter_mut().filter_map(Value::as_array_mut) {
                    items.sort_by_key(Value::to_string);
                }
            }
            same(&pair[0], &pair[1])
        }
        _ => false,
    };
    (!is_right).then(|| format!("{}: {} gave {answer:?}", case.name, case.script))
}

/// Equal as JSON: 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stderr, reason = "whoever runs the tests should know why one did nothing")]
async fn every_readable_case_of_the_official_suite_passes() {
    let Some(suite) = suite() else {
        eprintln!("skipped: there is no jsonata-suite beside the repository and HMS_ESS_SHARED does not name one");
        return;
    };
    let (cases, unreadable) = read(&suite);
    assert_eq!(unreadable, UNREADABLE);
    assert!(cases.len() > 1_600, "only {} cases", cases.len());
    // A pool for each set of bounds: the hub's, and those that some cases name.
    let mut pools: BTreeMap<(bool, Option<Duration>, Option<usize>), Scripts> = BTreeMap::new();
    let mut running = Vec::new();
    for case in cases {
        let is_roomy = ROOMY.contains(&case.name.as_str());
        let pool = pools.entry((is_roomy, case.time, case.depth)).or_insert_with(|| {
            let options = options();
            let bounds = if is_roomy { Bounds::roomy() } else { options.bounds.clone() };
            let bounds = Bounds {
                time: case.time.unwrap_or(bounds.time),
                stack_depth: case.depth.unwrap_or(bounds.stack_depth),
                ..bounds
            };
            Scripts::start(ScriptsOptions { bounds, ..options })
        });
        let pool = pool.clone();
        running.push(tokio::spawn(async move {
            let evaluation = Evaluation {
                script: Arc::clone(&case.script),
                input: case.input.clone(),
                bindings: Arc::clone(&case.bindings),
                now: None,
            };
            fault(&case, &pool.evaluate(evaluation).await)
        }));
    }
    let mut faults = Vec::new();
    for case in running {
        faults.extend(case.await.unwrap());
    }
    assert!(faults.is_empty(), "{} cases fail:\n{}", faults.len(), faults.join("\n"));
    for (_, pool) in pools {
        pool.close().await;
    }
}
