//! A disk in memory, for tests. It keeps what was synced. Of the rest a power cut keeps what it likes: any part of any write, a
//! name without its bytes, a rename and not the one before it; a process that dies leaves all of it to be read. It fails when
//! it is told to, and shows its watcher what it holds before each of its steps.
//!
//! After a failed sync the bytes may be read on for a while, but no later sync makes them durable; by the time the store is
//! opened again the kernel has dropped them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use crate::campaign::Random;
use crate::sync::{Mutex, MutexGuard};

/// A write is torn between blocks of so many bytes. Small, as the files are.
const BLOCK: usize = 64;

/// The folders that are there, and always will be.
const FOLDERS: [&str; 5] = [".", "packs", "deploys", "cache", "index"];

/// A disk in memory.
pub struct SimDisk(Mutex<Inner>);

struct Inner {
    image: Image,
    random: Random,
    watcher: Option<Watcher>,
    fault: Option<Fault>,
    /// Operations so far, by class.
    done: [u64; 4],
    faults: u64,
    /// Files whose sync has failed.
    failed_syncs: BTreeSet<u64>,
    retried: Option<String>,
    lies: bool,
}

/// Is shown what the disk holds before each change, and in the middle of a write. Must not call the disk.
pub type Watcher = Box<dyn FnMut(&Image) + Send>;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Append, truncate, reserve.
    Write,
    /// Sync.
    Sync,
    /// Rename, remove.
    Name,
    /// Read, list.
    Read,
}

/// All classes.
pub const CLASSES: [Class; 4] = [Class::Write, Class::Sync, Class::Name, Class::Read];

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// EIO, and nothing is done.
    Io,
    /// ENOSPC, but for what space was set aside for.
    Full,
    /// Some bytes are written, then EIO.
    Short,
}

/// A failure to come.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which operations.
    pub class: Class,
    /// The first of them that fails, from 0.
    pub at: u64,
    /// How.
    pub how: Failing,
    /// All after it fail as well.
    pub lasting: bool,
}

/// All that a disk holds at one moment.
#[derive(Clone, Default)]
pub struct Image {
    files: BTreeMap<u64, File>,
    /// As programs see them.
    names: BTreeMap<String, u64>,
    /// As they are once the power is back.
    kept_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    /// Numbers files, and puts changes in order.
    next: u64,
}

#[derive(Clone, Default)]
struct File {
    seen: Arc<Vec<u8>>,
    kept: Arc<Vec<u8>>,
    changes: Vec<(u64, Change)>,
    reserved: u64,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    Cut(usize),
}

#[derive(Clone)]
struct NameChange {
    order: u64,
    gone: Option<String>,
    made: Option<(String, u64)>,
}

/// What a power cut leaves of changes that were not synced.
enum Fate {
    None,
    All,
    /// Those before this one, and a part of it.
    UpTo(u64),
    /// Each one wholly, in part or not at all.
    Any,
}

impl Fate {
    fn pick(random: &mut Random, image: &Image) -> Self {
        let changes = image.files.values().flat_map(|file| &file.changes);
        let orders = changes.map(|(order, _)| *order);
        let orders: Vec<u64> = orders
            .chain(image.name_changes.iter().map(|change| change.order))
            .collect();
        match random.below(8) {
            0 => Fate::None,
            1 => Fate::All,
            2 | 3 if !orders.is_empty() => Fate::UpTo(*random.pick(&orders)),
            _ => Fate::Any,
        }
    }

    /// Parts of a whole, 0 to 2, that are left of this change.
    fn halves(&self, order: u64, random: &mut Random) -> u64 {
        match *self {
            Fate::None => 0,
            Fate::All => 2,
            Fate::UpTo(last) => match order.cmp(&last) {
                std::cmp::Ordering::Less => 2,
                std::cmp::Ordering::Equal => 1,
                std::cmp::Ordering::Greater => 0,
            },
            Fate::Any => random.below(3),
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes: new } => write_at(bytes, *at, new),
            Change::Cut(len) => bytes.truncate(*len),
        }
    }

    /// As a power cut leaves it: the bytes up to some place, or some blocks and zeros where the others belong.
    fn tear(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let Change::Write { at, bytes: new } = self else {
            return;
        };
        if random.once_in(2) {
            let some = random.below(new.len() as u64 + 1) as usize;
            return write_at(bytes, *at, &new[..some]);
        }
        if random.once_in(2) && bytes.len() < at + new.len() {
            bytes.resize(at + new.len(), 0);
        }
        for (number, block) in new.chunks(BLOCK).enumerate() {
            if random.once_in(2) {
                write_at(bytes, at + number * BLOCK, block);
            }
        }
    }
}

