//! What a developer and CI run: `cargo xtask test | tidy | deny | docs | bench | package | ci`.
//!
//! Nothing here is shipped. It never changes a tracked file, but for `tidy --shrink`, which lowers the ratchet.

mod bench;
mod deny;
mod docs;
mod package;
mod prepare;
mod shell;
mod tally;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND
  test            install what the tests need, run every test, end with one line of counts
  tidy [--shrink] check the house rules; --shrink lowers the ratchet to what is there
  deny            check every dependency's source, licence and crypto provider
  docs            build the docs as a site into target/site, and check that every link leads somewhere
  bench [ARGS]    measure; see docs/performance.md
  package [--binary FILE]
                  build the Debian package in target/debian, of the release binary unless another is named
  ci              what CI runs: .ci/run";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        shell::complain(USAGE);
        return ExitCode::from(2);
    };
    let outcome = match command.as_str() {
        "test" => test::run(),
        "tidy" => tidy::run(rest),
        "deny" => deny::run(),
        "docs" => docs::run(),
        "bench" => bench::run(rest),
        "package" => package::run(rest),
        "ci" => shell::run("bash", &[".ci/run"]),
        _ => {
            shell::complain(USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
