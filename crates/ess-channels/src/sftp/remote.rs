//! The steps on the server, one request after the other.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use ess_core::limits::RECEIPT_BYTES_MAX;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};

use super::connection::Connection;
use crate::watch::Look;

/// Bytes of one write or read: what every server takes.
const CHUNK_BYTES: usize = 32 * 1024;
/// Pages of a directory that are read; the rest of a larger one is asked for by name.
const LIST_PAGES_MAX: usize = 200;

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no such file or directory.
    Missing,
    /// The user may not.
    Forbidden,
    /// The server says no for another reason.
    Refused(String),
    /// The connection ended.
    Broken(String),
}

/// What stands under a name, compared with what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No file.
    Nothing,
    /// The very bytes.
    Same,
    /// The first of them: a write that was cut.
    Beginning,
    /// Something else.
    Other,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error {
            Error::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => Trouble::Missing,
                StatusCode::PermissionDenied => Trouble::Forbidden,
                StatusCode::NoConnection | StatusCode::ConnectionLost => {
                    Trouble::Broken("connection closed by the sftp server".to_owned())
                }
                code => Trouble::Refused(format!("the sftp server said {code}: {}", status.error_message)),
            },
            Error::Limited(reason) => Trouble::Refused(reason),
            _ => Trouble::Broken("connection closed by the sftp server".to_owned()),
        }
    }
}

type Result<T> = std::result::Result<T, Trouble>;

