//! Native speed: what has been read once is never asked of the daemon again, nor is what a flip has not changed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::*;

/// One file in so many differs between two deploys.
const CHANGED_EVERY: usize = 100;
/// What a pass may ask after a rollback to a deploy that was hot: `live` itself, and a margin.
const AFTER_ROLLBACK: u64 = 10;
/// How often a step is tried. The kernel may drop clean pages at any moment, and some kernels do so every few seconds;
/// then the next try finds them warm. What is not kept as it should be is asked for at every try.
const TRIES: usize = 20;

/// The number of files of the site.
fn files() -> usize {
    count("DEPLOYFS_TEST_WARM_FILES", 10_000)
}

#[test]
fn p9_a_second_pass_over_10_000_files_asks_the_daemon_nothing() {
    let mut pages = Pages::new();
    let first = pages.seal_next();
    let _kept = keep_caches();
    pages.site.flip(&first);
    let asked = pages.site.upcalls_during(|| pages.pass());
    assert!(asked > files() as u64, "a first pass asks: {asked}");
    assert_eq!(pages.names_asked_during(|| pages.pass()), 0);
    for (what, step) in STEPS {
        asks_at_most(0, what, || {
            step(&pages);
            pages.site.upcalls_during(|| step(&pages))
        });
    }
}

#[test]
fn p9_after_a_flip_files_that_are_unchanged_are_not_read_again() {
    let mut pages = Pages::new();
    let first = pages.seal_next();
    let _kept = keep_caches();
    pages.site.flip(&first);
    for (what, step) in [("read", read as fn(&Page)), ("mmap", map)] {
        // Each time a deploy that the kernel has never seen.
        asks_at_most(0, what, || {
            let next = pages.seal_next();
            pages.paths.iter().filter(unchanged).for_each(step);
            pages.site.flip(&next);
            let before = pages.site.upcalls();
            pages.paths.iter().filter(unchanged).for_each(step);
            let after = pages.site.upcalls();
            assert!(
                after["lookup"] > before["lookup"] + files() as u64 * 8 / 10,
                "a new tree"
            );
            pages.paths.iter().for_each(step);
            let changed_too = pages.site.upcalls()["read"];
            assert!(changed_too >= after["read"] + (files() / CHANGED_EVERY) as u64);
            after["read"] - before["read"]
        });
    }
}

#[test]
fn p9_after_a_rollback_to_a_hot_deploy_a_whole_pass_asks_next_to_nothing() {
    asks_next_to_nothing_after_a_flip_back(Pages::new());
}

#[test]
fn p9_a_channel_that_shows_a_hot_deploy_again_asks_next_to_nothing() {
    asks_next_to_nothing_after_a_flip_back(Pages::on("preview"));
}

fn asks_next_to_nothing_after_a_flip_back(mut pages: Pages) {
    let both = [pages.seal_next(), pages.seal_next()];
    let _kept = keep_caches();
    for id in &both {
        pages.site.flip(id);
        pages.pass();
    }
    let site = &pages.site;
    for [back_to, from] in [[&both[0], &both[1]], [&both[1], &both[0]]] {
        // A busy machine reclaims names: one of some tries is undisturbed.
        asks_at_most(AFTER_ROLLBACK, "names after a rollback", || {
            site.flip(from);
            pages.names_asked_during(|| {
                site.flip(back_to);
                pages.pass();
            })
        });
        for (what, step) in STEPS {
            asks_at_most(AFTER_ROLLBACK, what, || {
                site.flip(back_to);
                step(&pages);
                site.flip(from);
                site.upcalls_during(|| {
                    site.flip(back_to);
                    step(&pages);
                })
            });
        }
    }
}

#[test]
fn p9_a_warm_request_to_a_web_server_asks_the_daemon_nothing() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 2);
    let _kept = keep_caches();
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    let mut get_all = |number: usize| {
        for path in TELLING {
            let body = http.get(&format!("/{path}")).body;
            assert_eq!(deploys.number_of(path, &body), Some(number as u32));
        }
        assert_eq!(http.get("/nothing").status, 404);
    };
    for (number, id) in deploys.ids.iter().enumerate() {
        site.flip(id);
        asks_at_most(0, "100 requests for each file", || {
            get_all(number);
            site.upcalls_during(|| (0..100).for_each(|_| get_all(number)))
        });
    }
    asks_at_most(AFTER_ROLLBACK, "the same after a rollback", || {
        site.flip(&deploys.ids[0]);
        get_all(0);
        site.flip(&deploys.ids[1]);
        site.upcalls_during(|| {
            site.flip(&deploys.ids[0]);
            (0..100).for_each(|_| get_all(0));
        })
    });
}

/// One of some tries makes so few upcalls.
fn asks_at_most(upcalls: u64, what: &str, mut one_try: impl FnMut() -> u64) {
    let mut asked = Vec::new();
    while asked.last().is_none_or(|last| *last > upcalls) {
        assert!(
            asked.len() < TRIES,
            "{what}: upcalls at each try: {asked:?}"
        );
        asked.push(one_try());
    }
}

/// Goes over the whole site in one way.
type Step = fn(&Pages);

