//! Readers of all kinds on one mount while it flips; each read is judged by the rule of P1.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::support::timeline::{Client, Read};
use crate::support::*;

/// With caches dropped, once in so many flips.
const FLIPS_PER_DROP: usize = 50;
/// How often one directory handle is used, on average over some flips.
const USES_OF_A_HANDLE: usize = 12;

/// What one kind of client does until all is over.
type Reader<'a> = dyn Fn(&mut Watcher<'_>) + Sync + 'a;

/// A plan of flips, and how far it has come.
pub struct Load<'a> {
    site: &'a Site,
    deploys: &'a Numbered,
    /// The number of the deploy that each flip makes live.
    flips: Vec<u32>,
    asked: AtomicUsize,
    answered: AtomicUsize,
    over: AtomicBool,
    drop_caches: bool,
}

impl<'a> Load<'a> {
    /// Flip k makes deploy `flips[k]` live; flip 0 is made before anybody reads.
    pub fn new(site: &'a Site, deploys: &'a Numbered, flips: Vec<usize>) -> Self {
        Load {
            site,
            deploys,
            flips: flips.into_iter().map(|number| number as u32).collect(),
            asked: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            drop_caches: false,
        }
    }

    /// Drops the kernel's caches now and then meanwhile.
    pub fn dropping_caches(self) -> Self {
        Load {
            drop_caches: true,
            ..self
        }
    }

    /// Flips with all readers at work; fails where one of them saw what it must not see.
    pub fn run(&self) {
        self.site.flip(self.id(0));
        let nginx = Nginx::serve(&self.site.live(""));
        let readers: [(&str, &Reader); 6] = [
            ("by path", &by_path),
            ("below a handle on the root", &below_the_root),
            ("through a handle on live", &through_a_handle),
            ("listings", &by_listing),
            ("HTTP 1", &|watcher| over_http(watcher, nginx.connect())),
            ("HTTP 2", &|watcher| over_http(watcher, nginx.connect())),
        ];
        let all_ready = Barrier::new(readers.len() + 1);
        thread::scope(|scope| {
            let _over = Over(&self.over);
            let running = readers.map(|(name, reader)| {
                let mut watcher = Watcher::new(self, name);
                let all_ready = &all_ready;
                scope.spawn(move || {
                    all_ready.wait();
                    reader(&mut watcher);
                    (name, watcher.during_a_flip)
                })
            });
            all_ready.wait();
            self.flip_all();
            self.over.store(true, Ordering::SeqCst);
            for reader in running {
                // A reader that saw what it must not has said so.
                let (name, during_a_flip) = reader.join().expect("a reader");
                assert!(during_a_flip > 0, "{name}: no read met a flip");
            }
        });
    }

    fn flip_all(&self) {
        thread::scope(|scope| {
            let mut dropping = None;
            for flip in 1..self.flips.len() {
                if self.drop_caches && flip % FLIPS_PER_DROP == 1 {
                    // Beside the flips to come, but never two at once.
                    let before = dropping.replace(scope.spawn(drop_caches));
                    before.into_iter().for_each(|thread| thread.join().unwrap());
                }
                self.flip(flip);
            }
        });
    }

    /// Makes this flip, which must be the next one.
    pub fn flip(&self, flip: usize) {
        self.asked.store(flip, Ordering::SeqCst);
        self.site.flip(self.id(flip));
        self.answered.store(flip, Ordering::SeqCst);
    }

    /// The deploys in the order in which the flips make them live.
    pub fn flips(&self) -> &[u32] {
        &self.flips
    }

    /// The last flip that has been answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// The last flip that has been asked for.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn id(&self, flip: usize) -> &str {
        &self.deploys.ids[self.flips[flip] as usize]
    }
}

/// One client: what it reads and when.
struct Watcher<'a> {
    load: &'a Load<'a>,
    name: &'a str,
    client: Client,
    during_a_flip: usize,
}

impl<'a> Watcher<'a> {
    fn new(load: &'a Load<'a>, name: &'a str) -> Self {
        Watcher {
            load,
            name,
            client: Client::default(),
            during_a_flip: 0,
        }
    }

    fn goes_on(&self) -> bool {
        !self.load.over.load(Ordering::SeqCst)
    }

    fn began(&self) -> usize {
        self.load.answered()
    }

