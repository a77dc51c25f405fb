//! What lies in a partner's directory by the hub's naming: drops, half-written ones, receipts.
//!
//! Nothing else in the directory is ever named here, so that nothing else can be taken away.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ess_core::message::{Named, read_file_name, read_receipt_name};

use crate::limits::LEFT_MAX;

/// A file that may be one of the hub's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its name beneath the directory.
    pub name: String,
    /// What the name can mean, one at least.
    pub meanings: Vec<Named>,
}

/// Which files are asked for.
#[derive(Debug, Clone)]
pub struct Search {
    /// Those that were not changed since.
    pub before: SystemTime,
    /// Those whose name comes after this one.
    pub after: String,
}

/// The files of one step, the first ones by name.
#[derive(Debug)]
pub(crate) struct Found {
    search: Search,
    files: BTreeMap<String, Vec<Named>>,
}

impl Found {
    pub(crate) fn new(search: Search) -> Found {
        Found { search, files: BTreeMap::new() }
    }

    /// Takes a regular file that lies beside the drops, or among the receipts of this pattern.
    pub(crate) fn see(&mut self, file: Seen<'_>, pattern: Option<&str>, extension: &str) {
        let is_old = file.modified.is_some_and(|modified| modified < self.search.before);
        if !is_old || *file.name <= *self.search.after {
            return;
        }
        let mut meanings = read_file_name(file.name, extension);
        if let Some(pattern) = pattern {
            meanings.extend(read_receipt_name(pattern, file.name, extension));
        }
        if meanings.is_empty() {
            return;
        }
        self.files.insert(file.name.to_owned(), meanings);
        if self.files.len() > LEFT_MAX {
            self.files.pop_last();
        }
    }

    pub(crate) fn into_files(self) -> Vec<Left> {
        self.files.into_iter().map(|(name, meanings)| Left { name, meanings }).collect()
    }
}

/// A file as a directory lists it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Its name beneath the partner's directory.
    pub name: &'a str,
    pub modified: Option<SystemTime>,
}

/// The directories that hold the hub's files: that of the drops, and that of receipts when it is another.
pub(crate) fn places(pattern: Option<&str>) -> Vec<String> {
    let dir = pattern.and_then(|pattern| pattern.rsplit_once('/')).map(|(dir, _)| format!("{dir}/"));
    // A directory that is called after an event is not looked for.
    let dir = dir.filter(|dir| !dir.contains('{'));
    std::iter::once(String::new()).chain(dir).collect()
}
