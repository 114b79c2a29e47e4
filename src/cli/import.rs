//! `deployfs import`

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::call::More;
use super::output::parse_size;
use super::progress::Bar;
use super::sealing::{Going, SealArgs, finish, seal_more};
use super::{Error, Outcome};
use crate::model::report::{ImportRequest, Progress, Request};

/// How much longer than its files an export may be.
const BESIDES: u64 = 1 << 30;

/// Take in a deploy that `deployfs export` wrote, and print its id.
///
/// All of it is checked on the way in: every chunk against its id, every folder and the whole site against its content id. One
/// that is damaged is refused, and nothing of it stays. If an import is interrupted, run it again: chunks that have come are
/// not stored twice. From a pipe, the export is first kept whole in $TMPDIR (else /var/tmp), so that nothing waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs import site.dpl --activate\n  \
                        ssh old deployfs --store /srv/store export live | deployfs import -")]
pub struct Args {
    /// The export; '-' is standard input
    file: PathBuf,
    #[command(flatten)]
    going: Going,
    /// The most files, folders and symlinks that it may have
    #[arg(long, value_name = "COUNT", default_value = "1000000")]
    max_entries: u64,
    /// The most bytes that its files may have, such as 500M or 16G
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = parse_size)]
    max_bytes: u64,
    #[command(flatten)]
    seal: SealArgs,
    /// Print the whole outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    args.going.check()?;
    let file = open(&args.file, args.max_bytes.saturating_add(BESIDES))?;
    let request = Request::Import(ImportRequest {
        max_entries: args.max_entries,
        max_bytes: args.max_bytes,
        options: args.seal.options(),
    });
    let more = More {
        cancel: None,
        stream: Some(file.as_fd()),
    };
    let report = seal_more(store, &request, Bar::new("importing", "chunks"), &more)?;
    finish(store, report, &args.going, args.json)
}

fn open(path: &Path, most: u64) -> Result<File, Error> {
    let cannot = |error| Error::failed(format!("'{}' cannot be read: {error}", path.display()));
    let file = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Error::Usage(
                "an export is expected on standard input, as in: deployfs import - < site.dpl"
                    .into(),
            ));
        }
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    };
    let file = file.map_err(cannot)?;
    match file.metadata().map_err(cannot)? {
        metadata if metadata.is_file() => Ok(file),
        metadata if metadata.is_dir() => Err(Error::failed(format!(
            "'{}' is a folder: 'deployfs deploy' takes those",
            path.display()
        ))),
        _ => keep_whole(file, most),
    }
}

/// The stream as a file that nobody else sees and that goes with this process.
fn keep_whole(mut from: File, most: u64) -> Result<File, Error> {
    let folder =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let moment = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    let path = folder.join(format!("deployfs-import-{}-{moment}", std::process::id()));
    let failed = |error: io::Error| {
        Error::failed(format!(
            "the export cannot be kept in '{}' while it comes (TMPDIR names another folder): {error}",
            folder.display()
        ))
    };
    let mut kept = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    let bar = Bar::new("receiving", "pieces");
    let mut state = Progress::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Error::failed(format!("the export cannot be read: {error}")));
            }
        };
        state.bytes += count as u64;
        state.files += 1;
        if state.bytes > most {
            return Err(Error::failed(format!(
                "the export is refused: it has more than {most} bytes; --max-bytes allows more"
            )));
        }
        kept.write_all(&buffer[..count]).map_err(failed)?;
        bar.show(state);
    }
    bar.end();
    kept.rewind().map_err(failed)?;
    Ok(kept)
}