fn write_at(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, file)) = &self.made {
            names.insert(name.clone(), *file);
        }
    }

    fn is_in(&self, folder: &str) -> bool {
        let name = self
            .gone
            .as_ref()
            .or(self.made.as_ref().map(|(name, _)| name));
        name.is_some_and(|name| folder_of(name) == folder)
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

impl File {
    /// What of the changes not synced is kept for good; the others never are.
    fn settle(&mut self, fate: &Fate, random: &mut Random) {
        let kept = Arc::make_mut(&mut self.kept);
        for (order, change) in self.changes.drain(..) {
            match fate.halves(order, random) {
                0 => {}
                1 => change.tear(kept, random),
                _ => change.apply(kept),
            }
        }
    }
}

impl Image {
    /// What is there when the power is back.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        let fate = Fate::pick(random, self);
        let mut after = self.clone();
        for change in after.name_changes.drain(..) {
            if fate.halves(change.order, random) > 0 {
                change.apply(&mut after.kept_names);
            }
        }
        after.names = after.kept_names.clone();
        let named: BTreeSet<u64> = after.names.values().copied().collect();
        after.files.retain(|number, _| named.contains(number));
        for file in after.files.values_mut() {
            file.settle(&fate, random);
            file.seen = file.kept.clone();
        }
        after
    }

    /// The path's bytes, as programs see them.
    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        let file = self.files.get(self.names.get(path)?)?;
        Some(&file.seen)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn rename_to(&mut self, gone: Option<&str>, made: Option<(&str, u64)>) {
        let change = NameChange {
            order: self.number(),
            gone: gone.map(str::to_owned),
            made: made.map(|(name, file)| (name.to_owned(), file)),
        };
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn find(&mut self, path: &str) -> io::Result<(u64, &mut File)> {
        let number = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let file = self.files.get_mut(&number);
        Ok((number, file.expect("a name has a file")))
    }

    fn find_or_make(&mut self, path: &str) -> &mut File {
        if !self.names.contains_key(path) {
            let number = self.number();
            self.files.insert(number, File::default());
            self.rename_to(None, Some((path, number)));
        }
        self.find(path).expect("it is there now").1
    }

    fn append(&mut self, path: &str, bytes: &[u8]) {
        self.find_or_make(path);
        let order = self.number();
        let (_, file) = self.find(path).expect("it is there now");
        let change = Change::Write {
            at: file.seen.len(),
            bytes: bytes.into(),
        };
        Arc::make_mut(&mut file.seen).extend_from_slice(bytes);
        file.changes.push((order, change));
    }

    fn truncate(&mut self, path: &str, len: usize) -> io::Result<()> {
        let order = self.number();
        let (_, file) = self.find(path)?;
        Arc::make_mut(&mut file.seen).truncate(len);
        file.changes.push((order, Change::Cut(len)));
        Ok(())
    }

    fn punch(&mut self, path: &str, at: usize, len: usize) -> io::Result<()> {
        let order = self.number();
        let (_, file) = self.find(path)?;
        let end = (at + len).min(file.seen.len());
        let bytes = vec![0; end.saturating_sub(at)];
        Arc::make_mut(&mut file.seen)[at..end].fill(0);
        let bytes = bytes.into();
        file.changes.push((order, Change::Write { at, bytes }));
        Ok(())
    }

    fn sync_folder(&mut self, folder: &str, mut keeps: impl FnMut(&NameChange) -> bool) {
        for change in std::mem::take(&mut self.name_changes) {
            if !change.is_in(folder) {
                self.name_changes.push(change);
            } else if keeps(&change) {
                change.apply(&mut self.kept_names);
            }
        }
    }
}

impl SimDisk {
    /// A disk that holds this.
    pub fn new(image: Image, random: Random) -> Self {
        SimDisk(Mutex::new(Inner {
            image,
            random,
            watcher: None,
            fault: None,
            done: [0; 4],
            faults: 0,
            failed_syncs: BTreeSet::new(),
            retried: None,
            lies: false,
        }))
    }

    /// Says of every sync that it is done, and does none: a store on it must be found to lose things.
    pub fn lie(&self) {
        self.inner().lies = true;
    }

    /// Shows the disk to this watcher from now on, or to none.
    pub fn watch(&self, watcher: Option<Watcher>) {
        self.inner().watcher = watcher;
    }

    /// Fails in this way, counted from now on; none: works again.
    pub fn fail(&self, fault: Option<Fault>) {
        let mut inner = self.inner();
        inner.fault = fault;
        inner.done = [0; 4];
    }

    /// Runs something for which it works, as if nothing had been asked of it.
    pub fn works_for<T>(&self, look: impl FnOnce() -> T) -> T {
        let (fault, done) = {
            let mut inner = self.inner();
            (inner.fault.take(), inner.done)
        };
        let answer = look();
        let mut inner = self.inner();
        (inner.fault, inner.done) = (fault, done);
        answer
    }

    /// How many operations have failed.
    pub fn faults(&self) -> u64 {
        self.inner().faults
    }

    /// Operations since [`SimDisk::fail`], in the order of [`CLASSES`].
    pub fn done(&self) -> [u64; 4] {
        self.inner().done
    }

    /// A file whose sync failed and was tried again.
    pub fn retried(&self) -> Option<String> {
        self.inner().retried.clone()
    }

    /// What it holds now, as the next process will see it.
    pub fn image(&self) -> Image {
        let mut inner = self.inner();
        inner.drop_failed();
        inner.image.clone()
    }

    /// Another process begins to use it.
    pub fn next_process(&self) {
        let mut inner = self.inner();
        inner.drop_failed();
        inner.failed_syncs.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic under this lock")
    }
}

impl Inner {
    /// What could not be synced is in the page cache no more.
    fn drop_failed(&mut self) {
        for number in &self.failed_syncs {
            if let Some(file) = self.image.files.get_mut(number)
                && file.changes.is_empty()
            {
                file.seen = file.kept.clone();
            }
        }
    }

    fn show(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            watcher(&self.image);
        }
    }

    /// How this operation fails, if it does.
    fn fault(&mut self, class: Class, path: &str) -> Option<Failing> {
        let done = &mut self.done[class as usize];
        *done += 1;
        let number = *done - 1;
        let fault = self.fault.filter(|fault| {
            fault.class == class
                && (number == fault.at || fault.lasting && number > fault.at)
                && !(fault.how == Failing::Full && self.image.has_room(path))
        })?;
        self.faults += 1;
        Some(fault.how)
    }

    fn check(&mut self, class: Class, path: &str) -> io::Result<()> {
        self.fault(class, path)
            .map_or(Ok(()), |how| Err(how.error()))
    }
}

