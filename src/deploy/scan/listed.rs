//! What a walk has found, in few bytes for each file: a folder may have millions.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Stamp;

/// A whole folder: its directories, each with its files, symlinks and directories by ascending name.
#[derive(Debug, Default)]
pub struct Scan {
    /// The folder itself is the first one.
    dirs: Vec<Dir>,
    files: Vec<File>,
    links: Vec<Link>,
    names: Vec<u8>,
    devices: Vec<Device>,
    bytes: u64,
}

type Device = (u32, u32);

/// The bytes of a name, among those of its directory.
#[derive(Debug, Clone, Copy, Default)]
struct NameAt {
    at: u32,
    len: u8,
}

#[derive(Debug, Default)]
struct Dir {
    parent: u32,
    name: NameAt,
    /// `None` if it could not be read.
    stamp: Option<Stamp>,
    /// Where the names of what is in it start.
    names: usize,
    files: Range<usize>,
    links: Range<usize>,
    dirs: Range<usize>,
}

/// A regular file: its stamp, its name and its directory.
#[derive(Debug, Clone, Copy)]
struct File {
    ino: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
    mtime_part: u32,
    ctime_part: u32,
    dir: u32,
    name_at: u32,
    device: u16,
    mode: u16,
    name_len: u8,
}

#[derive(Debug)]
struct Link {
    name: NameAt,
    target: Box<[u8]>,
}

/// A regular file to be read.
#[derive(Debug)]
pub struct FileJob {
    /// Relative to the folder.
    pub path: PathBuf,
    /// As the walk saw it.
    pub stamp: Stamp,
}

/// What a directory has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The number of a regular file.
    File(usize),
    /// A symlink's target.
    Symlink(&'a [u8]),
    /// The number of a directory.
    Dir(usize),
}

/// One directory, as it was listed.
#[derive(Debug)]
pub struct Listing {
    stamp: Stamp,
    names: Vec<u8>,
    files: Vec<File>,
    links: Vec<Link>,
    dirs: Vec<NameAt>,
    devices: Vec<Device>,
}

impl Listing {
    /// A directory with nothing in it.
    pub fn new(stamp: Stamp) -> Self {
        Listing {
            stamp,
            names: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            devices: Vec::new(),
        }
    }

    fn name(&mut self, name: &[u8]) -> Option<NameAt> {
        let at = u32::try_from(self.names.len()).ok()?;
        let len = u8::try_from(name.len()).ok()?;
        self.names.extend_from_slice(name);
        Some(NameAt { at, len })
    }

    /// Adds a regular file. False where there are too many files or devices.
    pub fn add_file(&mut self, name: &[u8], stamp: &Stamp) -> bool {
        let Some(device) = number_of(&mut self.devices, stamp.dev) else {
            return false;
        };
        let Some(name) = self.name(name) else {
            return false;
        };
        self.files.push(File {
            ino: stamp.ino,
            size: stamp.size,
            mtime: stamp.mtime.0,
            ctime: stamp.ctime.0,
            mtime_part: stamp.mtime.1,
            ctime_part: stamp.ctime.1,
            dir: 0,
            name_at: name.at,
            device,
            mode: stamp.mode,
            name_len: name.len,
        });
        true
    }

    /// Adds a symlink. False where there are too many names.
    pub fn add_link(&mut self, name: &[u8], target: Box<[u8]>) -> bool {
        let name = self.name(name);
        self.links.extend(name.map(|name| Link { name, target }));
        name.is_some()
    }

    /// Adds a directory. False where there are too many names.
    pub fn add_dir(&mut self, name: &[u8]) -> bool {
        let name = self.name(name);
        self.dirs.extend(name);
        name.is_some()
    }

    /// Sorts all by name. Returns names that came more than once: something was renamed while the directory was listed.
    pub fn sort(&mut self) -> Vec<PathBuf> {
        let names = &self.names;
        let of = |name: NameAt| bytes_of(names, name);
        self.files
            .sort_unstable_by(|a, b| of(a.name()).cmp(of(b.name())));
        self.links
            .sort_unstable_by(|a, b| of(a.name).cmp(of(b.name)));
        self.dirs.sort_unstable_by(|a, b| of(*a).cmp(of(*b)));
        let files = self.files.iter().map(|file| of(file.name()));
        let links = self.links.iter().map(|link| of(link.name));
        let dirs = self.dirs.iter().map(|dir| of(*dir));
        let mut twice = Vec::new();
        let mut last: &[u8] = b"";
        let add = |name: &[u8]| PathBuf::from(OsStr::from_bytes(name));
        for (name, ()) in merge(
            files.map(|n| (n, ())),
            merge(links.map(|n| (n, ())), dirs.map(|n| (n, ()))),
        ) {
            if name == last {
                twice.push(add(name));
            }
            last = name;
        }
        twice
    }
}

fn number_of(devices: &mut Vec<Device>, device: Device) -> Option<u16> {
    let known = devices.iter().rposition(|known| *known == device);
    let number = known.unwrap_or(devices.len());
    let short = u16::try_from(number).ok()?;
    if number == devices.len() {
        devices.push(device);
    }
    Some(short)
}