    fn ended(&self) -> usize {
        self.load.asked()
    }

    /// Reads one file from its first byte to its last.
    fn read(&mut self, path: &str, read: impl FnOnce() -> Vec<u8>) {
        let began = self.began();
        let bytes = read();
        let ended = self.ended();
        if let Some(number) = self.load.deploys.number_of(path, &bytes) {
            let seen = vec![number];
            self.judge(Read { began, ended, seen });
        }
    }

    fn judge(&mut self, read: Read) {
        let flips = &self.load.flips;
        self.during_a_flip += usize::from(read.began < read.ended);
        if let Err(violation) = self.client.check(flips, &read) {
            let meanwhile = &flips[read.began..=read.ended];
            panic!(
                "{}: {violation:?}: {read:?}, live meanwhile: {meanwhile:?}, the client was at {:?}",
                self.name, self.client
            );
        }
    }
}

/// Every file by its absolute path, as a script does.
fn by_path(watcher: &mut Watcher<'_>) {
    while watcher.goes_on() {
        for path in TELLING.into_iter().chain([SAME]) {
            let full = watcher.load.site.live(path);
            watcher.read(path, || fs::read(&full).unwrap());
        }
    }
}

/// Every file by a path below a handle on the mount's root that is kept all the time.
fn below_the_root(watcher: &mut Watcher<'_>) {
    let site = watcher.load.site;
    let root = open(CWD, text(&site.mnt), OFlags::PATH);
    while watcher.goes_on() {
        for path in TELLING.into_iter().chain([SAME]) {
            let full = site.live(path);
            let below = full.strip_prefix(&site.mnt).unwrap();
            watcher.read(path, || read_file(&root, text(below)));
        }
    }
}

/// All files through one handle on `live`, again and again over some flips: one deploy, whole, that was live when the
/// handle was opened.
fn through_a_handle(watcher: &mut Watcher<'_>) {
    let deploys = watcher.load.deploys;
    let live = watcher.load.site.live("");
    while watcher.goes_on() {
        let began = watcher.began();
        let handle = open(CWD, text(&live), OFlags::DIRECTORY);
        let ended = watcher.ended();
        let mut seen = Vec::new();
        for _ in 0..USES_OF_A_HANDLE {
            for path in TELLING.into_iter().chain([SAME]) {
                seen.extend(deploys.number_of(path, &read_file(&handle, path)));
            }
            let number = deploys.number_listed(names(&open(&handle, MARKS, OFlags::DIRECTORY)));
            seen.push(number);
            assert!(exists(&handle, &format!("{MARKS}/{}", mark(number))));
            assert!(!exists(&handle, &format!("{MARKS}/{}", mark(number + 1))));
        }
        watcher.judge(Read { began, ended, seen });
    }
}

/// The listing of a folder, by its path.
fn by_listing(watcher: &mut Watcher<'_>) {
    let marks = watcher.load.site.live(MARKS);
    while watcher.goes_on() {
        let began = watcher.began();
        let names = names(&open(CWD, text(&marks), OFlags::DIRECTORY));
        let ended = watcher.ended();
        let seen = vec![watcher.load.deploys.number_listed(names)];
        watcher.judge(Read { began, ended, seen });
    }
}

/// Requests over one connection.
fn over_http(watcher: &mut Watcher<'_>, mut http: Http) {
    while watcher.goes_on() {
        for path in TELLING.into_iter().chain([SAME]) {
            watcher.read(path, || {
                let response = http.get(&format!("/{path}"));
                assert_eq!(response.status, 200, "{path}");
                response.body
            });
        }
    }
}

fn open(dir: impl AsFd, path: &str, flags: OFlags) -> OwnedFd {
    openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn read_file(dir: impl AsFd, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = File::from(open(dir, path, OFlags::RDONLY));
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn exists(dir: impl AsFd, path: &str) -> bool {
    match openat(dir, path, OFlags::PATH, Mode::empty()) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(error) => panic!("{path}: {error}"),
    }
}

fn names(dir: &OwnedFd) -> Vec<String> {
    let dots: [&CStr; 2] = [c".", c".."];
    Dir::read_from(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| !dots.contains(&entry.file_name()))
        .map(|entry| entry.file_name().to_str().unwrap().to_owned())
        .collect()
}