impl Image {
    fn has_room(&self, path: &str) -> bool {
        let file = self.names.get(path).and_then(|n| self.files.get(n));
        // The records are a few hundred bytes long.
        file.is_some_and(|file| file.reserved > file.seen.len() as u64 + 1024)
    }
}

impl Failing {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Failing::Io | Failing::Short => libc::EIO,
            Failing::Full => libc::ENOSPC,
        })
    }
}

impl Disk for SimDisk {
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let some = inner.random.below(bytes.len() as u64) as usize;
        inner.show();
        if inner.watcher.is_some() && some > 0 {
            let mut torn = inner.image.clone();
            torn.append(path, &bytes[..some]);
            let whole = std::mem::replace(&mut inner.image, torn);
            inner.show();
            inner.image = whole;
        }
        match inner.fault(Class::Write, path) {
            None => inner.image.append(path, bytes),
            Some(how) => {
                if how != Failing::Io {
                    inner.image.append(path, &bytes[..some]);
                }
                return Err(how.error());
            }
        }
        Ok(())
    }

    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        inner.check(Class::Read, path)?;
        let (_, file) = inner.image.find(path)?;
        let start = file.seen.len().min(offset as usize);
        let end = file.seen.len().min(start + len);
        Ok(file.seen[start..end].to_vec())
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.show();
        if inner.lies {
            return Ok(());
        }
        let failed = inner.check(Class::Sync, path);
        if FOLDERS.contains(&path) {
            let random = &mut inner.random;
            inner
                .image
                .sync_folder(path, |_| failed.is_ok() || random.once_in(2));
            return failed;
        }
        let (number, file) = inner.image.find(path)?;
        if inner.failed_syncs.contains(&number) {
            inner.retried = Some(path.to_owned());
        }
        match failed {
            Ok(()) => file.settle(&Fate::All, &mut inner.random),
            Err(error) => {
                file.settle(&Fate::Any, &mut inner.random);
                if inner.random.once_in(2) {
                    file.seen = file.kept.clone();
                }
                inner.failed_syncs.insert(number);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_eq!(folder_of(from), folder_of(to), "one folder is to be synced");
        let mut inner = self.inner();
        inner.show();
        inner.check(Class::Name, from)?;
        let (number, _) = inner.image.find(from)?;
        inner.image.rename_to(Some(from), Some((to, number)));
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let mut inner = self.inner();
        inner.check(Class::Read, dir)?;
        let image = &inner.image;
        let here = image
            .names
            .iter()
            .filter(|(path, _)| folder_of(path) == dir);
        Ok(here
            .map(|(path, number)| {
                let name = path.rsplit('/').next().unwrap_or(path);
                (name.to_owned(), image.files[number].seen.len() as u64)
            })
            .collect())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.show();
        inner.check(Class::Name, path)?;
        inner.image.find(path)?;
        inner.image.rename_to(Some(path), None);
        Ok(())
    }

    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.show();
        inner.check(Class::Write, path)?;
        inner.image.truncate(path, len as usize)
    }

    fn punch(&self, path: &str, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.show();
        // A full disk can do it.
        if let Some(how) = inner.fault(Class::Write, path)
            && how != Failing::Full
        {
            return Err(how.error());
        }
        inner.image.punch(path, offset as usize, len as usize)
    }

    fn reserve(&self, path: &str, bytes: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.check(Class::Write, path)?;
        let file = inner.image.find_or_make(path);
        file.reserved = file.seen.len() as u64 + bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> SimDisk {
        SimDisk::new(Image::default(), Random::new(1))
    }

    /// All the ways in which a file's bytes can come out of a power cut.
    fn outcomes(disk: &SimDisk, path: &str) -> BTreeSet<Option<Vec<u8>>> {
        let image = disk.image();
        (0..200)
            .map(|seed| image.after_power_cut(&mut Random::new(seed)))
            .map(|after| after.bytes(path).map(<[u8]>::to_vec))
            .collect()
    }

    #[test]
    fn what_was_synced_with_its_name_is_kept_and_nothing_else_is_certain() {
        let disk = disk();
        disk.append("packs/a", b"one").unwrap();
        assert!(
            outcomes(&disk, "packs/a").contains(&None),
            "its name is lost"
        );
        disk.sync("packs/a").unwrap();
        assert!(
            outcomes(&disk, "packs/a").contains(&None),
            "its name is lost still"
        );
        disk.sync("packs").unwrap();
        assert_eq!(outcomes(&disk, "packs/a"), [Some(b"one".to_vec())].into());
        disk.append("packs/a", b"two").unwrap();
        disk.append("packs/a", b"three").unwrap();
        let after = outcomes(&disk, "packs/a");
        for possible in [&b"one"[..], b"onetwothree", b"one\0\0\0three", b"onetw"] {
            assert!(after.contains(&Some(possible.to_vec())), "{possible:?}");
        }
        assert!(
            after
                .iter()
                .flatten()
                .all(|bytes| bytes.starts_with(b"one"))
        );
    }

    #[test]
    fn a_rename_is_old_or_new_until_the_folder_is_synced() {
        let disk = disk();
        for (path, text) in [("deploys/x", "old"), ("deploys/x.tmp", "new")] {
            disk.append(path, text.as_bytes()).unwrap();
            disk.sync(path).unwrap();
        }
        disk.sync("deploys").unwrap();
        disk.rename("deploys/x.tmp", "deploys/x").unwrap();
        let both = [Some(b"old".to_vec()), Some(b"new".to_vec())];
        assert_eq!(outcomes(&disk, "deploys/x"), both.into());
        disk.sync("deploys").unwrap();
        assert_eq!(outcomes(&disk, "deploys/x"), [Some(b"new".to_vec())].into());
    }

    #[test]
    fn a_sync_after_a_failed_one_does_not_bring_the_bytes_back_and_is_told() {
        let mut lost = false;
        for seed in 0..50 {
            let disk = SimDisk::new(Image::default(), Random::new(seed));
            disk.append("history", &[7; 300]).unwrap();
            disk.sync(".").unwrap();
            disk.fail(Some(Fault {
                class: Class::Sync,
                at: 0,
                how: Failing::Io,
                lasting: false,
            }));
            assert!(disk.sync("history").is_err());
            disk.sync("history").unwrap();
            assert_eq!(disk.retried().as_deref(), Some("history"));
            let after = disk.image().after_power_cut(&mut Random::new(seed));
            lost |= after.bytes("history") != Some(&[7; 300]);
        }
        assert!(lost);
    }

    #[test]
    fn space_that_was_set_aside_can_be_written_on_a_full_disk() {
        let disk = disk();
        disk.append("history", b"1").unwrap();
        disk.reserve("history", 4096).unwrap();
        disk.fail(Some(Fault {
            class: Class::Write,
            at: 0,
            how: Failing::Full,
            lasting: true,
        }));
        disk.append("history", b"2").unwrap();
        let refused = disk.append("packs/a", b"3").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_watcher_sees_what_is_there_before_each_step_and_a_torn_write() {
        let disk = disk();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        disk.watch(Some(Box::new(move |image: &Image| {
            let len = image.bytes("packs/a").map(<[u8]>::len);
            notes.lock().unwrap().push(len);
        })));
        disk.append("packs/a", &[1; 100]).unwrap();
        disk.sync("packs/a").unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0], seen[2]), (None, Some(100)));
        assert!(seen[1].is_some_and(|len| len < 100), "{seen:?}");
    }
}
