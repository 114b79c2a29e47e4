//! Why the flow did not do what was asked, and how that is told to people.

use std::io;
use std::path::{Path, PathBuf};

use super::mounted::MountedError;
use super::portable::PortableError;
use crate::model::DeployId;
use crate::model::codec::DecodeError;
use crate::model::ledger::TargetError;
use crate::model::limits::TextError;
use crate::model::moment::time;
use crate::model::report::{Failure, FailureKind, LockInfo};
use crate::model::retention::Reason;
use crate::store::backup::BackupError;
use crate::store::{StoreError, remedy};

/// Something in a folder that cannot become part of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Relative to the folder.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub what: String,
}

/// A refusal or failure of the flow.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A folder with more names than a tree can hold.
    #[error("a folder has too many names: {0}; spread them over several")]
    TooLong(DecodeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name for a deploy that names none, or several.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A text of the request that is too long. Nothing has changed.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The operating system refused something outside the store's own files.
    #[error("cannot {doing} '{}': {cause}{}", path.display(), remedy_outside(cause))]
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// The folder holds things that cannot be sealed. Nothing has changed.
    #[error("'{}' cannot be sealed:{}", folder.display(), lines(problems, *more))]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// The first of them.
        problems: Vec<Problem>,
        /// How many more there are.
        more: usize,
    },
    /// Nothing in the folder.
    #[error("'{}' is empty: copy a site into it first, or seal it with --allow-empty", .0.display())]
    Empty(PathBuf),
    /// No staging folder of that name.
    #[error(
        "there is no staging folder '{name}': 'deployfs create {name}' makes one{}",
        others(known)
    )]
    NoStaging {
        /// The name asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// A staging folder of that name is there already.
    #[error("staging folder '{0}' exists already: seal it, abort it, or give another name")]
    StagingExists(String),
    /// A staging folder of somebody else's.
    #[error(
        "staging folder '{name}' belongs to {owner}, and you may not write to it: let {owner} seal or abort it, or share it with \
         your group (chgrp -R GROUP and chmod -R g+rwX on the folder)"
    )]
    NotYours {
        /// The folder.
        name: String,
        /// Its owner.
        owner: String,
    },
    /// What a seal found in the store was removed before it was recorded: the folder is read again.
    #[error(
        "what others removed was needed by this seal, each time that it read its folder: wait for the end of 'deployfs gc', then seal again"
    )]
    ReadAgain,
    /// A request for a folder that names its path only.
    #[error(
        "the request names '{}' and brings no open folder: a daemon opens none by its path; use the deployfs that the daemon was started with", .0.display()
    )]
    NoDescriptor(PathBuf),
    /// A folder on a filesystem that its owner keeps the daemon out of.
    #[error("{}: copy it, or use deployfs deploy --tar-from 'tar -C DIR -cf - .'", owners(.0))]
    OwnersFolder(PathBuf),
    /// A file there.
    #[error("{}: copy it, or pass it on: cat FILE | deployfs import -", owners(.0))]
    OwnersFile(PathBuf),
    /// Mode bits do not say who may read this filesystem.
    #[error(
        "'{}' is on a filesystem where this daemon cannot tell what you may read: copy it to a local disk, or run the daemon as root or \
         as the packaged service", .0.display()
    )]
    CannotJudge(PathBuf),
    /// A folder made for a caller cannot be made the caller's.
    #[error(
        "a staging folder cannot be given to user {user}: {cause}; run the daemon as root, as the packaged service, or as {user}, \
         instead of as user {daemon}, or use 'deployfs deploy DIR'"
    )]
    CannotGive {
        /// Who asked.
        user: String,
        /// The daemon's user id.
        daemon: u32,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A staging folder cannot be removed whole.
    #[error(
        "the staging folder cannot be removed: {cause}; what is left of it is '{}': make that removable (chattr -i, chmod u+rwx), then abort it again",
        left.display()
    )]
    NotRemoved {
        /// Where it is.
        left: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A path to be left out is not in the deploy.
    #[error("--delete {}: deploy {base} has no such path", path.display())]
    NothingToDelete {
        /// The path.
        path: PathBuf,
        /// The deploy it was to be left out of.
        base: DeployId,
    },
    /// Two different contents with the same first 16 digits.
    #[error("deploy id {0} belongs to another content already: change any file and seal again")]
    IdTaken(DeployId),
    /// `--if-live` did not hold.
    #[error("{} is live, not {expected}: nothing was changed", live.map_or("no deploy".into(), |id| id.to_string()))]
    NotLive {
        /// What was expected to be live.
        expected: String,
        /// What is live.
        live: Option<DeployId>,
    },
    /// `live` is no channel to set or take away.
    #[error(
        "'live' is the channel that every mount has: 'deployfs activate {0}' lets it show another deploy"
    )]
    LiveChannel(String),
    /// An end that is over already.
    #[error("the end of the channel, {}, is over already: give a moment to come", time(*.0))]
    EndIsOver(u64),
    /// An export cannot be written or taken in.
    #[error(transparent)]
    Portable(#[from] PortableError),
    /// An export or import without a file to write to or read from.
    #[error("{0}")]
    Stream(&'static str),
    /// What is live is locked.
    #[error("{}", locked(.0))]
    Locked(LockInfo),
    /// A lock without a reason tells the others nothing.
    #[error("a lock needs a reason: lock -m 'why'")]
    NoReason,
    /// There is no lock to take back.
    #[error("nothing is locked: 'deployfs log' shows who took the last lock back")]
    NotLocked,
    /// The store's `retention.toml` is not understood. Nothing was removed.
    #[error("'{}' is not understood, so nothing is removed: mend it; its keys are keep, keep-within, keep-recently-live and keep-live-within\n{what}", path.display())]
    RetentionFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in it.
        what: String,
    },
    /// `prune` without a word on what to keep. Nothing was removed.
    #[error("say what to keep: --keep N or --keep-within 30d, or write 'keep = N' or 'keep-within = \"30d\"' to '{}'", .0.display())]
    KeepWhat(PathBuf),
    /// The deploy whose content was sealed again was removed before that was recorded. The folder is as it was.
    #[error("deploy {0} was removed while its content was being sealed again: seal it once more")]
    RemovedMeanwhile(DeployId),
    /// Deploys that must stay. Nothing was removed.
    #[error("nothing was removed:{}", kept_lines(.0))]
    Kept(Vec<(DeployId, Reason)>),
    /// Some deploys were removed, and then something failed or the one who asked has gone.
    #[error("{} {} removed, and no more: {cause}", ids(removed), if removed.len() == 1 { "was" } else { "were" })]
    PartlyRemoved {
        /// Those that were removed.
        removed: Vec<DeployId>,
        /// Why no more were.
        cause: Box<DeployError>,
    },
    /// gc cannot see all that a deploy needs. Nothing that it needs has gone.
    #[error(
        "nothing more is removed, since it cannot be seen what deploy {id} needs: {cause}; 'deployfs verify {id}' tells what is damaged: seal its content again to heal it, or 'deployfs rm {id}'"
    )]
    GcStopped {
        /// The deploy.
        id: DeployId,
        /// What cannot be read.
        cause: StoreError,
    },
    /// `du` counts all deploys, and cannot read one.
    #[error(
        "it cannot be told what deploys take, since deploy {id} cannot be read: {cause}; 'deployfs verify {id}' tells what is damaged"
    )]
    Uncounted {
        /// The deploy.
        id: DeployId,
        /// What cannot be read.
        cause: StoreError,
    },
    /// The same of something that is open in the mount.
    #[error(
        "nothing more is removed, since it cannot be seen what an open file or folder of a removed deploy needs: {0}; close what is open in the mount, or unmount and mount it again"
    )]
    GcStoppedByMount(StoreError),
    /// Another gc is at work.
    #[error("a gc is running already: wait for its end")]
    GcRunning,
    /// A backup was not made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A folder that no backup may be kept in.
    #[error("'{}' cannot hold the backup: {what}", dir.display())]
    BackupFolder {
        /// The folder.
        dir: PathBuf,
        /// Why, and what to do.
        what: &'static str,
    },
    /// Interrupted by the one who asked.
    #[error("interrupted: nothing was changed")]
    Cancelled,
    /// Interrupted by the one who asked, after something had changed.
    #[error("interrupted")]
    Stopped,
    /// A seal failed, and its folder could not be moved back.
    #[error(
        "{error}; the staging folder could not be given back ({cause}): until deployfs is started again it is '{}'",
        folder.display()
    )]
    NotGivenBack {
        /// Why the seal failed.
        error: Box<DeployError>,
        /// Where the folder is.
        folder: PathBuf,
        /// Why it could not be moved.
        cause: Box<DeployError>,
    },
    /// Recorded, but visitors may not see it yet.
    #[error(
        "{what} is recorded and durable, but the mount does not show it yet ({cause}): {}", cause.remedy()
    )]
    NotFlipped {
        /// What was recorded.
        what: String,
        /// Why the mount could not be told.
        cause: MountedError,
    },
}

