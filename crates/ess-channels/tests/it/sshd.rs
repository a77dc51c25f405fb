//! OpenSSH's server on a free loopback port, with keys and a directory of its own; it ends when it is dropped.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ess_channels::Credential;

use crate::link::wait_until;

/// The server.
pub(crate) struct Sshd {
    pub(crate) address: SocketAddr,
    /// Where drops go.
    pub(crate) inbox: PathBuf,
    /// `ssh-ed25519 AAAA…` of the host.
    pub(crate) host_key: String,
    /// Whoever runs the tests.
    pub(crate) user: String,
    client_key: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Sshd {
    pub(crate) async fn start() -> Sshd {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path(), 0o755);
        let inbox = dir.path().join("inbox");
        std::fs::create_dir(&inbox).unwrap();
        open_to_all(&inbox, 0o777);
        for name in ["host", "client"] {
            let file = dir.path().join(name);
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(file));
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join("authorized"), read("client.pub")).unwrap();
        if rustix::process::geteuid().is_root() {
            // Where the server's unprivileged half lives.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host\nPidFile none\nStrictModes no\nUsePAM no\n\
             AuthorizedKeysFile {path}/authorized\nPermitRootLogin yes\nPasswordAuthentication yes\n\
             MaxStartups 100\nSubsystem sftp internal-sftp\n"
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.path().join("config"))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("OpenSSH's server is missing: apt-get install openssh-server");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let sshd = Sshd {
            address,
            inbox,
            host_key: read("host.pub").split_whitespace().take(2).collect::<Vec<_>>().join(" "),
            user: String::from_utf8(user).unwrap().trim().to_owned(),
            client_key: read("client"),
            child,
            _dir: dir,
        };
        wait_until("sshd listens", || std::net::TcpStream::connect(address).is_ok()).await;
        sshd
    }

    /// The key that the server lets in.
    pub(crate) fn key(&self) -> Credential {
        Credential::Key { user: Some(self.user.clone()), key: self.client_key.clone(), passphrase: None }
    }

    /// Writes that key to a file of its owner's, for other clients.
    // The bench, which takes this file in, uses it.
    #[allow(dead_code)]
    pub(crate) fn write_key(&self, file: &Path) {
        std::fs::write(file, &self.client_key).unwrap();
        open_to_all(file, 0o600);
    }

    /// What lies in the inbox: names and contents.
    pub(crate) fn delivered(inbox: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(inbox).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its sessions are processes of their own in the same group.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A user of the system with a password, for the time of a test; needs root.
pub(crate) struct SystemUser {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl SystemUser {
    /// `None` when not root: only root can give a user a password.
    pub(crate) fn add() -> Option<SystemUser> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let user = SystemUser { name: format!("ess{}", std::process::id()), password: "correct horse".to_owned() };
        run(Command::new("useradd").args(["--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", &user.name]));
        let mut child = Command::new("chpasswd").stdin(Stdio::piped()).spawn().unwrap();
        let line = format!("{}:{}\n", user.name, user.password);
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), line.as_bytes()).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        Some(user)
    }
}

impl Drop for SystemUser {
    fn drop(&mut self) {
        run(Command::new("userdel").args(["--force", &self.name]).stderr(Stdio::null()));
    }
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn run(command: &mut Command) {
    let _ = command.stdout(Stdio::null()).status().unwrap();
}
