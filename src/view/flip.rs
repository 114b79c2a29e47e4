//! The flip: telling the kernel what became true, in the order that lets no path walk see the past.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use fuser::{INodeNo, Notifier};

use super::counters::Counters;
use super::nodes::{CHANNELS, DEPLOYS, ROOT, ViewNode};
use super::own_mount::OwnMount;
use super::tree_fs::{TreeFs, ViewRoot};
use crate::deploy::mounted::{Held, Mounted, MountedError, Root};
use crate::model::name::RETIRED_PREFIX;
use crate::model::{ChannelName, DeployId, Node, SealedTree};

/// How many retired trees of each channel stay warm for a rollback.
const WARM: usize = 4;

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

/// A mounted view, told by the flow what became true. Its jobs run one after the other on a thread of its own.
pub struct View {
    fs: Arc<TreeFs>,
    jobs: Sender<Job>,
    ended: Arc<AtomicBool>,
}

impl View {
    /// Starts the thread that flips and the one that drops old trees; both end when the view is dropped.
    pub(super) fn start(
        fs: Arc<TreeFs>,
        counters: Arc<Counters>,
        notifier: Notifier,
        mountpoint: PathBuf,
        device: u64,
        ended: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (jobs, todo) = unbounded::<Job>();
        let (old, to_drop) = unbounded::<Arc<Retired>>();
        let kernel = Kernel { notifier };
        let own_mount = OwnMount::start(mountpoint, device)?;
        let dropper = Dropper {
            fs: fs.clone(),
            kernel: kernel.clone(),
            ended: ended.clone(),
        };
        thread::Builder::new()
            .name("drop-retired".into())
            .spawn(move || dropper.run(&to_drop))?;
        let mut flipper = Flipper {
            fs: fs.clone(),
            counters,
            kernel,
            own_mount,
            warm: VecDeque::new(),
            dropping: Vec::new(),
            behind: HashSet::new(),
            old,
        };
        let flip_ended = ended.clone();
        thread::Builder::new()
            .name("flip".into())
            .spawn(move || flipper.run(&todo, &flip_ended))?;
        Ok(View { fs, jobs, ended })
    }

    fn tell(&self, event: Event) -> Answer {
        if self.ended.load(Ordering::Acquire) {
            return Err(MountedError::Gone);
        }
        let (answer, answered) = bounded(1);
        self.jobs
            .send(Job { event, answer })
            .map_err(|_| MountedError::Gone)?;
        answered.recv().unwrap_or(Err(MountedError::Gone))
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
            ViewNode::Dir(dir) => tell(Held::Dir(dir.tree.clone())),
            ViewNode::Symlink(_) => {}
        });
    }

    fn removed(&self, id: DeployId) -> Answer {
        self.tell(Event::Removed(id))
    }
}

/// Notices to the kernel about our mount.
#[derive(Clone)]
struct Kernel {
    notifier: Notifier,
}