impl DeployError {
    /// This error, after these deploys were removed.
    pub(super) fn after_removing(self, removed: &[DeployId]) -> Self {
        match self {
            // The mount's news, or the disk's, matters more than the list; the history has it.
            DeployError::NotFlipped { .. } | DeployError::Store(StoreError::NotConfirmed(_)) => {
                self
            }
            _ if removed.is_empty() => self,
            DeployError::Cancelled => DeployError::PartlyRemoved {
                removed: removed.to_vec(),
                cause: Box::new(DeployError::Stopped),
            },
            cause => DeployError::PartlyRemoved {
                removed: removed.to_vec(),
                cause: Box::new(cause),
            },
        }
    }

    pub(super) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| DeployError::Io { doing, path, cause }
    }
}

/// What to do about an answer of the operating system outside the store's own files, where only an owner can grant access.
fn remedy_outside(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EACCES) => "",
        _ => remedy(cause),
    }
}

fn owners(path: &Path) -> String {
    format!(
        "'{}' cannot be read by the daemon: it is on a filesystem that only its owner may enter (FUSE without allow_other)",
        path.display()
    )
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Self {
        let kind = match &error {
            DeployError::NotLive { .. } | DeployError::Locked(_) => FailureKind::Precondition,
            DeployError::NotFlipped { .. } => FailureKind::NotFlipped,
            DeployError::Store(StoreError::NotConfirmed(_)) => FailureKind::Unknown,
            DeployError::Store(_)
            | DeployError::PartlyRemoved { .. }
            | DeployError::Target(_)
            | DeployError::Text(_)
            | DeployError::Io { .. }
            | DeployError::Refused { .. }
            | DeployError::Empty(_)
            | DeployError::TooLong(_)
            | DeployError::NoStaging { .. }
            | DeployError::StagingExists(_)
            | DeployError::CannotGive { .. }
            | DeployError::NotYours { .. }
            | DeployError::NoDescriptor(_)
            | DeployError::OwnersFolder(_)
            | DeployError::OwnersFile(_)
            | DeployError::ReadAgain
            | DeployError::CannotJudge(_)
            | DeployError::NotRemoved { .. }
            | DeployError::NothingToDelete { .. }
            | DeployError::IdTaken(_)
            | DeployError::LiveChannel(_)
            | DeployError::EndIsOver(_)
            | DeployError::NotGivenBack { .. }
            | DeployError::Portable(_)
            | DeployError::Stream(_)
            | DeployError::NoReason
            | DeployError::NotLocked
            | DeployError::Kept(_)
            | DeployError::RemovedMeanwhile(_)
            | DeployError::KeepWhat(_)
            | DeployError::GcStopped { .. }
            | DeployError::Uncounted { .. }
            | DeployError::GcStoppedByMount(_)
            | DeployError::GcRunning
            | DeployError::RetentionFile { .. }
            | DeployError::Stopped
            | DeployError::Backup(_)
            | DeployError::BackupFolder { .. }
            | DeployError::Cancelled => FailureKind::Failed,
        };
        Failure {
            kind,
            message: error.to_string(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        DeployError::from(error).into()
    }
}

fn locked(lock: &LockInfo) -> String {
    let until = lock.until.map(|until| format!(" until {}", time(until)));
    format!(
        "what is live is locked by {} since {}{}: {}; 'deployfs unlock' takes the lock back, --override-lock passes over it",
        lock.by,
        time(lock.since),
        until.unwrap_or_default(),
        lock.reason
    )
}

fn lines(problems: &[Problem], more: usize) -> String {
    let mut text: String = problems
        .iter()
        .map(|problem| format!("\n  {}: {}", problem.path.display(), problem.what))
        .collect();
    if more > 0 {
        text.push_str(&format!("\n  … and {more} more"));
    }
    text
}

fn kept_lines(kept: &[(DeployId, Reason)]) -> String {
    kept.iter()
        .map(|(id, reason)| format!("\n  {id}: {reason}; {}", reason.remedy()))
        .collect()
}

fn ids(removed: &[DeployId]) -> String {
    let all: Vec<String> = removed.iter().map(DeployId::to_string).collect();
    all.join(", ")
}

fn others(known: &[String]) -> String {
    if known.is_empty() {
        String::new()
    } else {
        format!(" (there are: {})", known.join(", "))
    }
}
