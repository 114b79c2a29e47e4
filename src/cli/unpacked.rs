//! An archive unpacked into a staging folder of its own, by this process and with its rights, and thrown away again afterwards.
//!
//! Nobody else waits while an archive comes slowly over a network: the store is asked only once all of it has come and is whole.

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use super::call::{call, cancel_on_interrupt, unexpected};
use super::producer::{Producer, refused};
use super::progress::Bar;
use super::stream::Stream;
use super::{Error, store_path};
use crate::archive::{ArchiveError, Limits, Watch, decompressed, unpack};
use crate::model::StagingName;
use crate::model::report::{Answer, Request};

/// How the names of these folders begin: such a name and its time stand for a folder that is worth nothing without its process.
const PREFIX: &str = "unpacking-";
/// A folder so old is locked by the process that fills it, or that process is gone.
const YOUNG_SECONDS: u64 = 60;

/// Bytes read at once from a stream.
const BUFFER: usize = 64 << 10;

/// The origin of an archive.
pub enum Source<'a> {
    /// A file; `-` is standard input.
    File(&'a Path),
    /// The output of a shell command.
    Command(&'a str),
}

/// The folder. Dropping it throws it away.
pub struct Unpacked {
    store: PathBuf,
    name: StagingName,
    /// Where it is.
    pub path: PathBuf,
    /// Set by Ctrl-C: whatever goes on with the folder is to end soon.
    pub cancel: Arc<AtomicBool>,
    /// Locked as long as this process lives.
    _lock: File,
}

impl Unpacked {
    /// Unpacks the archive. A command is started once the folder is there, and must end well.
    pub fn new(store: Option<&Path>, from: &Source<'_>, limits: &Limits) -> Result<Self, Error> {
        match from {
            Source::File(path) => {
                let file = open(path)?;
                let folder = Self::empty(store)?;
                folder.fill(file, limits).map_err(|error| refused(&error))?;
                Ok(folder)
            }
            Source::Command(command) => {
                let folder = Self::empty(store)?;
                let (producer, output) = Producer::start(command)?;
                let unpacked = folder.fill(output, limits);
                producer.finish(unpacked, &folder.cancel)?;
                Ok(folder)
            }
        }
    }

    fn empty(store: Option<&Path>) -> Result<Self, Error> {
        let store = store_path::find(store)?;
        let cancel = cancel_on_interrupt()?;
        remove_left_behind(&store)?;
        Self::create(store, cancel)
    }

    fn fill(&self, from: OwnedFd, limits: &Limits) -> Result<(), ArchiveError> {
        let bar = Bar::new("unpacking", "entries");
        let watch = Watch {
            progress: &|state| bar.show(state),
            cancel: &self.cancel,
        };
        let stream = Stream::new(from, self.cancel.clone());
        let unpacked = decompressed(BufReader::with_capacity(BUFFER, stream))
            .and_then(|plain| unpack(plain, &self.path, limits, &watch));
        bar.end();
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(ArchiveError::Cancelled),
            false => unpacked,
        }
    }

    fn create(store: PathBuf, cancel: Arc<AtomicBool>) -> Result<Self, Error> {
        let name = format!("{PREFIX}{}-{}", now(), std::process::id());
        let name: StagingName = name.parse().expect("letters, digits and dashes");
        let request = Request::Create {
            name: Some(name.clone()),
        };
        let path = match call(Some(&store), &request)? {
            Answer::Staging(path) => path,
            other => return Err(unexpected(&other)),
        };
        let lock = File::open(&path).and_then(|dir| {
            flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
            Ok(dir)
        });
        match lock {
            Ok(lock) => Ok(Unpacked {
                store,
                name,
                path,
                cancel,
                _lock: lock,
            }),
            Err(error) => {
                abort(&store, &name);
                Err(Error::failed(format!(
                    "'{}' cannot be opened: {error}",
                    path.display()
                )))
            }
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        abort(&self.store, &self.name);
    }
}

fn abort(store: &Path, name: &StagingName) {
    if let Err(error) = call(Some(store), &Request::Abort { name: name.clone() }) {
        note!("deployfs: staging folder '{name}' is left behind: {error}");
    }
}

fn open(from: &Path) -> Result<OwnedFd, Error> {
    if from != Path::new("-") {
        let file = File::open(from)
            .map_err(|error| Error::failed(format!("'{}': {error}", from.display())))?;
        return Ok(file.into());
    }
    if std::io::stdin().is_terminal() {
        return Err(Error::Usage(
            "an archive is expected on standard input; to make one here: deployfs deploy --tar-from 'tar -C public -cf - .'".into(),
        ));
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    input.map_err(|error| Error::failed(format!("standard input cannot be read: {error}")))
}

/// Throws away what processes left behind that were killed: such a folder is locked by nobody.
fn remove_left_behind(store: &Path) -> Result<(), Error> {
    let staging = match call(Some(store), &Request::Status)? {
        Answer::Status(status) => status.staging,
        other => return Err(unexpected(&other)),
    };
    for name in staging {
        let time = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(time, _)| time.parse::<u64>().ok());
        if time.is_none_or(|time| time + YOUNG_SECONDS > now()) {
            continue;
        }
        let Ok(name) = name.parse::<StagingName>() else {
            continue;
        };
        let path = store.join("staging").join(name.as_str());
        let is_free = File::open(path)
            .is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_free {
            log::warn!("'{name}' was left behind by a command that was killed: it is removed");
            abort(store, &name);
        }
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