impl Connection {
    /// Writes a file that is not there yet, durably where the server can.
    pub(super) async fn write_new(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes, OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE).await
    }

    /// Writes a file that is there anew.
    pub(super) async fn write_over(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes, OpenFlags::WRITE | OpenFlags::TRUNCATE).await
    }

    async fn write(&self, path: &str, bytes: &[u8], flags: OpenFlags) -> Result<()> {
        let handle = self.sftp.open(path, flags, FileAttributes::empty()).await?.handle;
        let mut offset = 0;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.sftp.write(handle.as_str(), offset, chunk.to_vec()).await?;
            offset += chunk.len() as u64;
        }
        if self.has_fsync {
            self.sftp.fsync(handle.as_str()).await?;
        }
        self.sftp.close(handle).await?;
        Ok(())
    }

    /// Renames; where a file has the name, OpenSSH refuses.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.sftp.rename(from, to).await?;
        Ok(())
    }

    /// Renames in place of a file that is there (`posix-rename@openssh.com`).
    pub(super) async fn rename_over(&self, from: &str, to: &str) -> Result<()> {
        let mut names = Vec::with_capacity(8 + from.len() + to.len());
        for name in [from, to] {
            names.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
            names.extend_from_slice(name.as_bytes());
        }
        match self.sftp.extended("posix-rename@openssh.com", names).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(Error::Status(status).into()),
            _ => Err(Trouble::Refused("the sftp server did not answer a rename".to_owned())),
        }
    }

    /// Removes a file; one that is not there is removed already.
    pub(super) async fn remove(&self, path: &str) -> Result<()> {
        match self.sftp.remove(path).await.map_err(Trouble::from) {
            Ok(_) | Err(Trouble::Missing) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn exists(&self, path: &str) -> Result<bool> {
        match self.sftp.lstat(path).await.map_err(Trouble::from) {
            Ok(_) => Ok(true),
            Err(Trouble::Missing) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Compares what stands under the name with these bytes.
    pub(super) async fn compare(&self, path: &str, bytes: &[u8]) -> Result<Found> {
        let attributes = match self.sftp.lstat(path).await.map_err(Trouble::from) {
            Ok(found) => found.attrs,
            Err(Trouble::Missing) => return Ok(Found::Nothing),
            Err(trouble) => return Err(trouble),
        };
        let size = attributes.size.unwrap_or_default();
        if !attributes.is_regular() || size > bytes.len() as u64 {
            return Ok(Found::Other);
        }
        let Some((_, content)) = self.read(path, bytes.len() + 1).await? else { return Ok(Found::Nothing) };
        Ok(match content {
            content if content == bytes => Found::Same,
            content if bytes.starts_with(&content) => Found::Beginning,
            _ => Found::Other,
        })
    }

    /// A receipt's beginning, and how the file looks; `None` when there is none.
    pub(super) async fn read_receipt(&self, path: &str) -> Result<Option<(Look, Vec<u8>)>> {
        self.read(path, RECEIPT_BYTES_MAX).await
    }

    async fn read(&self, path: &str, bytes_max: usize) -> Result<Option<(Look, Vec<u8>)>> {
        let handle = match self.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await.map_err(Trouble::from) {
            Ok(opened) => opened.handle,
            Err(Trouble::Missing) => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        let attributes = self.sftp.fstat(handle.as_str()).await?.attrs;
        let mut content = Vec::new();
        while content.len() < bytes_max {
            let wanted = (bytes_max - content.len()).min(CHUNK_BYTES);
            let read = self.sftp.read(handle.as_str(), content.len() as u64, u32::try_from(wanted).unwrap_or(0)).await;
            match read {
                Ok(read) if read.data.is_empty() => break,
                Ok(read) => content.extend_from_slice(&read.data),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(error.into()),
            }
        }
        content.truncate(bytes_max);
        self.sftp.close(handle).await?;
        let modified = modified(&attributes);
        Ok(Some((Look { bytes: attributes.size.unwrap_or_default(), modified }, content)))
    }

    /// Removes a regular file that was not changed since; false when it is another by now.
    pub(super) async fn remove_old(&self, path: &str, before: SystemTime) -> Result<bool> {
        let attributes = match self.sftp.lstat(path).await.map_err(Trouble::from) {
            Ok(found) => found.attrs,
            Err(Trouble::Missing) => return Ok(false),
            Err(trouble) => return Err(trouble),
        };
        if !attributes.is_regular() || modified(&attributes).is_none_or(|modified| modified >= before) {
            return Ok(false);
        }
        self.remove(path).await?;
        Ok(true)
    }

    /// The regular files of a directory, as many as are read of one; none when it is not there.
    pub(super) async fn files(&self, dir: &str) -> Result<Vec<(String, Option<SystemTime>)>> {
        let dir = if dir.is_empty() { "." } else { dir };
        let handle = match self.sftp.opendir(dir).await.map_err(Trouble::from) {
            Ok(opened) => opened.handle,
            Err(Trouble::Missing) => return Ok(Vec::new()),
            Err(trouble) => return Err(trouble),
        };
        let mut files = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            match self.sftp.readdir(handle.as_str()).await {
                Ok(page) => {
                    let regular = page.files.into_iter().filter(|file| file.attrs.is_regular());
                    files.extend(regular.map(|file| (file.filename, modified(&file.attrs))));
                }
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.sftp.close(handle).await?;
        Ok(files)
    }

    /// The names in a directory, and whether these are all.
    async fn list(&self, dir: &str) -> Result<(HashSet<String>, bool)> {
        let dir = if dir.is_empty() { "." } else { dir };
        let handle = match self.sftp.opendir(dir).await.map_err(Trouble::from) {
            Ok(opened) => opened.handle,
            // The partner makes its directory for receipts when it has one to write.
            Err(Trouble::Missing) => return Ok((HashSet::new(), true)),
            Err(trouble) => return Err(trouble),
        };
        let (mut names, mut is_whole) = (HashSet::new(), false);
        for _ in 0..LIST_PAGES_MAX {
            match self.sftp.readdir(handle.as_str()).await {
                Ok(page) => names.extend(page.files.into_iter().map(|file| file.filename)),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => {
                    is_whole = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sftp.close(handle).await?;
        Ok((names, is_whole))
    }
}

fn modified(attributes: &FileAttributes) -> Option<SystemTime> {
    attributes.mtime.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into()))
}

/// Directories as they were listed for one look.
#[derive(Default)]
pub(super) struct Listed(HashMap<String, (HashSet<String>, bool)>);

impl Listed {
    /// Whether a file may be there.
    pub(super) async fn has(&mut self, connection: &Connection, path: &str) -> Result<bool> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !self.0.contains_key(dir) {
            // The root is "/", not the directory that the server begins in.
            let asked = if dir.is_empty() && path.starts_with('/') { "/" } else { dir };
            let listed = connection.list(asked).await?;
            self.0.insert(dir.to_owned(), listed);
        }
        Ok(self.0.get(dir).is_some_and(|(names, is_whole)| !is_whole || names.contains(name)))
    }
}
