//! Trees that nobody is shown any more, dropped from the kernel's cache in the background.
//!
//! Dropping a name takes its folder's lock for itself alone, and drops all that is cached below the name with that lock held. A
//! stranger who lists a folder of the site may hold its lock for ever; the lock of the mount's root, held for long, would hold
//! up flips and visitors. So the tree is first moved, by a look-up as a flip makes it, into a hidden folder that nobody else can
//! reach, and its name is dropped there: no lock is taken but that folder's.
//!
//! What of the tree is open stays. It is tried again with the next tree, and before each gc.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::flip::Kernel;
use super::nodes::DISCARDED;
use super::open_files::retired_prefix;
use super::own_mount::OwnMount;
use super::tree_fs::{TreeFs, ViewRoot};
use crate::model::name::RETIRED_PREFIX;

/// How soon a tree is tried again that another look-up kept from being moved.
const RETRY: Duration = Duration::from_millis(50);
/// How long the kernel's word may take that it holds a dropped tree no more.
const FORGET_WAIT: Duration = Duration::from_millis(300);
const FORGET_LOOK: Duration = Duration::from_millis(2);
/// How long [`Discards::reclaim`] waits for the thread.
const RECLAIM_WAIT: Duration = Duration::from_secs(5);

/// A retired tree, the folder it is looked for in, and the secret name that answers it.
type Expected = HashMap<(u64, Vec<u8>), Arc<ViewRoot>>;

/// Names that the daemon alone knows, and the numbers of trees on their way out of the cache.
pub(super) struct Secrets {
    folder: String,
    expected: RwLock<Expected>,
    leaving: RwLock<HashSet<u64>>,
}

impl Default for Secrets {
    fn default() -> Self {
        Secrets {
            folder: secret(RETIRED_PREFIX),
            expected: RwLock::default(),
            leaving: RwLock::default(),
        }
    }
}

impl Secrets {
    /// The name of the hidden folder, in the mount's root.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The tree that this name in this directory stands for now.
    pub fn find(&self, parent: u64, name: &[u8]) -> Option<Arc<ViewRoot>> {
        let expected = self.expected.read().unwrap_or_else(PoisonError::into_inner);
        expected.get(&(parent, name.to_vec())).cloned()
    }

    /// While `during` runs, the directory `parent` answers the secret `name` with `root`.
    pub fn expecting<T>(
        &self,
        parent: u64,
        name: &str,
        root: &Arc<ViewRoot>,
        during: impl FnOnce() -> T,
    ) -> T {
        let key = (parent, name.as_bytes().to_vec());
        let change = || {
            self.expected
                .write()
                .unwrap_or_else(PoisonError::into_inner)
        };
        change().insert(key.clone(), root.clone());
        let answer = during();
        change().remove(&key);
        answer
    }

    /// True for the root of a tree on its way out: its number is given to nothing that is shown anew.
    pub fn is_leaving(&self, ino: u64) -> bool {
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner);
        leaving.contains(&ino)
    }

    fn leaves(&self, ino: u64) {
        let mut leaving = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        leaving.insert(ino);
    }

    fn has_left(&self, ino: u64) {
        let mut leaving = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        leaving.remove(&ino);
    }
}

/// `prefix` and 128 random bits.
pub(super) fn secret(prefix: &str) -> String {
    let mut bits = [0; 16];
    // Before the kernel has its first entropy this waits; it does not fail with a buffer of this size.
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).ok();
    format!("{prefix}{:032x}", u128::from_le_bytes(bits))
}

pub(super) enum Discard {
    Tree(Arc<ViewRoot>),
    /// Everything that can go is to go now; then this is dropped.
    Reclaim(Sender<()>),
}

/// The way to the thread that discards.
#[derive(Clone)]
pub(super) struct Discards {
    fs: Arc<TreeFs>,
    queue: Sender<Discard>,
}

impl Discards {
    /// Starts the thread; it ends when the last of these is dropped.
    pub fn start(
        fs: Arc<TreeFs>,
        kernel: Kernel,
        own_mount: OwnMount,
        ended: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let (queue, todo) = crossbeam_channel::unbounded();
        let mut discarder = Discarder {
            fs: fs.clone(),
            kernel,
            own_mount,
            ended,
            lingering: Vec::new(),
        };
        thread::Builder::new()
            .name("discard".into())
            .spawn(move || discarder.run(&todo))?;
        Ok(Discards { fs, queue })
    }

    /// Nobody is shown this tree any more.
    pub fn add(&self, root: Arc<ViewRoot>) {
        self.fs.secrets().leaves(root.ino());
        // The thread ends before this only if it panicked; then old trees merely stay cached.
        self.queue.send(Discard::Tree(root)).ok();
    }

    /// Returns once the kernel holds no more of discarded trees than what is open, or after [`RECLAIM_WAIT`].
    pub fn reclaim(&self) {
        let (done, is_done) = bounded(0);
        if self.queue.send(Discard::Reclaim(done)).is_ok() {
            // Nothing is ever sent: it is dropped at the end.
            is_done.recv_timeout(RECLAIM_WAIT).ok();
        }
    }
}

struct Discarder {
    fs: Arc<TreeFs>,
    kernel: Kernel,
    own_mount: OwnMount,
    ended: Arc<AtomicBool>,
    /// Trees of which something is open, or that could not be moved yet.
    lingering: Vec<Arc<ViewRoot>>,
}

impl Discarder {
    fn run(&mut self, todo: &Receiver<Discard>) {
        let mut blocked = false;
        loop {
            let next = match blocked {
                true => todo.recv_timeout(RETRY),
                false => todo.recv().map_err(RecvTimeoutError::from),
            };
            let mut asked = None;
            match next {
                Ok(Discard::Tree(root)) => self.lingering.push(root),
                Ok(Discard::Reclaim(done)) => asked = Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            blocked = self.pass();
            drop(asked);
        }
    }

    /// Tries each tree once; true: one could not be moved.
    fn pass(&mut self) -> bool {
        let mut blocked = false;
        for root in &self.lingering {
            if self.ended.load(Ordering::Acquire) {
                return false;
            }
            blocked |= self.is_held(root) && !self.drop_tree(root);
        }
        let started = Instant::now();
        while self.lingering.iter().any(|root| self.is_held(root))
            && started.elapsed() < FORGET_WAIT
        {
            thread::sleep(FORGET_LOOK);
        }
        let (held, gone) = std::mem::take(&mut self.lingering)
            .into_iter()
            .partition(|root| self.is_held(root));
        self.lingering = held;
        let gone: Vec<Arc<ViewRoot>> = gone;
        for root in gone {
            self.fs.secrets().has_left(root.ino());
        }
        blocked
    }

    /// True while the kernel holds the tree's root, and so perhaps something below it.
    fn is_held(&self, root: &ViewRoot) -> bool {
        self.fs.nodes().holds(root.ino()) > 1
    }

    /// False: it could not be moved, since somebody looks for a name beside it at this very moment.
    fn drop_tree(&self, root: &Arc<ViewRoot>) -> bool {
        let name = secret(&retired_prefix(root.deploy()));
        let folder = self.fs.secrets().folder();
        let moved = self.fs.secrets().expecting(DISCARDED, &name, root, || {
            self.own_mount.look_up(folder, &name)
        });
        match moved {
            Ok(ino) if ino == root.ino() => {}
            other => {
                log::debug!("an old tree cannot be moved yet: {other:?}");
                return false;
            }
        }
        if let Err(error) = self.kernel.drop_entry(DISCARDED, name.as_bytes()) {
            log::warn!("an old tree stays cached: {error}");
        }
        true
    }
}
