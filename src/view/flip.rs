//! The flip: telling the kernel what became true, in the order that lets no path walk see the past.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use fuser::{INodeNo, Notifier};

use super::counters::Counters;
use super::discard::{Discards, secret};
use super::nodes::{CHANNELS, DEPLOYS, ROOT, ViewNode};
use super::open_files::retired_prefix;
use super::own_mount::OwnMount;
use super::tree_fs::{TreeFs, ViewRoot};
use crate::deploy::mounted::{Held, Mounted, MountedError, Root, is_unreadable};
use crate::model::{ChannelName, DeployId};

/// How many retired trees of each channel stay warm for a rollback.
const WARM: usize = 4;
/// How long a notice to the kernel may take before whoever waits for it is answered that it is still under way. Dropping a
/// million names takes about nine seconds.
const NOTICE_WAIT: Duration = Duration::from_secs(10);
/// How long one waits behind a notice that has taken longer already.
const STUCK_WAIT: Duration = Duration::from_secs(1);

type Answer = Result<(), MountedError>;

enum Event {
    Flip(ChannelName, Root),
    Closed(ChannelName),
    Sealed(Root),
    Removed(DeployId),
}

struct Job {
    event: Event,
    answer: Sender<Answer>,
}

impl Event {
    fn describe(&self) -> String {
        match self {
            Event::Flip(channel, root) if channel.is_live() => format!("activation of {}", root.id),
            Event::Flip(channel, root) => format!("channel '{channel}' to {}", root.id),
            Event::Closed(channel) => format!("the end of channel '{channel}'"),
            Event::Sealed(root) => format!("seal of {}", root.id),
            Event::Removed(id) => format!("removal of {id}"),
        }
    }
}

/// A notice that the kernel is given.
#[derive(Debug, Clone)]
pub struct Underway {
    /// Of what.
    pub what: String,
    /// Since when, for people.
    pub since: SystemTime,
    started: Instant,
}

/// The notice that is under way, if one is.
type Current = Arc<Mutex<Option<Underway>>>;

fn current(current: &Current) -> std::sync::MutexGuard<'_, Option<Underway>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted view, told by the flow what became true. Its jobs run one after the other on a thread of its own.
pub struct View {
    fs: Arc<TreeFs>,
    jobs: Sender<Job>,
    discards: Discards,
    current: Current,
    ended: Arc<AtomicBool>,
}

impl View {
    /// Starts the thread that flips and the one that discards old trees; both end when the view is dropped.
    pub(super) fn start(
        fs: Arc<TreeFs>,
        counters: Arc<Counters>,
        notifier: Notifier,
        mountpoint: PathBuf,
        device: u64,
        ended: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (jobs, todo) = unbounded::<Job>();
        let kernel = Kernel { notifier };
        let own_mount = OwnMount::start(mountpoint.clone(), device)?;
        if let Err(error) = own_mount.sync() {
            log::warn!("a user who syncs folders of the mount may hold up others: {error}");
        }
        let discards = Discards::start(
            fs.clone(),
            kernel.clone(),
            OwnMount::start(mountpoint, device)?,
            ended.clone(),
        )?;
        let mut flipper = Flipper {
            fs: fs.clone(),
            counters,
            kernel,
            own_mount,
            warm: VecDeque::new(),
            behind: HashSet::new(),
            discards: discards.clone(),
        };
        let (flip_ended, current) = (ended.clone(), Current::default());
        let flip_current = current.clone();
        thread::Builder::new()
            .name("flip".into())
            .spawn(move || flipper.run(&todo, &flip_current, &flip_ended))?;
        Ok(View {
            fs,
            jobs,
            discards,
            current,
            ended,
        })
    }

    /// The notice that has been under way for longer than any should take.
    pub fn stuck(&self) -> Option<Underway> {
        let current = current(&self.current).clone();
        current.filter(|underway| underway.started.elapsed() > STUCK_WAIT)
    }

    fn tell(&self, event: Event) -> Answer {
        if self.ended.load(Ordering::Acquire) {
            return Err(MountedError::Gone);
        }
        let (answer, answered) = bounded(1);
        self.jobs
            .send(Job { event, answer })
            .map_err(|_| MountedError::Gone)?;
        let is_stuck = |underway: &Underway| underway.started.elapsed() > NOTICE_WAIT;
        let patience = match current(&self.current).as_ref().is_some_and(is_stuck) {
            true => STUCK_WAIT,
            false => NOTICE_WAIT,
        };
        match answered.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(MountedError::Gone),
            // The thread goes on with it, and with what comes after it, in this order.
            Err(RecvTimeoutError::Timeout) => Err(MountedError::Waiting),
        }
    }
}

