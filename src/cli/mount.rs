//! `deployfs mount`

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::progress::Wait;
use super::{Error, Outcome, logging, store_path};
use crate::control::client::Client;
use crate::daemon::{self, DaemonOptions, Scrubbing};
use crate::deploy::Deployfs;
use crate::metrics::Place;
use crate::model::report::{Answer, Request, UNREADABLE_REMEDY};
use crate::users::group_id;
use crate::view::{Listable, MountOptions, check_mountpoint, living_mount_of};

/// What a daemon in the background says on its standard output once requests are answered.
const READY: &str = "ready";
/// The daemon's log, in the store.
const LOG: &str = "daemon.log";
/// How often it is shown that it is waited for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Mount a store and start its daemon.
///
/// Returns once the mount can be used. MOUNTPOINT/live is the live site, MOUNTPOINT/deploys/ID every deploy,
/// MOUNTPOINT/staging leads to the staging folders. The daemon's log is STORE/daemon.log. A mount left behind by a daemon
/// that died is cleared and mounted over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs mount /srv/store /srv/site\n  \
                        deployfs mount /srv/store /srv/site --foreground   # for systemd: Type=notify\n  \
                        deployfs mount /srv/store /srv/site --check        # would a restart work?")]
pub struct Args {
    /// The store
    store: PathBuf,
    /// An empty directory
    mountpoint: PathBuf,
    /// Stay in the foreground, and tell the service manager when ready
    #[arg(long)]
    foreground: bool,
    /// Only check that store, mount point and options can be used; a mount of the same store may be there
    #[arg(long)]
    check: bool,
    /// The owner that all files show [default: yours]
    #[arg(long)]
    uid: Option<u32>,
    /// The group that all files show [default: yours]
    #[arg(long)]
    gid: Option<u32>,
    /// The name in the mount table [default: deployfs:STORE]
    #[arg(long, value_name = "NAME")]
    fsname: Option<String>,
    /// Let only yourself see the mount (a web server of another user cannot)
    #[arg(long)]
    no_allow_other: bool,
    /// Let no program in the mount be executed
    #[arg(long)]
    noexec: bool,
    /// Members of this group may create, seal and activate
    #[arg(long, value_name = "GROUP")]
    control_group: Option<String>,
    /// Who may list which folders
    ///
    /// Whoever may list the root, deploys/ or channels/ can hold up every activation and every visitor; whoever may list a folder
    /// of a deploy, visitors of that folder.
    #[arg(long, value_name = "WHO", default_value = "group")]
    listable: Who,
    /// Read the whole store in the background, once in so many days
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    scrub_every: Option<u16>,
    /// Bytes to read a second meanwhile
    #[arg(long, value_name = "BYTES", value_parser = super::scrub::bytes, default_value = "20M")]
    scrub_rate: u64,
    /// Give metrics for Prometheus at /metrics of this socket or loopback port
    #[arg(long, value_name = "PATH|127.0.0.1:PORT")]
    metrics: Option<Place>,
    /// In the background: say on standard output when ready
    #[arg(long, hide = true)]
    background: bool,
}

/// Who may list which folders.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Who {
    /// Root, deploys/ and channels/: owner and control group (without one, the group that files show); a deploy's folders: as sealed
    Group,
    /// The same, and a deploy's folders: no other users
    GroupOnly,
    /// Root, deploys/ and channels/: everybody; a deploy's folders: as sealed
    Everybody,
}

impl Who {
    fn of(self, group: u32) -> Listable {
        match self {
            Who::Group => Listable::Group(group),
            Who::GroupOnly => Listable::GroupOnly(group),
            Who::Everybody => Listable::Everybody,
        }
    }
}

/// Mounts as `args` say, which were read from the words `given` after the program's name.
pub fn run(args: &Args, given: &[OsString]) -> Outcome {
    if args.check {
        return check(args);
    }
    if !args.foreground && !args.background {
        let store = store_path::absolute(&args.store)?;
        if !store.join("format").exists() {
            // Fails, and says what is wrong: no log is left behind in a folder that is no store.
            Deployfs::open_read_only(&store)?;
        }
        return start_in_background(&store, given);
    }
    let options = options(args)?;
    let background = args.background;
    if background {
        // The daemon outlives the shell that started it, and holds no folder busy.
        rustix::process::setsid()
            .map_err(|errno| Error::failed(format!("cannot leave the session: {errno}")))?;
        std::env::set_current_dir("/")
            .map_err(|error| Error::failed(format!("cannot go to '/': {error}")))?;
    }
    daemon::run(options, || {
        if background {
            say_ready();
        }
    })?;
    Ok(())
}

/// What would make a start fail, beside a running daemon.
fn check(args: &Args) -> Outcome {
    let options = options(args)?;
    Deployfs::open_read_only(&options.store)?;
    check_mountpoint(&options.mount).map_err(|error| Error::failed(error.to_string()))
}

