//! Mounting a view, and the end of its session: by our own unmount or by somebody else's.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::thread::{CapabilitySet, capabilities};

use super::counters::{Counters, Counts};
use super::flip::View;
use super::fuse::FuseView;
use super::listable::Listable;
use super::lock_holders::lock_holders_on;
use super::mounts::{
    Line, SOURCE_PREFIX, detach, is_dead, is_seen_by_first_process, mount_at, mounts_of, resolve,
};
use super::tree_fs::{ReadError, TreeFs};
use crate::deploy::as_root;
use crate::deploy::mounted::{Content, Shown};
use crate::model::report::StuckNotice;
use crate::model::{ChannelName, DeployId};

/// A pending notice occupies request threads that wait for it, so there are never fewer than these.
const THREADS_MIN: usize = 4;
/// How long [`MountedView::unmount`] waits for the last open file.
const UNMOUNT_WAIT: Duration = Duration::from_secs(2);
/// How far the kernel reads ahead in a large file, in KiB. Its default of 128 makes small requests: a cold gigabyte takes half
/// as long with 1,024.
const READ_AHEAD_KIB: &str = "1024";
/// Dead mounts of ours that may lie on one another.
const DEAD_MOUNTS_MAX: usize = 16;

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// An empty directory.
    pub mountpoint: PathBuf,
    /// The store's folder, absolute.
    pub store: PathBuf,
    /// The source in the mount table; `deployfs:STORE` if none is given.
    pub fsname: Option<String>,
    /// The owner of everything in the mount.
    pub uid: u32,
    /// The group of everything in the mount.
    pub gid: u32,
    /// Who may list the mount's own folders.
    pub listable: Listable,
    /// Whether other users than the daemon's see the mount.
    pub allow_other: bool,
    /// Whether no program in the mount can be executed.
    pub noexec: bool,
    /// Request threads; `max(4, cores)` if none is given, and never fewer than 4.
    pub threads: Option<usize>,
}

/// Why there is no mount. Every message names the path and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be looked at.
    #[error("cannot use '{path}' as a mount point: {cause}; give an existing, empty directory")]
    Mountpoint {
        /// The mount point.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// The mount point is a file.
    #[error("'{0}' is not a directory: give an existing, empty directory")]
    NotDir(PathBuf),
    /// The mount point has files, which the mount would hide.
    #[error("'{0}' is not empty: move its files away, or give another directory")]
    NotEmpty(PathBuf),
    /// Something is mounted there already.
    #[error(
        "'{path}' is a mount point already ({what}): unmount it first, or give another directory"
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// The type of what is mounted.
        what: String,
    },
    /// A dead mount could not be cleared away.
    #[error(
        "'{path}' has a dead deployfs mount that cannot be detached: {cause}; run 'fusermount3 -u -z {path}'"
    )]
    Dead {
        /// The mount point.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A normal user may not mount for others here.
    #[error(
        "cannot mount '{0}' for other users: add 'user_allow_other' to /etc/fuse.conf, or use --no-allow-other"
    )]
    AllowOther(PathBuf),
    /// There is no usable FUSE device.
    #[error(
        "cannot mount '{0}': /dev/fuse is not there or not open to you; as root: 'modprobe fuse', then 'chmod 666 /dev/fuse'"
    )]
    Device(PathBuf),
    /// An ordinary user has no program that mounts for them.
    #[error("cannot mount '{0}': fusermount3 is missing; as root: 'apt install fuse3'")]
    Fusermount(PathBuf),
    /// The kernel or fusermount refused.
    #[error(
        "cannot mount '{path}': {cause}; 'deployfs mount --foreground' and the kernel's log (dmesg) may say more"
    )]
    Fuse {
        /// The mount point.
        path: PathBuf,
        /// Its answer.
        cause: io::Error,
    },
    /// The mount could not be taken off.
    #[error("cannot unmount '{path}': {cause}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
}

/// A view that is mounted. Dropping it does not unmount.
pub struct MountedView {
    view: Arc<View>,
    fs: Arc<TreeFs>,
    counters: Arc<Counters>,
    mountpoint: PathBuf,
    /// As the mount table has it.
    source: OsString,
    device: u64,
    ended: Receiver<()>,
}