impl Mounted for View {
    fn flip(&self, channel: &ChannelName, root: &Root) -> Answer {
        self.tell(Event::Flip(channel.clone(), root.clone()))
    }

    fn closed(&self, channel: &ChannelName) -> Answer {
        self.tell(Event::Closed(channel.clone()))
    }

    fn sealed(&self, root: &Root) -> Answer {
        self.tell(Event::Sealed(root.clone()))
    }

    fn held(&self, tell: &mut dyn FnMut(Held)) {
        self.fs.nodes().each(&mut |node| match node {
            ViewNode::File(file) => tell(Held::File(file.blob())),
            ViewNode::Dir(dir) if is_unreadable(&dir.tree) => {}
            ViewNode::Dir(dir) => tell(Held::Dir(dir.tree.clone())),
            ViewNode::Symlink(_) => {}
        });
    }

    fn removed(&self, id: DeployId) -> Answer {
        self.tell(Event::Removed(id))
    }

    fn reclaim(&self) {
        self.discards.reclaim();
    }
}

/// Notices to the kernel about our mount.
#[derive(Clone)]
pub(super) struct Kernel {
    notifier: Notifier,
}

impl Kernel {
    pub(super) fn drop_entry(&self, parent: u64, name: &[u8]) -> Answer {
        let name = OsStr::from_bytes(name);
        self.notifier
            .inval_entry(INodeNo(parent), name)
            .map_err(|cause| MountedError::Notify {
                what: name.display().to_string(),
                cause,
            })
    }

    fn drop_listing(&self, dir: u64) -> Answer {
        self.notifier
            .inval_inode(INodeNo(dir), 0, 0)
            .map_err(|cause| MountedError::Notify {
                what: format!("inode {dir}"),
                cause,
            })
    }

    /// Waits until every lookup in `parent` that was answered so far has reached the cache: the notice needs the
    /// directory's lock for itself. It names nothing that exists, so nothing is dropped.
    fn barrier(&self, parent: u64) -> Answer {
        self.drop_entry(parent, secret(".barrier-").as_bytes())
    }
}

/// The directory that a channel's folder is in.
fn parent_of(channel: &ChannelName) -> u64 {
    match channel.is_live() {
        true => ROOT,
        false => CHANNELS,
    }
}

/// A tree that a channel showed, now under a secret name in the kernel's cache.
struct Retired {
    channel: ChannelName,
    root: Arc<ViewRoot>,
}

struct Flipper {
    fs: Arc<TreeFs>,
    counters: Arc<Counters>,
    kernel: Kernel,
    own_mount: OwnMount,
    warm: VecDeque<Retired>,
    /// Where a notice failed: the kernel may still show an older tree there than is published.
    behind: HashSet<ChannelName>,
    discards: Discards,
}

impl Flipper {
    fn run(&mut self, todo: &Receiver<Job>, underway: &Current, ended: &AtomicBool) {
        for Job { event, answer } in todo {
            *current(underway) = Some(Underway {
                what: event.describe(),
                since: SystemTime::now(),
                started: Instant::now(),
            });
            let mut result = match event {
                Event::Flip(channel, root) => self.flip(&channel, &root),
                Event::Closed(channel) => self.closed(&channel),
                Event::Sealed(root) => self.sealed(&root),
                Event::Removed(id) => self.removed(id),
            };
            if ended.load(Ordering::Acquire) {
                result = Err(MountedError::Gone);
            }
            *current(underway) = None;
            // A caller that has gone away loses the answer, not the flip.
            answer.send(result).ok();
        }
    }

    fn flip(&mut self, channel: &ChannelName, root: &Root) -> Answer {
        let (new, old) = self.fs.publish(channel, root);
        let Some(old) = old else {
            // The first of its name. The channel that had it before may still be cached.
            self.revive(new.ino());
            let told = self.listing_changed(channel);
            return self.note(channel, told);
        };
        let is_behind = self.behind.contains(channel);
        if old.ino() == new.ino() && !is_behind {
            return Ok(());
        }
        Counters::add(&self.counters.flips);
        self.revive(new.ino());
        let parent = parent_of(channel);
        // Dropping the name takes the same lock as the barrier does, so it needs none before it.
        let told = match is_behind || self.kernel.barrier(parent).is_err() {
            true => self.drop_name(channel),
            false => self.retire(channel, old).map(|retired| {
                if let Some(retired) = retired {
                    self.keep_warm(retired);
                }
            }),
        };
        self.note(channel, told)
    }

