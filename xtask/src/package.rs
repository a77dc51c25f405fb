//! Builds the Debian package: the program, its systemd unit, its configuration, the documentation.
//!
//! `ops/debian` has what Debian asks for. Man pages and completions are asked of the program itself. Nothing is installed here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::{prepare, shell};

/// Where a file of the repository goes.
const FILES: &[(&str, &str)] = &[
    ("ops/hms-ess.service", "usr/lib/systemd/system/hms-ess.service"),
    ("ops/hms-ess.sysusers", "usr/lib/sysusers.d/hms-ess.conf"),
    ("ops/debian/hub.yaml", "etc/hms-ess/hub.yaml"),
    ("examples/hub.yaml", "usr/share/doc/hms-ess/hub.yaml.example"),
    ("ops/prometheus-rules.yml", "usr/share/doc/hms-ess/prometheus-rules.yml"),
    ("ops/grafana-dashboard.json", "usr/share/doc/hms-ess/grafana-dashboard.json"),
    ("CHANGELOG.md", "usr/share/doc/hms-ess/CHANGELOG.md"),
    ("LICENSE-APACHE", "usr/share/doc/hms-ess/LICENSE-APACHE"),
    ("LICENSE-MIT", "usr/share/doc/hms-ess/LICENSE-MIT"),
];
/// Shells with the place of their completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/hms-ess"),
    ("zsh", "usr/share/zsh/vendor-completions/_hms-ess"),
    ("fish", "usr/share/fish/vendor_completions.d/hms-ess.fish"),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds `target/debian/hms-ess_VERSION_ARCHITECTURE.deb` of the release binary, or of the one that `--binary` names.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let binary = match args {
        [] => {
            shell::run("cargo", &["build", "--release", "--locked", "--package", "hms-ess"])?;
            prepare::target().join("release/hms-ess")
        }
        [flag, file] if flag == "--binary" => PathBuf::from(file),
        _ => bail!("package knows one argument: --binary FILE"),
    };
    let folder = prepare::target().join("debian");
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("could not remove what an earlier run left")?;
    }
    let program = tree.join("usr/bin/hms-ess");
    put(&binary, &program, 0o755)?;
    shell::run("strip", &["--strip-debug", text(&program)?])?;
    for (from, to) in FILES {
        put(&shell::root().join(from), &tree.join(to), 0o644)?;
    }
    put_tree(&shell::root().join("docs"), &tree.join("usr/share/doc/hms-ess"))?;
    put_pages(&program, &tree)?;
    let version = shell::capture(text(&program)?, &["--version"])?;
    let version = version.trim().rsplit(' ').next().context("the program says no version")?.to_owned();
    let architecture = shell::capture("dpkg", &["--print-architecture"])?.trim().to_owned();
    write_control(&tree, &version, &architecture)?;
    let package = folder.join(format!("hms-ess_{version}_{architecture}.deb"));
    shell::run("dpkg-deb", &["--root-owner-group", "-Zgzip", "--build", text(&tree)?, text(&package)?])?;
    shell::say(&format!("built {}", package.display()));
    Ok(())
}

/// What Debian asks for.
fn write_control(tree: &Path, version: &str, architecture: &str) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = shell::root().join("ops/debian").join(name);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let kib = size_of(tree)? / 1024;
    // The C library that it was linked with: an older one may lack what it calls.
    let libc = shell::capture("dpkg-query", &["--show", "--showformat=${Version}", "libc6"])?;
    let libc = libc.split('-').next().unwrap_or(&libc);
    let control = read("control")?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@KIB@", &kib.to_string())
        .replace("@LIBC@", &format!("libc6 (>= {libc})"));
    let debian = tree.join("DEBIAN");
    write(&debian.join("control"), &control, 0o644)?;
    write(&debian.join("conffiles"), "/etc/hms-ess/hub.yaml\n", 0o644)?;
    for script in SCRIPTS {
        write(&debian.join(script), &read(script)?, 0o755)?;
    }
    Ok(())
}

/// Man pages and completions, as the program tells them.
fn put_pages(program: &Path, tree: &Path) -> anyhow::Result<()> {
    let program = text(program)?;
    if !shell::works(program, &["completions", "bash"]) {
        shell::say("this program has no man pages and completions; the package goes without");
        return Ok(());
    }
    let pages = tree.join("usr/share/man/man1");
    fs::create_dir_all(&pages).context("could not make the folder of the man pages")?;
    shell::run(program, &["man", "--out", text(&pages)?])?;
    for page in fs::read_dir(&pages).context("could not list the man pages")? {
        // Debian's policy: compressed, and the same bytes each time.
        shell::run("gzip", &["-9n", text(&page.context("could not list the man pages")?.path())?])?;
    }
    for (name, to) in COMPLETIONS {
        write(&tree.join(to), &shell::capture(program, &["completions", name])?, 0o644)?;
    }
    Ok(())
}

fn put_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let path = entry.with_context(|| format!("could not list {}", from.display()))?.path();
        let name = path.file_name().context("a file has a name")?;
        if path.is_dir() {
            put_tree(&path, &to.join(name))?;
        } else {
            put(&path, &to.join(name), 0o644)?;
        }
    }
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let bytes = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
    write(to, bytes, mode)
}

fn write(to: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> anyhow::Result<()> {
    let failed = || format!("could not write {}", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(failed)?;
    fs::write(to, bytes).with_context(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(failed)
}

fn size_of(tree: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(tree).with_context(|| format!("could not list {}", tree.display()))? {
        let path = entry.context("could not list the package's tree")?.path();
        bytes +=
            if path.is_dir() { size_of(&path)? } else { fs::metadata(&path).context("could not look at it")?.len() };
    }
    Ok(bytes)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}