/// What a web site's visitors and its maintainers do, one after the other.
const STEPS: [(&str, Step); 8] = [
    ("stat", |pages| pages.paths.iter().for_each(stat)),
    ("open and read", |pages| pages.paths.iter().for_each(read)),
    ("sendfile", Pages::send_all),
    ("mmap", |pages| pages.paths.iter().for_each(map)),
    ("readdir", Pages::list_all),
    ("readlink", Pages::read_links),
    ("missing names", Pages::look_for_missing),
    ("access", |pages| pages.paths.iter().for_each(access)),
];

/// A file of the site in `live`, and what is known of it.
struct Page {
    index: usize,
    path: PathBuf,
    size: usize,
}

/// A site of 10,000 files that is sealed again and again, each time with 1 % of the files changed.
struct Pages {
    site: Site,
    source: PathBuf,
    seals: usize,
    paths: Vec<Page>,
    dirs: Vec<PathBuf>,
}

impl Pages {
    fn new() -> Self {
        Self::on("live")
    }

    /// The site as this channel shows it.
    fn on(channel: &'static str) -> Self {
        let mut site = Site::new();
        site.channel = channel;
        let source = site.beside("source");
        let live = site.live("");
        let mut dirs: Vec<PathBuf> = Vec::new();
        let mut paths = Vec::new();
        for index in 0..files() {
            let dir = dir_of(index);
            if dirs.last() != Some(&live.join(&dir)) {
                fs::create_dir_all(source.join(&dir)).unwrap();
                symlink("page-link-target", source.join(&dir).join("link")).unwrap();
                dirs.push(live.join(&dir));
            }
            let name = dir.join(format!("page{index}.html"));
            let size = size_of(index);
            fs::write(source.join(&name), noise(index as u64, size)).unwrap();
            let path = live.join(&name);
            paths.push(Page { index, path, size });
        }
        Pages {
            site,
            source,
            seals: 0,
            paths,
            dirs,
        }
    }

    /// The id of a deploy of which 1 % of the files are like in no other.
    fn seal_next(&mut self) -> String {
        self.seals += 1;
        let live = self.site.live("");
        for page in self.paths.iter().filter(|page| !unchanged(page)) {
            let path = self.source.join(page.path.strip_prefix(&live).unwrap());
            let seed = files() * self.seals + page.index;
            fs::write(path, noise(seed as u64, page.size)).unwrap();
        }
        self.site.deploy(&self.source)
    }

    /// Upcalls but those for bytes, listings and targets: the kernel keeps those in pages, which it may drop.
    fn names_asked_during(&self, work: impl FnOnce()) -> u64 {
        let names = || {
            let upcalls = self.site.upcalls();
            let in_pages = ["read", "readdir", "readlink"].map(|kind| upcalls[kind]);
            upcalls["total"] - in_pages.iter().sum::<u64>()
        };
        let before = names();
        work();
        names() - before
    }

    fn pass(&self) {
        for (_, step) in STEPS {
            step(self);
        }
    }

    fn send_all(&self) {
        let (to, mut from) = UnixStream::pair().unwrap();
        let received = thread::spawn(move || io::copy(&mut from, &mut io::sink()).unwrap());
        for page in &self.paths {
            let file = File::open(&page.path).unwrap();
            let mut offset = 0;
            while offset < page.size as u64 {
                rustix::fs::sendfile(&to, &file, Some(&mut offset), page.size).unwrap();
            }
        }
        drop(to);
        let sizes = self.paths.iter().map(|page| page.size as u64);
        assert_eq!(received.join().unwrap(), sizes.sum::<u64>());
    }

    fn list_all(&self) {
        let listed = self.dirs.iter().map(|dir| names(dir).len());
        assert_eq!(listed.sum::<usize>(), files() + self.dirs.len());
    }

    fn read_links(&self) {
        for dir in &self.dirs {
            let target = fs::read_link(dir.join("link")).unwrap();
            assert_eq!(target, Path::new("page-link-target"));
        }
    }

    fn look_for_missing(&self) {
        for dir in &self.dirs {
            for name in ["favicon.ico", "missing/page.html"] {
                let error = fs::metadata(dir.join(name)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
            }
        }
    }
}

/// Two folders of 1,000 files, and 100 of 80 two levels down.
fn dir_of(index: usize) -> PathBuf {
    match index {
        0..2000 => format!("large{}", index / 1000),
        _ => format!("section{}/part{}", index / 800, index / 80 % 10),
    }
    .into()
}

fn size_of(index: usize) -> usize {
    match index % 500 {
        499 => 300_000,
        rest => [0, 1, 300, 1000, 2000, 3000, 4096, 5000, 8000, 15_000][rest % 10],
    }
}

fn unchanged(page: &&Page) -> bool {
    page.index % CHANGED_EVERY != CHANGED_EVERY - 1
}

fn stat(page: &Page) {
    let meta = fs::metadata(&page.path).unwrap();
    assert_eq!(meta.len(), page.size as u64);
}

fn read(page: &Page) {
    assert_eq!(fs::read(&page.path).unwrap().len(), page.size);
}

fn map(page: &Page) {
    if page.size > 0 {
        let mapped = Mapped::of(&File::open(&page.path).unwrap());
        let sum: u64 = mapped.bytes().iter().map(|byte| u64::from(*byte)).sum();
        assert!(sum > 0 || page.size == 1, "noise is not all zero");
    }
}

fn access(page: &Page) {
    rustix::fs::access(&page.path, rustix::fs::Access::READ_OK).unwrap();
}