    fn closed(&mut self, channel: &ChannelName) -> Answer {
        let Some(old) = self.fs.withdraw_channel(channel) else {
            return Ok(());
        };
        let (gone, warm): (VecDeque<_>, _) = std::mem::take(&mut self.warm)
            .into_iter()
            .partition(|retired| retired.channel == *channel);
        self.warm = warm;
        for retired in gone {
            self.discards.add(retired.root);
        }
        let parent = parent_of(channel);
        let told = match self.behind.contains(channel) || self.kernel.barrier(parent).is_err() {
            true => self.drop_name(channel),
            // Moved away first: dropping many entries by its own name would hold up every look into `channels`.
            false => self.retire(channel, old).map(|retired| {
                if let Some(retired) = retired {
                    self.discards.add(retired.root);
                }
            }),
        };
        let told = told.and_then(|()| self.listing_changed(channel));
        self.note(channel, told)
    }

    fn note(&mut self, channel: &ChannelName, told: Answer) -> Answer {
        match told.is_err() {
            true => self.behind.insert(channel.clone()),
            false => self.behind.remove(channel),
        };
        told
    }

    fn listing_changed(&self, channel: &ChannelName) -> Answer {
        let parent = parent_of(channel);
        if self.behind.contains(channel) {
            self.drop_name(channel)?;
        }
        self.kernel.barrier(parent)?;
        self.kernel.drop_listing(parent)
    }

    fn drop_name(&self, channel: &ChannelName) -> Answer {
        self.kernel
            .drop_entry(parent_of(channel), channel.as_str().as_bytes())
    }

    /// None: it could not be moved away, and its cache was dropped.
    fn retire(
        &mut self,
        channel: &ChannelName,
        old: Arc<ViewRoot>,
    ) -> Result<Option<Retired>, MountedError> {
        let name = secret(&retired_prefix(old.deploy()));
        let parent = parent_of(channel);
        let folder = match channel.is_live() {
            true => "",
            false => "channels",
        };
        let found = self.fs.secrets().expecting(parent, &name, &old, || {
            self.own_mount.look_up(folder, &name)
        });
        match found {
            Ok(ino) if ino == old.ino() => Ok(Some(Retired {
                channel: channel.clone(),
                root: old,
            })),
            other => {
                log::warn!("the old tree cannot be retired ({other:?}): its cache is dropped");
                self.drop_name(channel).map(|()| None)
            }
        }
    }

    fn keep_warm(&mut self, retired: Retired) {
        let of_channel = |other: &Retired| other.channel == retired.channel;
        let oldest = self.warm.iter().position(of_channel);
        let count = self.warm.iter().filter(|other| of_channel(other)).count();
        if let Some(oldest) = oldest
            .filter(|_| count >= WARM)
            .and_then(|at| self.warm.remove(at))
        {
            self.discards.add(oldest.root);
        }
        self.warm.push_back(retired);
    }

    /// The channel shows it again: the kernel moves the tree back.
    fn revive(&mut self, ino: u64) {
        self.warm.retain(|retired| retired.root.ino() != ino);
    }

    fn sealed(&self, root: &Root) -> Answer {
        self.fs.publish_deploy(root);
        self.kernel.barrier(DEPLOYS)?;
        self.kernel.drop_listing(DEPLOYS)
    }

    fn removed(&mut self, id: DeployId) -> Answer {
        let Some(old) = self.fs.withdraw_deploy(id) else {
            return Ok(());
        };
        let (gone, warm): (VecDeque<_>, _) = std::mem::take(&mut self.warm)
            .into_iter()
            .partition(|retired| retired.root.deploy() == Some(id));
        self.warm = warm;
        for retired in gone {
            self.discards.add(retired.root);
        }
        self.kernel.barrier(DEPLOYS)?;
        // Moved away first: all that is cached of it would be dropped with the lock of `deploys` held.
        let name = secret(&retired_prefix(Some(id)));
        let found = self.fs.secrets().expecting(DEPLOYS, &name, &old, || {
            self.own_mount.look_up("deploys", &name)
        });
        if !matches!(found, Ok(ino) if ino == old.ino()) {
            self.kernel.drop_entry(DEPLOYS, id.to_string().as_bytes())?;
        }
        self.discards.add(old);
        self.kernel.drop_listing(DEPLOYS)
    }
}