fn options(args: &Args) -> Result<DaemonOptions, Error> {
    let store = store_path::absolute(&args.store)?;
    let control_group = match &args.control_group {
        Some(name) => Some(
            group_id(name).ok_or_else(|| Error::Usage(format!("there is no group '{name}'")))?,
        ),
        None => None,
    };
    let gid = args
        .gid
        .unwrap_or_else(|| rustix::process::getegid().as_raw());
    let mount = MountOptions {
        mountpoint: std::path::absolute(&args.mountpoint)
            .map_err(|error| Error::failed(format!("'{}': {error}", args.mountpoint.display())))?,
        store: store.clone(),
        fsname: args.fsname.clone(),
        uid: args
            .uid
            .unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        gid,
        listable: args.listable.of(control_group.unwrap_or(gid)),
        allow_other: !args.no_allow_other,
        noexec: args.noexec,
        threads: None,
    };
    Ok(DaemonOptions {
        store,
        mount,
        control_group,
        scrub: args.scrub_every.map(|days| Scrubbing {
            every: Duration::from_secs(u64::from(days) * 24 * 3600),
            rate: args.scrub_rate,
        }),
        metrics: args.metrics.clone().map(absolute_place).transpose()?,
    })
}

/// The daemon leaves the folder that it is started in.
fn absolute_place(place: Place) -> Result<Place, Error> {
    match place {
        Place::Socket(path) => std::path::absolute(&path)
            .map(Place::Socket)
            .map_err(|error| Error::failed(format!("'{}': {error}", path.display()))),
        Place::Port(_) => Ok(place),
    }
}

/// Starts this program again with the same words, and waits until it is ready or has ended.
fn start_in_background(store: &Path, given: &[OsString]) -> Outcome {
    let program = std::env::current_exe()
        .map_err(|error| Error::failed(format!("cannot find this program's own file: {error}")))?;
    let path = store.join(LOG);
    let log = open_log(store, &path).map_err(|error| mounted_already(store).unwrap_or(error))?;
    let start = log.metadata().map_or(0, |metadata| metadata.len());
    // What comes after a "--" is no flag.
    let end = given.iter().position(|word| word == "--");
    let (flags, places) = given.split_at(end.unwrap_or(given.len()));
    let mut child = Command::new(program)
        .args(flags)
        .arg("--background")
        .args(places)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Error::failed(format!("cannot start the daemon: {error}")))?;
    let mut first = String::new();
    if let Some(out) = child.stdout.take() {
        wait_for_word(&out);
        // An unreadable answer is no "ready".
        BufReader::new(out).read_line(&mut first).ok();
    }
    if first.trim_end() == READY {
        say_what_is_unreadable(store);
        return Ok(());
    }
    child.wait().ok();
    let why = || Error::failed(what_it_said(&path, start));
    Err(mounted_already(store).unwrap_or_else(why))
}

/// The reason for a failed start, if another daemon has the store and its mount is alive.
fn mounted_already(store: &Path) -> Option<Error> {
    let mount = living_mount_of(store)?;
    let holder = Deployfs::last_writer(store).filter(|_| Deployfs::is_in_use(store))?;
    Some(Error::failed(format!(
        "'{}' is already mounted at '{}', in use by process {}: use that mount, or end it first with 'deployfs umount {}'",
        store.display(),
        mount.display(),
        holder.pid,
        mount.display()
    )))
}

/// The mount is there; visitors of these deploys get errors.
fn say_what_is_unreadable(store: &Path) {
    let client = Client::connect(store).ok().flatten();
    let status = client.and_then(|client| client.call(&Request::Status, &|_| {}).ok());
    if let Some(Answer::Status(status)) = status {
        for unreadable in &status.unreadable {
            log::error!("{}; {UNREADABLE_REMEDY}", unreadable.sentence());
        }
    }
}

/// Opening a store takes a while where much of it was not finished.
fn wait_for_word(out: &ChildStdout) {
    let mut wait = Wait::new("waiting for the daemon to open the store");
    loop {
        match poll(&mut [PollFd::new(out, PollFlags::IN)], Some(&LOOK)) {
            Ok(0) => wait.tick(),
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn open_log(store: &Path, path: &Path) -> Result<File, Error> {
    Deployfs::open_log(store, LOG)
        .map_err(|error| Error::failed(format!("cannot write '{}': {error}", path.display())))
}

/// The daemon's own last words, without the marks of a log.
fn what_it_said(log: &Path, start: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text =
        String::from_utf8_lossy(bytes.get(start as usize..).unwrap_or_default()).into_owned();
    logging::last_words_in(&text).unwrap_or_else(|| {
        format!(
            "the daemon ended before it was ready; '{}' may say why",
            log.display()
        )
    })
}

/// Tells the command that waits, and lets go of its standard output.
fn say_ready() {
    let mut out = std::io::stdout();
    // A command that has gone away is not waiting.
    writeln!(out, "{READY}").and_then(|()| out.flush()).ok();
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        rustix::stdio::dup2_stdout(null).ok();
    }
}
