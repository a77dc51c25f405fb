//! Brings what the tests and the bench need: from Debian when root, else it says what to install by hand; Python packages
//! go to a venv under `target/`, npm's to a folder there, never to the system.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::shell;

const REQUIREMENTS: &str = "sdk/python/requirements-test.txt";
const MDBOOK: &str = "xtask/requirements-docs.txt";
/// The version of npm's `jsonata` that scripts are measured beside.
const JSONATA_REFERENCE: &str = "2.2.2";
/// What drives the browser, and what judges accessibility.
const BROWSER_MODULES: [&str; 2] = ["playwright-core@1.65.1", "axe-core@4.14.1"];
/// Where Debian has PostgreSQL's programs.
pub(crate) const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
/// Where a browser of this family is installed.
const CHROMIUM: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// A C compiler, for the bundled SQLite and ring.
pub(crate) fn compiler() -> anyhow::Result<()> {
    need("gcc", || shell::works("cc", &["--version"]), &["gcc", "libc6-dev"])
}

/// OpenSSH's server and its tools, for the tests of the sftp channel.
pub(crate) fn sshd() -> anyhow::Result<()> {
    let is_there = || ["/usr/sbin/sshd", "/usr/bin/ssh-keygen"].iter().all(|path| Path::new(path).exists());
    need("OpenSSH's server", is_there, &["openssh-server", "openssh-client"])
}

/// Mosquitto and its clients, for the tests of the mqtt channel.
pub(crate) fn mosquitto() -> anyhow::Result<()> {
    let has = |name: &str| ["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let is_there = || ["mosquitto", "mosquitto_pub", "mosquitto_sub", "mosquitto_passwd"].iter().all(|name| has(name));
    need("Mosquitto", is_there, &["mosquitto", "mosquitto-clients"])
}

/// The balancer that the test of a stopping hub starts.
pub(crate) fn balancer() -> anyhow::Result<()> {
    need("HAProxy", || Path::new("/usr/sbin/haproxy").exists(), &["haproxy"])
}

/// What mounts a directory that hangs, for the tests of the file channel; where the system lets nobody mount they say so.
pub(crate) fn fuse() -> anyhow::Result<()> {
    need("fusermount3", || Path::new("/usr/bin/fusermount3").exists(), &["fuse3"])
}

/// The proxies that the tests of the dialer start.
pub(crate) fn proxies() -> anyhow::Result<()> {
    let has = |name: &str| Path::new("/usr/bin").join(name).exists();
    need("tinyproxy, microsocks", || has("tinyproxy") && has("microsocks"), &["tinyproxy-bin", "microsocks"])
}

/// PostgreSQL's server, for the store's suite and the tests of a hub on it; as root it runs as Debian's user for it.
pub(crate) fn postgres() -> anyhow::Result<()> {
    let is_there =
        || ["initdb", "postgres", "pg_ctl", "psql"].iter().all(|name| Path::new(POSTGRES).join(name).exists());
    need("PostgreSQL 15", is_there, &["postgresql-15", "postgresql-client-15"])
}

/// The brokers that the tests of the nats and amqp channels start.
pub(crate) fn brokers() -> anyhow::Result<()> {
    need("the NATS server", || shell::works("nats-server", &["--version"]), &["nats-server"])?;
    let has_rabbit =
        || ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/bin/epmd"].iter().all(|path| Path::new(path).exists());
    need("RabbitMQ", has_rabbit, &["rabbitmq-server"])
}

/// mdBook, as upstream built it: PyPI has the unmodified program in wheels that are named here by their digests. Debian has none
/// for what we build on, and building it from source takes minutes of each cold run.
pub(crate) fn mdbook() -> anyhow::Result<PathBuf> {
    let folder = target().join("mdbook");
    let program = folder.join("bin/mdbook");
    let stamp = folder.join("requirements.txt");
    let wanted =
        std::fs::read_to_string(shell::root().join(MDBOOK)).context("could not read the docs' requirements")?;
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        let python = venv()?;
        let place = text(&folder)?;
        pip(
            &python,
            &[
                "install",
                "--upgrade",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "--target",
                place,
                "-r",
                MDBOOK,
            ],
        )
        .context("mdBook is missing: is PyPI out of reach?")?;
        std::fs::write(&stamp, wanted).context("could not write the stamp of mdBook")?;
    }
    Ok(program)
}

/// The venv's Python with the test packages and the SDK's wheel, built anew.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    let python = venv()?;
    let wanted =
        std::fs::read_to_string(shell::root().join(REQUIREMENTS)).context("could not read the requirements")?;
    let stamp = target().join("venv/requirements.txt");
    let is_fresh = std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);
    if !is_fresh {
        pip(&python, &["install", "--upgrade", "-r", REQUIREMENTS])?;
        std::fs::write(&stamp, wanted).context("could not write the venv's stamp")?;
    }
    install_wheel(&python)?;
    Ok(python)
}

fn venv() -> anyhow::Result<PathBuf> {
    let venv = target().join("venv");
    let python = venv.join("bin/python");
    need("python3 with venv", can_make_venv, &["python3", "python3-venv", "python3-pip"])?;
    if !shell::works(text(&python)?, &["-m", "pip", "--version"]) {
        shell::run("python3", &["-m", "venv", "--clear", text(&venv)?])?;
    }
    Ok(python)
}

