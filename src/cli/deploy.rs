//! `deployfs deploy`

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::call::More;
use super::output::parse_size;
use super::progress::Bar;
use super::sealing::{Going, SealArgs, finish, seal_more};
use super::unpacked::{Source, Unpacked};
use super::{Error, Outcome, store_path};
use crate::archive::Limits;
use crate::model::report::{Failure, FolderRequest, Request, SealReport};

/// Seal any folder, or a tar archive, and print the deploy's id.
///
/// The folder is read with your rights and left as it is. With --from it is laid over an existing deploy: files in both
/// come from the folder, files only in the deploy are kept, --delete leaves paths out; so a one-file fix needs one file.
///
/// With --tar an archive (plain, gzip or zstd) is deployed as the folder would be that it was made from, under the same id.
/// It is refused whole if a name in it is absolute, has '..', or comes twice, if a link leads out, if it holds devices or named
/// pipes, or if it ends too early.
///
/// With --tar-from a program is started that writes the archive. Unlike one that is piped into --tar it is refused whole where
/// that program fails, as tar does that cannot read a file.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs deploy ./public -m 'release 7' --activate --if-live 9b2c11d0\n  \
                        deployfs deploy ./fix --from live --delete old/page.html\n  \
                        deployfs deploy --tar-from 'ssh build tar -C public -cf - .' --activate\n  \
                        tar -C public -cf site.tar . && ssh server deployfs --store /srv/store deploy --tar - < site.tar"
)]
pub struct Args {
    /// The folder
    #[arg(required_unless_present = "archive", conflicts_with = "archive")]
    dir: Option<PathBuf>,
    /// Deploy this tar archive instead of a folder; '-' is standard input
    #[arg(long, value_name = "FILE", group = "archive")]
    tar: Option<PathBuf>,
    /// Deploy the tar archive that this shell command writes to its standard output, if its exit code is 0
    #[arg(long, value_name = "CMD", group = "archive")]
    tar_from: Option<String>,
    /// The most files, folders and links that the archive may hold
    #[arg(
        long,
        value_name = "COUNT",
        requires = "archive",
        default_value = "1000000"
    )]
    max_entries: u64,
    /// The most bytes that the archive may unpack to, such as 500M or 16G
    #[arg(long, value_name = "SIZE", requires = "archive", default_value = "16G", value_parser = parse_size)]
    max_bytes: u64,
    #[command(flatten)]
    going: Going,
    /// Lay the folder over this deploy: an id, a unique prefix of one, 'live', 'previous' or '@CHANNEL'
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// Leave this path of that deploy out; may be given several times
    #[arg(long, value_name = "PATH", requires = "from")]
    delete: Vec<PathBuf>,
    /// Say what would be new, and store nothing
    #[arg(long, conflicts_with = "activate")]
    dry_run: bool,
    /// Read every file, also those that have not changed since the last deploy by inode, size, mode and times
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    seal: SealArgs,
    /// Print the whole outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    args.going.check()?;
    let source = match (&args.tar, &args.tar_from) {
        (Some(path), _) => Some(Source::File(path)),
        (None, Some(command)) => Some(Source::Command(command)),
        (None, None) => None,
    };
    let report = match (&args.dir, source) {
        (Some(dir), _) => {
            refuse_file(dir)?;
            refuse_store(dir, store)?;
            deploy_folder(args, store, dir)?
        }
        (None, Some(source)) => deploy_archive(args, store, &source)?,
        (None, None) => {
            return Err(Error::Usage(
                "give a folder, or an archive with --tar or --tar-from".into(),
            ));
        }
    };
    finish(store, report, &args.going, args.json)
}

impl Args {
    fn request(&self, dir: PathBuf) -> Request {
        Request::Deploy(FolderRequest {
            dir,
            from: self.from.clone(),
            delete: self.delete.clone(),
            dry_run: self.dry_run,
            no_cache: self.no_cache,
            options: self.seal.options(),
        })
    }
}

/// An archive in the place of a folder is a slip that the message mends.
fn refuse_file(dir: &Path) -> Outcome {
    let is_file = dir.metadata().is_ok_and(|metadata| metadata.is_file());
    match is_file {
        true => Err(Error::failed(format!(
            "'{0}' is a file, not a folder: 'deployfs deploy --tar {0}' deploys an archive, 'deployfs import {0}' an export",
            dir.display()
        ))),
        false => Ok(()),
    }
}

/// This process opens the folder: the store's daemon gets what the caller can open, and nothing by its path.
fn deploy_folder(args: &Args, store: Option<&Path>, dir: &Path) -> Result<SealReport, Error> {
    let dir = store_path::absolute(dir)?;
    let opened = open(&dir)?;
    let more = More {
        cancel: None,
        stream: Some(opened.as_fd()),
    };
    let bar = Bar::new("sealing", "files");
    seal_more(store, &args.request(dir), bar, &more)
}

fn open(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| {
        Error::failed(format!(
            "cannot read '{}': {}",
            dir.display(),
            std::io::Error::from(errno)
        ))
    })
}

/// A deploy of the store itself would be served, and grow with each try.
fn refuse_store(dir: &Path, store: Option<&Path>) -> Outcome {
    let (Ok(dir), Ok(store)) = (store_path::absolute(dir), store_path::find(store)) else {
        return Ok(());
    };
    match store.starts_with(&dir) {
        true => Err(Error::failed(format!(
            "'{}' holds the store, '{}': deploy the folder with the build alone, such as '{}'",
            dir.display(),
            store.display(),
            dir.join("public").display()
        ))),
        false => Ok(()),
    }
}

fn deploy_archive(
    args: &Args,
    store: Option<&Path>,
    archive: &Source<'_>,
) -> Result<SealReport, Error> {
    let limits = Limits {
        entries: args.max_entries,
        bytes: args.max_bytes,
    };
    let folder = Unpacked::new(store, archive, &limits)?;
    let request = args.request(folder.path.clone());
    let opened = open(&folder.path)?;
    let more = More {
        cancel: Some(&folder.cancel),
        stream: Some(opened.as_fd()),
    };
    seal_more(store, &request, Bar::new("sealing", "files"), &more).map_err(|error| {
        // The folder goes now, and nobody has heard of it.
        let path = format!("'{}'", folder.path.display());
        match error {
            Error::Failure(failure) => Error::Failure(Failure {
                message: failure.message.replace(&path, "the archive"),
                ..failure
            }),
            Error::Usage(_) | Error::Told => error,
        }
    })
}
