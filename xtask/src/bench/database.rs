//! A PostgreSQL server of the bench's own: a fresh directory on the build's disk, loopback, a free port. Commits reach the disk.
//!
//! It ends with the bench, whichever way that ends: the script that holds it waits for the end of its standard input.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::process;
use crate::prepare;

const START_WITHIN: Duration = Duration::from_secs(60);
/// What is not as Debian has it: memory as a machine of its own would give, and no checkpoint in the middle of a turn.
pub(super) const SETTINGS: &str = "shared_buffers=256MB max_wal_size=4GB checkpoint_timeout=15min max_connections=200";

/// Makes a server, says where it is, and stops it when nobody holds its standard input any more.
/// Takes: the programs' folder, the port, a folder to be in, the settings. A root's server runs as another user, as it must.
const SCRIPT: &str = r#"
as=""
dir=$(mktemp -d "$3/database-XXXXXX")
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$dir"; fi
cd /
$as test -w "$dir" || { rmdir "$dir"; dir=$($as mktemp -d); }
$as "$1/initdb" -D "$dir/data" -U ess --auth=trust --encoding=UTF8 --locale=C >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
options=""
for setting in $4; do options="$options -c $setting"; done
$as "$1/postgres" -D "$dir/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= $options >"$dir/log" 2>&1 </dev/null &
server=$!
echo "$dir"
cat >/dev/null
$as "$1/pg_ctl" -D "$dir/data" -w -m immediate stop >/dev/null 2>&1
wait $server
rm -rf "$dir"
"#;

/// A server that runs.
pub(super) struct Database {
    script: Child,
    port: u16,
    /// Where it lies.
    pub(super) dir: PathBuf,
    postmaster: u32,
    databases: std::cell::Cell<u32>,
}

impl Database {
    /// Makes and starts a server with these settings besides, `name=value` with blanks between.
    pub(super) fn start(settings: &str) -> Result<Self> {
        prepare::postgres()?;
        // Asked for and let go: another process may take it meanwhile, and then the start says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = prepare::target();
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "database", prepare::POSTGRES, &port.to_string()])
            .arg(&folder)
            .arg(format!("{SETTINGS} {settings}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A key that ends the bench must not end the script before it has stopped the server.
            .process_group(0)
            .spawn()
            .context("could not start sh")?;
        let mut dir = String::new();
        BufReader::new(script.stdout.take().context("no stdout")?).read_line(&mut dir)?;
        ensure!(!dir.trim().is_empty(), "initdb failed; what it said is above");
        let dir = PathBuf::from(dir.trim());
        let mut database = Self { script, port, dir, postmaster: 0, databases: std::cell::Cell::new(0) };
        database.wait_until_it_answers()?;
        let file = std::fs::read_to_string(database.dir.join("data/postmaster.pid"))?;
        database.postmaster = file.lines().next().context("an empty postmaster.pid")?.trim().parse()?;
        Ok(database)
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        let end = Instant::now() + START_WITHIN;
        while let Err(error) = self.ask("postgres", "select 1") {
            if Instant::now() > end {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("the database does not answer: {error:#}\n{log}");
            }
            // Between two tries; `START_WITHIN` bounds them.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A new empty database: its URL and its name.
    pub(super) fn make(&self) -> Result<(String, String)> {
        let number = self.databases.replace(self.databases.get() + 1);
        let name = format!("ess_{number}");
        self.ask("postgres", &format!("create database {name}"))?;
        // What making it left to write is no part of what comes.
        self.ask("postgres", "checkpoint")?;
        Ok((format!("postgres://ess@127.0.0.1:{}/{name}", self.port), name))
    }

    /// What `psql` answers, bare.
    pub(super) fn ask(&self, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(format!("{}/psql", prepare::POSTGRES))
            .args(["-XAtq", "-h", "127.0.0.1", "-U", "ess", "-v", "ON_ERROR_STOP=1", "-p"])
            .arg(self.port.to_string())
            .args(["-d", database, "-c", sql])
            .stdin(Stdio::null())
            .output()
            .context("could not start psql")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Bytes that were written to its log so far.
    pub(super) fn wal_bytes(&self) -> Result<f64> {
        Ok(self.ask("postgres", "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")?.parse()?)
    }

    /// User and system time of all its processes, also of those that have ended.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.postmaster)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Its end is what the script waits for.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