fn bytes_of(names: &[u8], name: NameAt) -> &[u8] {
    &names[name.at as usize..][..usize::from(name.len)]
}

/// Both, by ascending name.
fn merge<'a, T>(
    a: impl Iterator<Item = (&'a [u8], T)>,
    b: impl Iterator<Item = (&'a [u8], T)>,
) -> impl Iterator<Item = (&'a [u8], T)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some((left, _)), Some((right, _))) if left.cmp(right) == Ordering::Greater => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

impl File {
    fn name(&self) -> NameAt {
        NameAt {
            at: self.name_at,
            len: self.name_len,
        }
    }
}

impl Scan {
    /// The folder itself, not listed yet.
    pub fn new() -> Self {
        Scan {
            dirs: vec![Dir::default()],
            ..Scan::default()
        }
    }

    /// Adds what is in a directory; the numbers of the directories in it.
    pub fn add(&mut self, dir: usize, listing: Listing) -> Range<usize> {
        let Listing {
            stamp,
            mut names,
            mut files,
            mut links,
            dirs,
            devices,
        } = listing;
        let device = |device: u16| number_of(&mut self.devices, devices[usize::from(device)]);
        let mut numbers: Vec<Option<u16>> = Vec::with_capacity(devices.len());
        let mut device = device;
        for number in 0..devices.len() {
            numbers.push(device(number as u16));
        }
        for file in &mut files {
            file.dir = dir as u32;
            // More devices than there are numbers: the file will be found to have changed.
            file.device = numbers[usize::from(file.device)].unwrap_or(u16::MAX);
            self.bytes += file.size;
        }
        let (names_at, files_at, links_at) = (self.names.len(), self.files.len(), self.links.len());
        let dirs_at = self.dirs.len();
        move_to(&mut self.names, &mut names);
        move_to(&mut self.files, &mut files);
        move_to(&mut self.links, &mut links);
        self.dirs.extend(dirs.into_iter().map(|name| Dir {
            parent: dir as u32,
            name,
            ..Dir::default()
        }));
        let below = dirs_at..self.dirs.len();
        let listed = &mut self.dirs[dir];
        listed.stamp = Some(stamp);
        listed.names = names_at;
        listed.files = files_at..self.files.len();
        listed.links = links_at..self.links.len();
        listed.dirs = below.clone();
        below
    }

    /// How many regular files there are. Those of a directory have numbers that follow one another.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// How many directories there are, the folder itself, the first one, included.
    pub fn dirs(&self) -> usize {
        self.dirs.len()
    }

    /// Bytes of all regular files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A file as the walk saw it.
    pub fn stamp(&self, file: usize) -> Stamp {
        let file = &self.files[file];
        let device = self.devices.get(usize::from(file.device)).copied();
        Stamp {
            dev: device.unwrap_or((u32::MAX, u32::MAX)),
            ino: file.ino,
            size: file.size,
            mtime: (file.mtime, file.mtime_part),
            ctime: (file.ctime, file.ctime_part),
            mode: file.mode,
        }
    }

    /// A file to be read; `None` if there are not so many.
    pub fn job(&self, file: usize) -> Option<FileJob> {
        (file < self.files.len()).then(|| FileJob {
            path: self.path(file),
            stamp: self.stamp(file),
        })
    }

    /// Bytes of a file.
    pub fn size(&self, file: usize) -> u64 {
        self.files[file].size
    }

    /// The directory that a file is in.
    pub fn dir_of(&self, file: usize) -> usize {
        self.files[file].dir as usize
    }

    /// A file's name.
    pub fn name_of(&self, file: usize) -> &[u8] {
        let file = &self.files[file];
        self.name_in(file.dir as usize, file.name())
    }

    /// A file's path, relative to the folder.
    pub fn path(&self, file: usize) -> PathBuf {
        let mut path = self.dir_path(self.dir_of(file));
        path.push(OsStr::from_bytes(self.name_of(file)));
        path
    }

    /// A directory as the walk saw it; `None` if it could not be read.
    pub fn dir_stamp(&self, dir: usize) -> Option<Stamp> {
        self.dirs[dir].stamp
    }

    /// The directory that a directory is in, and its name there; `None` for the folder itself.
    pub fn place_of(&self, dir: usize) -> Option<(usize, &[u8])> {
        let parent = self.dirs[dir].parent as usize;
        (dir > 0).then(|| (parent, self.name_in(parent, self.dirs[dir].name)))
    }

    /// A directory's path, relative to the folder.
    pub fn dir_path(&self, dir: usize) -> PathBuf {
        let mut names = Vec::new();
        let mut at = dir;
        while let Some((parent, name)) = self.place_of(at) {
            names.push(OsStr::from_bytes(name));
            at = parent;
        }
        names.into_iter().rev().collect()
    }

    /// How many names a directory has.
    pub fn len(&self, dir: usize) -> usize {
        let dir = &self.dirs[dir];
        dir.files.len() + dir.links.len() + dir.dirs.len()
    }

    /// All that is in a directory, by ascending name.
    pub fn entries(&self, dir: usize) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        let files = self.dirs[dir].files.clone();
        let files = files.map(|file| (self.name_of(file), Item::File(file)));
        let links = self
            .links(dir)
            .map(|(name, target)| (name, Item::Symlink(target)));
        let dirs = self.dirs_in(dir).map(|(name, dir)| (name, Item::Dir(dir)));
        merge(files, merge(links, dirs))
    }

    /// The symlinks in a directory and their targets, by ascending name.
    pub fn links(&self, dir: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let links = self.links[self.dirs[dir].links.clone()].iter();
        links.map(move |link| (self.name_in(dir, link.name), &*link.target))
    }

    /// The directories in a directory, by ascending name.
    pub fn dirs_in(&self, dir: usize) -> impl Iterator<Item = (&[u8], usize)> {
        let dirs = self.dirs[dir].dirs.clone();
        dirs.map(move |below| (self.name_in(dir, self.dirs[below].name), below))
    }

    /// What a directory has under this name.
    pub fn get(&self, dir: usize, name: &[u8]) -> Option<Item<'_>> {
        let Dir {
            files, links, dirs, ..
        } = &self.dirs[dir];
        let file = search(files, |file| self.name_of(file).cmp(name));
        let link = || {
            search(links, |link| {
                self.name_in(dir, self.links[link].name).cmp(name)
            })
        };
        let below = || {
            search(dirs, |below| {
                self.name_in(dir, self.dirs[below].name).cmp(name)
            })
        };
        file.map(Item::File)
            .or_else(|| link().map(|link| Item::Symlink(&self.links[link].target)))
            .or_else(|| below().map(Item::Dir))
    }

    fn name_in(&self, dir: usize, name: NameAt) -> &[u8] {
        bytes_of(&self.names[self.dirs[dir].names..], name)
    }
}

