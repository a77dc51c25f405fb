//! Reads the counts off the runners' own summaries, so that one line can end the output. It runs nothing.

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds what a runner printed: nextest, cargo test or pytest.
    pub(crate) fn add(&mut self, printed: &str) {
        for line in printed.lines().filter(|line| is_summary(line)) {
            self.passed += count(line, &["passed"]);
            self.failed += count(line, &["failed", "error", "errors", "timed"]);
            self.skipped += count(line, &["skipped", "ignored"]);
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

fn is_summary(line: &str) -> bool {
    let line = line.trim();
    let is_nextest = line.starts_with("Summary [") && line.contains("run:");
    let is_cargo = line.starts_with("test result:");
    let bare = line.trim_matches(['=', ' ']);
    let is_pytest = bare.starts_with(|first: char| first.is_ascii_digit())
        && bare.contains(" in ")
        && ["passed", "failed", "error", "skipped"].iter().any(|word| bare.contains(word));
    is_nextest || is_cargo || is_pytest
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
        check("=== 1 failed, 103 passed, 2 skipped, 1 error in 1.53s ===", (103, 2, 2));
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        check("the hub said: 5 passed\n3 events passed along\n", (0, 0, 0));
    }
}