impl Kernel {
    fn drop_entry(&self, parent: u64, name: &[u8]) -> Answer {
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
    name: String,
    root: Arc<ViewRoot>,
    /// Set when the channel shows its deploy again: the kernel moves the tree back, so it must stay.
    revived: AtomicBool,
}

struct Flipper {
    fs: Arc<TreeFs>,
    counters: Arc<Counters>,
    kernel: Kernel,
    own_mount: OwnMount,
    warm: VecDeque<Arc<Retired>>,
    /// Handed to the dropper, perhaps not done yet.
    dropping: Vec<Weak<Retired>>,
    /// Where a notice failed: the kernel may still show an older tree there than is published.
    behind: HashSet<ChannelName>,
    old: Sender<Arc<Retired>>,
}

impl Flipper {
    fn run(&mut self, todo: &Receiver<Job>, ended: &AtomicBool) {
        for Job { event, answer } in todo {
            let mut result = match event {
                Event::Flip(channel, root) => self.flip(&channel, &root),
                Event::Closed(channel) => self.closed(&channel),
                Event::Sealed(root) => self.sealed(&root),
                Event::Removed(id) => self.removed(id),
            };
            if ended.load(Ordering::Acquire) {
                result = Err(MountedError::Gone);
            }
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
            self.hand_to_dropper(retired);
        }
        let parent = parent_of(channel);
        let told = match self.behind.contains(channel) || self.kernel.barrier(parent).is_err() {
            true => self.drop_name(channel),
            // Moved away first: dropping many entries by its own name would hold up every look into `channels`.
            false => self.retire(channel, old).map(|retired| {
                if let Some(retired) = retired {
                    self.hand_to_dropper(retired);
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
    ) -> Result<Option<Arc<Retired>>, MountedError> {
        let name = secret(RETIRED_PREFIX);
        let parent = parent_of(channel);
        let folder = match channel.is_live() {
            true => "",
            false => "channels",
        };
        let found = self.fs.expecting(parent, &name, &old, || {
            self.own_mount.look_up(folder, &name)
        });
        match found {
            Ok(ino) if ino == old.ino() => Ok(Some(Arc::new(Retired {
                channel: channel.clone(),
                name,
                root: old,
                revived: AtomicBool::new(false),
            }))),
            other => {
                log::warn!("the old tree cannot be retired ({other:?}): its cache is dropped");
                self.drop_name(channel).map(|()| None)
            }
        }
    }

    fn keep_warm(&mut self, retired: Arc<Retired>) {
        let of_channel = |other: &Arc<Retired>| other.channel == retired.channel;
        let oldest = self.warm.iter().position(of_channel);
        let count = self.warm.iter().filter(|other| of_channel(other)).count();
        if let Some(oldest) = oldest
            .filter(|_| count >= WARM)
            .and_then(|at| self.warm.remove(at))
        {
            self.hand_to_dropper(oldest);
        }
        self.warm.push_back(retired);
    }

    fn hand_to_dropper(&mut self, retired: Arc<Retired>) {
        self.dropping.retain(|dropping| dropping.strong_count() > 0);
        self.dropping.push(Arc::downgrade(&retired));
        // The dropper ends before this thread only if it panicked; then old trees merely stay cached.
        self.old.send(retired).ok();
    }

    fn revive(&mut self, ino: u64) {
        self.warm.retain(|retired| retired.root.ino() != ino);
        for dropping in self.dropping.iter().filter_map(Weak::upgrade) {
            if dropping.root.ino() == ino {
                dropping.revived.store(true, Ordering::Release);
            }
        }
    }

    fn sealed(&self, root: &Root) -> Answer {
        self.fs.publish_deploy(root);
        self.kernel.barrier(DEPLOYS)?;
        self.kernel.drop_listing(DEPLOYS)
    }

    fn removed(&mut self, id: DeployId) -> Answer {
        self.fs.withdraw_deploy(id);
        let (gone, warm): (VecDeque<_>, _) = std::mem::take(&mut self.warm)
            .into_iter()
            .partition(|retired| retired.root.deploy() == Some(id));
        self.warm = warm;
        for retired in gone {
            self.hand_to_dropper(retired);
        }
        self.kernel.barrier(DEPLOYS)?;
        self.kernel.drop_entry(DEPLOYS, id.to_string().as_bytes())?;
        self.kernel.drop_listing(DEPLOYS)
    }
}

/// Drops old retired trees from the kernel's cache child by child from below, so that no lock is held for long.
struct Dropper {
    fs: Arc<TreeFs>,
    kernel: Kernel,
    ended: Arc<AtomicBool>,
}

impl Dropper {
    fn run(&self, to_drop: &Receiver<Arc<Retired>>) {
        for retired in to_drop {
            if self.drop_below(&retired).is_none() {
                continue;
            }
            if let Err(error) = self
                .kernel
                .drop_entry(parent_of(&retired.channel), retired.name.as_bytes())
            {
                log::warn!("an old tree stays cached: {error}");
            }
        }
    }

    /// None if the tree is live again or the mount has ended.
    fn drop_below(&self, retired: &Retired) -> Option<()> {
        for (ino, tree) in self.held_below(&retired.root).into_iter().rev() {
            for name in tree.names() {
                let stop = retired.revived.load(Ordering::Acquire);
                if stop || self.ended.load(Ordering::Acquire) {
                    return None;
                }
                self.kernel.drop_entry(ino, name).ok()?;
            }
        }
        (!retired.revived.load(Ordering::Acquire)).then_some(())
    }

    /// The directories of the tree that the kernel holds, each after the one above it.
    fn held_below(&self, root: &ViewRoot) -> Vec<(u64, Arc<SealedTree>)> {
        let Some(dir) = root.dir() else {
            return Vec::new();
        };
        let mut held = Vec::new();
        let mut todo = VecDeque::from([(root.ino(), dir.key, dir.tree.clone())]);
        while let Some((ino, key, blob)) = todo.pop_front() {
            // Without its tree (a removed deploy) the entries go all at once with the directory above.
            let Ok(tree) = self.fs.tree(&blob) else {
                continue;
            };
            for entry in tree.entries_from(0) {
                if let Node::Dir { tree, .. } = &entry.node {
                    let key = key.child(entry.name.as_bytes());
                    if let Some(ino) = self.fs.nodes().held_dir(&key) {
                        todo.push_back((ino, key, tree.clone()));
                    }
                }
            }
            held.push((ino, tree));
        }
        held
    }
}

/// `prefix` and 128 random bits.
fn secret(prefix: &str) -> String {
    let mut bits = [0; 16];
    // Before the kernel has its first entropy this waits; it does not fail with a buffer of this size.
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).ok();
    format!("{prefix}{:032x}", u128::from_le_bytes(bits))
}