/// The number that this order finds.
fn search(numbers: &Range<usize>, order: impl Fn(usize) -> Ordering) -> Option<usize> {
    let (mut low, mut high) = (numbers.start, numbers.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match order(middle) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}

/// Without a copy where there is nothing yet.
fn move_to<T>(all: &mut Vec<T>, more: &mut Vec<T>) {
    match all.is_empty() {
        true => *all = std::mem::take(more),
        false => all.append(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ino: u64) -> Stamp {
        Stamp::from_numbers([8, ino % 2, ino, 5, 70, 7, 100, 9, 0o100_644]).unwrap()
    }

    /// A folder with `b`, `d/` and `e -> b`, and with `a` and `c` in `d/`.
    fn scan() -> Scan {
        let mut scan = Scan::new();
        let mut root = Listing::new(stamp(1));
        assert!(root.add_link(b"e", b"b".as_slice().into()));
        assert!(root.add_dir(b"d") && root.add_file(b"b", &stamp(2)));
        assert_eq!(root.sort(), Vec::<PathBuf>::new());
        let below = scan.add(0, root);
        assert_eq!(below, 1..2);
        let mut dir = Listing::new(stamp(3));
        assert!(dir.add_file(b"c", &stamp(5)) && dir.add_file(b"a", &stamp(4)));
        dir.sort();
        assert!(scan.add(1, dir).is_empty());
        scan
    }

    #[test]
    fn all_that_was_listed_is_found_by_name_and_by_number() {
        let scan = scan();
        let names = |dir| scan.entries(dir).map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(0), [b"b", b"d", b"e"]);
        assert_eq!(names(1), [b"a", b"c"]);
        assert_eq!(
            (scan.len(0), scan.len(1), scan.files(), scan.bytes()),
            (3, 2, 3, 15)
        );
        for dir in 0..2 {
            for (name, item) in scan.entries(dir) {
                assert_eq!(scan.get(dir, name), Some(item));
            }
            assert_eq!(scan.get(dir, b"x"), None);
        }
        assert_eq!(scan.get(0, b"e"), Some(Item::Symlink(b"b")));
        let paths: Vec<PathBuf> = (0..3).map(|file| scan.path(file)).collect();
        assert_eq!(paths, ["b", "d/a", "d/c"].map(PathBuf::from));
        for (file, ino) in [(0, 2), (1, 4), (2, 5)] {
            assert_eq!(scan.stamp(file), stamp(ino));
        }
        assert_eq!(scan.dir_stamp(1), Some(stamp(3)));
        assert_eq!(scan.dir_path(0), PathBuf::new());
    }

    #[test]
    fn a_name_that_comes_twice_is_named() {
        let mut listing = Listing::new(stamp(1));
        for name in [b"b", b"a", b"c"] {
            assert!(listing.add_file(name, &stamp(2)));
        }
        assert!(listing.add_dir(b"b") && listing.add_file(b"c", &stamp(2)));
        assert_eq!(listing.sort(), ["b", "c"].map(PathBuf::from));
    }

    #[test]
    fn a_file_takes_few_bytes() {
        assert!(size_of::<File>() <= 56);
    }
}
