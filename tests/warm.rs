//! Native speed: what has been read once is never asked of the daemon again, nor is what a flip has not changed.

use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::*;

const FILES: usize = 10_000;
/// One file in so many differs between the two deploys.
const CHANGED_EVERY: usize = 100;
/// What a pass may ask after a rollback to a deploy that was hot: `live` itself, and a margin.
const AFTER_ROLLBACK: u64 = 10;

#[test]
fn p9_a_second_pass_over_10_000_files_asks_the_daemon_nothing() {
    let pair = Pair::sealed();
    let _kept = keep_caches();
    pair.site.flip(&pair.first);
    let asked = pair.site.upcalls_during(|| pair.pass());
    assert!(asked > FILES as u64, "a first pass asks: {asked}");
    for (what, step) in STEPS {
        let asked = pair.site.upcalls_during(|| step(&pair));
        assert_eq!(asked, 0, "{what}");
    }
}

#[test]
fn p9_a_flip_reads_only_what_has_changed_and_a_rollback_asks_next_to_nothing() {
    let pair = Pair::sealed();
    let _kept = keep_caches();
    pair.site.flip(&pair.first);
    pair.pass();
    pair.site.flip(&pair.second);
    let reads = || pair.site.upcalls()["read"];
    let before = reads();
    pair.paths.iter().filter(unchanged).for_each(read);
    pair.paths.iter().filter(unchanged).for_each(map);
    assert_eq!(reads() - before, 0, "unchanged files were read again");
    pair.pass();
    assert!(reads() - before >= (FILES / CHANGED_EVERY) as u64);
    assert_eq!(pair.site.upcalls_during(|| pair.pass()), 0);
    for id in [&pair.first, &pair.second, &pair.first] {
        let asked = pair.site.upcalls_during(|| {
            pair.site.flip(id);
            pair.pass();
        });
        assert!(asked <= AFTER_ROLLBACK, "{asked} upcalls after a rollback");
    }
}

#[test]
fn p9_a_warm_request_to_a_web_server_asks_the_daemon_nothing() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 2);
    let _kept = keep_caches();
    let nginx = Nginx::serve(&site.path("live"));
    let mut http = nginx.connect();
    let mut get_all = |number: u32| {
        for path in TELLING {
            let body = http.get(&format!("/{path}")).body;
            assert_eq!(deploys.number_of(path, &body), Some(number));
        }
        assert_eq!(http.get("/nothing").status, 404);
    };
    for number in [0, 1] {
        site.flip(&deploys.ids[number]);
        get_all(number as u32);
        let asked = site.upcalls_during(|| (0..100).for_each(|_| get_all(number as u32)));
        assert_eq!(asked, 0);
    }
    let asked = site.upcalls_during(|| {
        site.flip(&deploys.ids[0]);
        (0..100).for_each(|_| get_all(0));
    });
    assert!(asked <= AFTER_ROLLBACK, "{asked} upcalls after a rollback");
}

/// Goes over the whole site in one way.
type Step = fn(&Pair);

/// What a web site's visitors and its maintainers do, one after the other.
const STEPS: [(&str, Step); 8] = [
    ("stat", |pair| pair.paths.iter().for_each(stat)),
    ("open and read", |pair| pair.paths.iter().for_each(read)),
    ("sendfile", Pair::send_all),
    ("mmap", |pair| pair.paths.iter().for_each(map)),
    ("readdir", Pair::list_all),
    ("readlink", Pair::read_links),
    ("missing names", Pair::look_for_missing),
    ("access", |pair| pair.paths.iter().for_each(access)),
];

/// A file of the site in `live`, and what is known of it.
struct Page {
    index: usize,
    path: PathBuf,
    size: usize,
}

/// A site of 10,000 files in two sealed deploys, of which 1 % of the files differ.
struct Pair {
    site: Site,
    first: String,
    second: String,
    paths: Vec<Page>,
    dirs: Vec<PathBuf>,
}

impl Pair {
    fn sealed() -> Self {
        let site = Site::new();
        let source = site.beside("source");
        let live = site.path("live");
        let mut dirs: Vec<PathBuf> = Vec::new();
        let mut paths = Vec::new();
        for index in 0..FILES {
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
        let first = site.deploy(&source);
        for page in paths.iter().filter(|page| !unchanged(page)) {
            let path = source.join(page.path.strip_prefix(&live).unwrap());
            let bytes = noise((FILES + page.index) as u64, page.size);
            fs::write(path, bytes).unwrap();
        }
        let second = site.deploy(&source);
        Pair {
            site,
            first,
            second,
            paths,
            dirs,
        }
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
        assert_eq!(listed.sum::<usize>(), FILES + self.dirs.len());
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
        let touched = mapped.bytes().iter().map(black_box).count();
        assert_eq!(touched, page.size);
    }
}

fn access(page: &Page) {
    rustix::fs::access(&page.path, rustix::fs::Access::READ_OK).unwrap();
}