/// Mounts a view of what is `shown`.
pub fn mount(
    options: MountOptions,
    content: Arc<dyn Content>,
    shown: &Shown,
) -> Result<MountedView, MountError> {
    let mountpoint = resolve(&options.mountpoint);
    clear_dead(&mountpoint)?;
    check(&mountpoint)?;
    let failed = |cause| refusal(&mountpoint, &options, cause);

    let fs = Arc::new(TreeFs::new(content, &options.store, shown));
    let counters = Arc::new(Counters::default());
    let filesystem = FuseView {
        fs: fs.clone(),
        counters: counters.clone(),
        store: options.store.clone(),
        uid: options.uid,
        gid: options.gid,
        listable: options.listable,
    };
    let session = Session::new(filesystem, &mountpoint, &config(&options)).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    let notifier = session.notifier();
    let gone = Arc::new(AtomicBool::new(false));
    let ended = watch(session, gone.clone()).map_err(failed)?;
    // From here on nothing else would take the mount off again.
    let failed = |cause| {
        detach(&mountpoint).ok();
        failed(cause)
    };
    let device = mountpoint.metadata().map_err(failed)?.dev();
    set_read_ahead(device);
    let view = View::start(
        fs.clone(),
        counters.clone(),
        notifier,
        mountpoint.clone(),
        device,
        gone,
    )
    .map_err(failed)?;
    Ok(MountedView {
        view: Arc::new(view),
        fs,
        counters,
        mountpoint,
        source: source(&options).into(),
        device,
        ended,
    })
}

/// Whether [`mount()`] would find a usable mount point. A mount of the same source may be there, alive or dead: it is the one
/// that a restart replaces. Changes nothing.
pub fn check_mountpoint(options: &MountOptions) -> Result<(), MountError> {
    let mountpoint = resolve(&options.mountpoint);
    match mount_at(&mountpoint) {
        None => check(&mountpoint),
        Some(line) if line.is_ours() && line.source == *source(options) => Ok(()),
        Some(line) => Err(MountError::Busy {
            path: mountpoint,
            what: line.fs_type,
        }),
    }
}

fn clear_dead(mountpoint: &Path) -> Result<(), MountError> {
    for _ in 0..DEAD_MOUNTS_MAX {
        match mount_at(mountpoint) {
            None => return Ok(()),
            Some(line) if line.is_ours() && is_dead(mountpoint) => {
                log::warn!("detaching a dead mount at '{}'", mountpoint.display());
                detach(mountpoint).map_err(|cause| MountError::Dead {
                    path: mountpoint.into(),
                    cause,
                })?;
            }
            Some(line) => {
                return Err(MountError::Busy {
                    path: mountpoint.into(),
                    what: line.fs_type,
                });
            }
        }
    }
    Ok(())
}

fn check(mountpoint: &Path) -> Result<(), MountError> {
    let unusable = |cause| MountError::Mountpoint {
        path: mountpoint.into(),
        cause,
    };
    if !mountpoint.metadata().map_err(unusable)?.is_dir() {
        return Err(MountError::NotDir(mountpoint.into()));
    }
    match mountpoint.read_dir().map_err(unusable)?.next() {
        None => Ok(()),
        Some(_) => Err(MountError::NotEmpty(mountpoint.into())),
    }
}

/// What the mount table is to show as its source.
fn source(options: &MountOptions) -> String {
    let store = || format!("{SOURCE_PREFIX}{}", options.store.display());
    options.fsname.clone().unwrap_or_else(store)
}

/// The value as fuser passes it on: to mount(2) as it is, where this process may call that; else to fusermount3, in a list of options
/// with commas between them.
fn as_option(value: String) -> String {
    let own = capabilities(None);
    if own.is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_ADMIN)) {
        return value;
    }
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn config(options: &MountOptions) -> Config {
    let cores = thread::available_parallelism().map_or(THREADS_MIN, usize::from);
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(as_option(source(options))),
        // fuser's own Subtype does not reach the kernel's mount call.
        MountOption::CUSTOM("subtype=deployfs".into()),
    ];
    if options.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    config.acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(options.threads.unwrap_or(cores).max(THREADS_MIN));
    config.clone_fd = may_open_fuse();
    config
}

/// Each clone opens /dev/fuse anew, which a normal user may not do everywhere.
fn may_open_fuse() -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
}

fn refusal(mountpoint: &Path, options: &MountOptions, cause: io::Error) -> MountError {
    let path = mountpoint.to_path_buf();
    if !may_open_fuse() {
        return MountError::Device(path);
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && !has_fusermount() {
        return MountError::Fusermount(path);
    }
    let forbidden = cause.kind() == io::ErrorKind::PermissionDenied
        || cause.to_string().contains("user_allow_other");
    if options.allow_other && forbidden && !is_root {
        return MountError::AllowOther(path);
    }
    MountError::Fuse { path, cause }
}

/// True where the program is there by which ordinary users mount.
pub fn has_fusermount() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("fusermount3").is_file())
}

/// Only root may; without it large files are merely read more slowly the first time. A service's daemon has no capability that
/// passes over the file's mode, and can become root for this.
fn set_read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let write = || std::fs::write(&path, READ_AHEAD_KIB);
    if let Err(error) = write().or_else(|error| as_root(write).unwrap_or(Err(error))) {
        log::debug!("'{path}' cannot be written: {error}");
    }
}

