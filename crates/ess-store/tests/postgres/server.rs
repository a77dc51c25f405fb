//! A PostgreSQL server for the tests: its own directory, loopback, a free port; it ends with the process, however that ends.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

/// Where Debian has it.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const START_WITHIN: Duration = Duration::from_secs(60);

/// Starts a server, says where its directory is, and stops it when nobody holds its standard input any more.
/// Takes: the programs' folder, the port. A root's server runs as another user, as it must.
const SCRIPT: &str = r#"
as=""
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; fi
cd /
dir=$($as mktemp -d)
$as "$1/initdb" -D "$dir/data" -U ess --auth=trust --encoding=UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
echo "$dir"
$as "$1/postgres" -D "$dir/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
    -c max_connections=400 -c shared_buffers=32MB -c wal_level=minimal -c max_wal_senders=0 >"$dir/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
$as "$1/pg_ctl" -D "$dir/data" -w -m immediate stop >/dev/null 2>&1
wait $server
$as rm -rf "$dir"
"#;

/// A server and what holds it.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// The script's directory of it.
    dir: String,
    /// Its standard input is what the server lives by.
    _script: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        // Asked for and let go: another process may take it meanwhile, and then the start says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "server", PROGRAMS, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut dir = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut dir).unwrap();
        let server = Self { port, dir: dir.trim().to_owned(), _script: script };
        server.wait_until_it_answers();
        server
    }

    /// Stops it at once, as a crash of its machine would.
    pub(crate) fn kill(&self) {
        self.control("stop", "immediate");
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&self) {
        self.control("start", "fast");
        self.wait_until_it_answers();
    }

    /// SIGSTOP: connections are taken, as the kernel does that, and nothing is said.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// It goes on, with what it was asked meanwhile.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// To the first of its processes, so that it starts no more, and then to the others.
    fn signal(&self, name: &str) {
        let file = std::fs::read_to_string(format!("{}/data/postmaster.pid", self.dir)).unwrap();
        let first = file.lines().next().unwrap();
        assert!(Command::new("kill").args([name, first]).status().unwrap().success());
        let others = Command::new("pgrep").args(["-P", first]).output().unwrap().stdout;
        for other in String::from_utf8(others).unwrap().lines() {
            // It may have ended by itself.
            let _ = Command::new("kill").args([name, other]).status().unwrap();
        }
    }

    fn control(&self, what: &str, mode: &str) {
        let data = format!("{}/data", self.dir);
        let options =
            format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off", self.port);
        // A root's script made the first log.
        let log = format!("{}/log-again", self.dir);
        let program = format!("{PROGRAMS}/pg_ctl");
        let args = [program.as_str(), "-w", "-D", &data, "-o", &options, "-l", &log, "-m", mode, what];
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let mut command = if is_root {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).args(args);
            command
        } else {
            let mut command = Command::new(&program);
            command.args(&args[1..]);
            command
        };
        let status = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "pg_ctl {what}");
    }

    fn wait_until_it_answers(&self) {
        let end = Instant::now() + START_WITHIN;
        while let Err(error) = ask(&self.url("postgres"), "select 1") {
            assert!(Instant::now() < end, "the server does not answer: {error}");
            // Between two looks, within the bound above.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://ess@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a database.
    pub(crate) fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("ess_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        ask(&self.url("postgres"), &format!("create database {name}")).unwrap();
        self.url(&name)
    }
}

/// The server that most tests share.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

pub(crate) fn database() -> Option<String> {
    Some(server().database())
}

/// Says one thing to a database; answers the rows that it touched.
pub(crate) fn execute(url: &str, sql: &str) -> usize {
    ask(url, sql).unwrap()
}

/// Cuts every other connection to a database.
pub(crate) fn cut(url: &str) {
    let others = "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
        where datname = current_database() and pid <> pg_backend_pid()";
    ask(url, others).unwrap();
}

/// The first column of every row, as text.
pub(crate) fn rows(url: &str, sql: &str) -> Vec<String> {
    ask_with(url, async |client| {
        let rows = client.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
    .unwrap()
}

fn ask(url: &str, sql: &str) -> Result<usize, tokio_postgres::Error> {
    ask_with(url, async |client| Ok(usize::try_from(client.execute(sql, &[]).await?).unwrap()))
}

fn ask_with<T: Send>(
    url: &str,
    ask: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error> + Send,
) -> Result<T, tokio_postgres::Error> {
    // On a thread of its own: tests run within a runtime.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
                let driver = tokio::spawn(connection);
                let answer = ask(&client).await;
                drop(client);
                drop(driver.await);
                answer
            })
        });
        asked.join().unwrap()
    })
}
