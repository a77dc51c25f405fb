//! Reads the counts off the runners' own summaries, so that one line can end the output. It runs nothing.

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds what a runner printed: nextest, cargo test, pytest or node.
    pub(crate) fn add(&mut self, printed: &str) {
        // A failing test's own output, which nextest repeats indented, may hold a summary too: one of another run.
        let nextest = printed.lines().rfind(|line| is_nextest(line));
        let pytest = printed.lines().rfind(|line| is_pytest(line));
        if let Some(node) = Self::of_node(printed) {
            self.passed += node.passed;
            self.failed += node.failed;
            self.skipped += node.skipped;
            return;
        }
        let summaries: Vec<&str> = match nextest.or(pytest) {
            Some(line) => vec![line],
            None => printed.lines().filter(|line| line.starts_with("test result:")).collect(),
        };
        for line in summaries {
            self.passed += count(line, &["passed"]);
            self.failed += count(line, &["failed", "error", "errors", "timed"]);
            self.skipped += count(line, &["skipped", "ignored"]);
        }
    }
}

impl Tally {
    /// node's summary is a line for each count, all of them at the end.
    fn of_node(printed: &str) -> Option<Self> {
        let last = |word: &str| {
            let starts = [format!("\u{2139} {word} "), format!("# {word} ")];
            let line =
                printed.lines().rev().find_map(|line| starts.iter().find_map(|start| line.strip_prefix(start)))?;
            line.trim().parse::<u64>().ok()
        };
        let failed = last("fail")? + last("cancelled")?;
        Some(Self { passed: last("pass")?, failed, skipped: last("skipped")? + last("todo")? })
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

fn is_nextest(line: &str) -> bool {
    line.trim_start().starts_with("Summary [") && line.contains("run:")
}

fn is_pytest(line: &str) -> bool {
    let bare = line.trim_matches(['=', ' ']);
    bare.starts_with(|first: char| first.is_ascii_digit())
        && bare.contains(" in ")
        && ["passed", "failed", "error", "skipped"].iter().any(|word| bare.contains(word))
}

fn count(line: &str, words: &[&str]) -> u64 {
    // nextest's head, `12 tests run:`, is no count of ours.
    let line = line.rsplit("run:").next().unwrap_or(line);
    let parts: Vec<&str> = line.split([' ', ',', ';', '(', ')']).filter(|part| !part.is_empty()).collect();
    parts.windows(2).filter(|pair| words.contains(&pair[1])).filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(printed: &str, expected: (u64, u64, u64)) {
        let mut tally = Tally::default();
        tally.add(printed);
        assert_eq!((tally.passed, tally.failed, tally.skipped), expected);
    }

    #[test]
    fn every_runners_summary_is_understood() {
        check("     Summary [   0.010s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped", (10, 2, 3));
        check("     Summary [   9.010s] 1 test run: 0 passed, 1 timed out, 0 skipped", (0, 1, 0));
        check("test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out", (3, 1, 2));
        check("104 passed in 1.53s", (104, 0, 0));
        let node = "\u{2139} tests 7\n\u{2139} suites 0\n\u{2139} pass 4\n\u{2139} fail 1\n\u{2139} cancelled 1\n\u{2139} skipped 1\n\u{2139} todo 0\n\u{2139} duration_ms 9.5\n";
        check(node, (4, 2, 1));
        check(&node.replace('\u{2139}', "#"), (4, 2, 1));
        check("=== 1 failed, 103 passed, 2 skipped, 1 error in 1.53s ===", (103, 2, 2));
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        check("the hub said: 5 passed\n3 events passed along\n", (0, 0, 0));
        let repeated = "    test result: FAILED. 0 passed; 1 failed; 0 ignored";
        check(&format!("{repeated}\n     Summary [   0.010s] 2 tests run: 1 passed, 1 failed, 0 skipped"), (1, 1, 0));
        check(&format!("{repeated}\ntest result: ok. 2 passed; 0 failed; 0 ignored"), (2, 0, 0));
    }
}