/// The channel closes when the session has ended, whoever unmounted.
fn watch(mut session: BackgroundSession, gone: Arc<AtomicBool>) -> io::Result<Receiver<()>> {
    let (running, ended) = bounded::<()>(0);
    let placeholder = thread::spawn(|| Ok(()));
    let requests = std::mem::replace(&mut session.guard, placeholder);
    // fuser would unmount the path when this is dropped, even where another daemon has mounted there since.
    // What leaks is one descriptor of /dev/fuse.
    std::mem::forget(session);
    thread::Builder::new()
        .name("watch-session".into())
        .spawn(move || {
            match requests.join() {
                Ok(Ok(())) => log::info!("the mount has ended"),
                Ok(Err(error)) => log::error!("the mount has ended: {error}"),
                Err(_) => log::error!("the mount has ended: a request thread panicked"),
            }
            gone.store(true, Ordering::Release);
            drop(running);
        })?;
    Ok(ended)
}

impl MountedView {
    /// What the flow tells its news to.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// The absolute path of the mount point; where the mount is now, if it was moved.
    pub fn mountpoint(&self) -> PathBuf {
        let root = Path::new("/");
        let mut whole = self.mounts();
        whole.retain(|line| line.root == root);
        match whole.first() {
            Some(first) if whole.iter().all(|line| line.mountpoint != self.mountpoint) => {
                first.mountpoint.clone()
            }
            _ => self.mountpoint.clone(),
        }
    }

    /// The number of its device.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Where a deploy is shown.
    pub fn deploy_path(&self, id: DeployId) -> PathBuf {
        self.mountpoint().join("deploys").join(id.to_string())
    }

    /// Where a channel is shown.
    pub fn channel_path(&self, channel: &ChannelName) -> PathBuf {
        self.mountpoint().join("channels").join(channel.as_str())
    }

    /// How often the kernel has asked so far.
    pub fn counts(&self) -> Counts {
        self.counters.snapshot()
    }

    /// The last failed reads, oldest first.
    pub fn read_errors(&self) -> Vec<ReadError> {
        self.fs.read_errors()
    }

    /// How many reads have failed since it was mounted.
    pub fn errors_seen(&self) -> u64 {
        self.fs.errors_seen()
    }

    /// The notice that waits for a lock in the kernel, and who holds it.
    pub fn stuck(&self) -> Option<StuckNotice> {
        let underway = self.view.stuck()?;
        let holders = lock_holders_on(self.device);
        let since = underway.since.duration_since(UNIX_EPOCH);
        Some(StuckNotice {
            what: underway.what,
            since: since.map_or(0, |since| since.as_secs()),
            holders: holders.found,
            unseen: holders.unseen,
        })
    }

    /// Whether the machine's first process sees the mount; none where that cannot be told.
    pub fn is_visible(&self) -> Option<bool> {
        is_seen_by_first_process(self.device)
    }

    /// How many nodes the kernel holds.
    pub fn nodes(&self) -> usize {
        self.fs.nodes().count()
    }

    /// Where it is mounted. Once it has ended, another mount may have been given its device number: only a dead one is ours then.
    fn mounts(&self) -> Vec<Line> {
        let mut mounts = mounts_of(self.device);
        let has_ended = self.wait_ended(Duration::ZERO);
        mounts
            .retain(|line| line.source == self.source && (!has_ended || is_dead(&line.mountpoint)));
        mounts
    }

    /// Whether the superblock is read-only, as it was mounted. Root can remount it otherwise.
    pub fn is_readonly(&self) -> bool {
        let is_readonly = |line: &Line| line.super_options.split(',').any(|option| option == "ro");
        self.mounts().iter().all(is_readonly)
    }

    /// Closes when the session has ended; nothing is ever sent.
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Waits up to `timeout` for the session to end; true if it has.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }

    /// Detaches the mount and waits for its session. Files still open read on until this process ends; then true is not
    /// returned.
    pub fn unmount(self) -> Result<bool, MountError> {
        for Line { mountpoint, .. } in self.mounts() {
            // A path names what lies on top: what somebody else has mounted over ours is left alone.
            let is_on_top = mountpoint.metadata().map(|meta| meta.dev() == self.device);
            if matches!(is_on_top, Ok(false)) {
                log::warn!(
                    "'{0}' is covered by another mount: once that is gone, 'deployfs umount {0}' or a new mount clears what is below it",
                    mountpoint.display()
                );
                continue;
            }
            detach(&mountpoint).map_err(|cause| MountError::Unmount {
                path: mountpoint.clone(),
                cause,
            })?;
        }
        Ok(self.wait_ended(UNMOUNT_WAIT))
    }
}
