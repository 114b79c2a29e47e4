//! Processes that have something of a removed deploy open.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::lock_holders::{numbers, user_of};
use crate::model::DeployId;
use crate::model::name::RETIRED_PREFIX;
use crate::model::report::OpenIn;

/// What was seen of the processes of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// Those that have something of it open, as a descriptor, a mapping, a working directory or a root.
    pub found: Vec<OpenIn>,
    /// How many processes this user may not look at.
    pub unseen: u64,
}

/// How the secret names start that the trees of a deploy have once they are shown no more.
pub(super) fn retired_prefix(id: Option<DeployId>) -> String {
    match id {
        Some(id) => format!("{RETIRED_PREFIX}{id}-"),
        None => RETIRED_PREFIX.to_owned(),
    }
}

/// The processes that have something of these removed deploys open in a mount.
pub fn open_files(ids: &[DeployId]) -> OpenFiles {
    let marks: Vec<String> = ids
        .iter()
        .map(|id| format!("/{}", retired_prefix(Some(*id))))
        .collect();
    let mut seen = OpenFiles::default();
    for process in numbers(Path::new("/proc")) {
        match has_open(process, &marks) {
            Ok(true) => seen.found.push(describe(process)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => seen.unseen += 1,
            // None of it, or it has ended.
            Ok(false) | Err(_) => {}
        }
    }
    seen
}

fn has_open(process: u32, marks: &[String]) -> io::Result<bool> {
    let folder = format!("/proc/{process}");
    let is_marked = |bytes: &[u8]| {
        marks.iter().any(|mark| {
            bytes
                .windows(mark.len())
                .any(|part| part == mark.as_bytes())
        })
    };
    let leads_there = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| is_marked(target.as_os_str().as_bytes()))
    };
    for entry in fs::read_dir(format!("{folder}/fd"))? {
        if leads_there(&entry?.path()) {
            return Ok(true);
        }
    }
    let links = ["cwd", "root", "exe"].map(|name| format!("{folder}/{name}"));
    if links.iter().any(|link| leads_there(Path::new(link))) {
        return Ok(true);
    }
    Ok(is_marked(&fs::read(format!("{folder}/maps"))?))
}

fn describe(process: u32) -> OpenIn {
    let command = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    OpenIn {
        process,
        user: user_of(process),
        command: command.trim_end().to_owned(),
    }
}