fn install_wheel(python: &Path) -> anyhow::Result<()> {
    let wheels = target().join("wheel");
    if wheels.exists() {
        std::fs::remove_dir_all(&wheels).context("could not remove the old wheel")?;
    }
    pip(python, &["wheel", "--no-deps", "--no-build-isolation", "-w", text(&wheels)?, "./sdk/python"])?;
    pip(python, &["install", "--no-deps", "--no-index", "--force-reinstall", "--find-links", text(&wheels)?, "hms-ess"])
}

fn pip(python: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut all = vec!["-m", "pip", "--quiet", "--disable-pip-version-check"];
    all.extend_from_slice(args);
    // The wheel's builder is a program of the venv, found by PATH.
    let folder = text(python.parent().unwrap_or(python))?;
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let status = shell::command(text(python)?, &all).env("PATH", path).status().context("could not start pip")?;
    if !status.success() {
        bail!("`python -m pip {}` failed ({status})", args.join(" "));
    }
    Ok(())
}

/// The module of the JavaScript reference engine, for the bench; npm checks what it fetched against the registry's digest.
pub(crate) fn jsonata_reference() -> anyhow::Result<PathBuf> {
    let has_node = || shell::works("node", &["--version"]) && shell::works("npm", &["--version"]);
    need("node with npm", has_node, &["nodejs", "npm"])?;
    let folder = target().join(format!("jsonata-{JSONATA_REFERENCE}"));
    let module = folder.join("node_modules/jsonata/jsonata.js");
    if !module.exists() {
        std::fs::create_dir_all(&folder).context("could not make the folder of the reference")?;
        let wanted = format!("jsonata@{JSONATA_REFERENCE}");
        let quiet = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        let mut args = vec!["install", "--prefix", text(&folder)?];
        args.extend(quiet);
        args.push(&wanted);
        shell::run("npm", &args).context("the JavaScript reference is missing: is npm's registry out of reach?")?;
    }
    Ok(module)
}

/// The browser and what drives it: Debian's Chromium, and from npm the driver and the judge of accessibility.
pub(crate) struct Browser {
    /// Where npm's modules are.
    pub(crate) modules: PathBuf,
    /// The browser itself.
    pub(crate) chromium: PathBuf,
}

/// Chromium from Debian; `playwright-core` and `axe-core` from npm, into `target/browser`.
pub(crate) fn browser() -> anyhow::Result<Browser> {
    let has_node = || shell::works("node", &["--version"]) && shell::works("npm", &["--version"]);
    need("node with npm", has_node, &["nodejs", "npm"])?;
    need("chromium", || CHROMIUM.iter().any(|path| Path::new(path).exists()), &["chromium", "fonts-dejavu-core"])?;
    let chromium = CHROMIUM.iter().map(PathBuf::from).find(|path| path.exists()).context("chromium is not there")?;
    let folder = target().join("browser");
    let modules = folder.join("node_modules");
    let stamp = folder.join("modules.txt");
    let wanted = BROWSER_MODULES.join(" ");
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        std::fs::create_dir_all(&folder).context("could not make the folder of the browser's modules")?;
        let mut args = vec!["install", "--prefix", text(&folder)?];
        args.extend(["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        args.extend(BROWSER_MODULES);
        shell::run("npm", &args).context("the browser's modules are missing: is npm's registry out of reach?")?;
        std::fs::write(&stamp, wanted).context("could not write the stamp of the browser's modules")?;
    }
    Ok(Browser { modules, chromium })
}

/// Prometheus' Alertmanager, which the hub is to speak to as it really is.
pub(crate) fn alertmanager() -> anyhow::Result<()> {
    let is_there = || shell::works("prometheus-alertmanager", &["--version"]);
    need("prometheus-alertmanager", is_there, &["prometheus-alertmanager"])
}

/// Prometheus with `promtool`, systemd's analyzer and Debian's packager: judges of what lies in `ops/`.
pub(crate) fn ops_tools() -> anyhow::Result<()> {
    let has_prometheus = || ["prometheus", "promtool"].iter().all(|tool| shell::works(tool, &["--version"]));
    need("Prometheus", has_prometheus, &["prometheus"])?;
    need("systemd-analyze", || shell::works("systemd-analyze", &["--version"]), &["systemd"])?;
    need(
        "dpkg-deb and strip",
        || shell::works("dpkg-deb", &["--version"]) && shell::works("strip", &["--version"]),
        &["dpkg", "binutils"],
    )
}

fn can_make_venv() -> bool {
    shell::works("python3", &["-c", "import venv, ensurepip"])
}

fn need(what: &str, is_there: impl Fn() -> bool, packages: &[&str]) -> anyhow::Result<()> {
    if is_there() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", packages.join(" "));
    let can_install = rustix::process::geteuid().is_root() && shell::works("apt-get", &["--version"]);
    if !can_install {
        bail!("{what} is missing; install it: {by_hand}");
    }
    shell::say(&format!("installing {what}: {by_hand}"));
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend_from_slice(packages);
    shell::run("apt-get", &["update"])?;
    let status = shell::command("apt-get", &args).env("DEBIAN_FRONTEND", "noninteractive").status();
    if !status.is_ok_and(|status| status.success()) || !is_there() {
        bail!("{what} could not be installed; try by hand: {by_hand}");
    }
    Ok(())
}

/// Where builds go.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}
