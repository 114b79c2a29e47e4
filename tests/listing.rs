//! Listings are never stale, and list nothing that is not meant to be found; a plain umount works.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use deployfs::model::report::{Answer, FolderRequest, Request, SealOptions};
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use crate::support::*;

#[test]
fn ls_shows_a_new_deploy_right_after_its_seal() {
    let site = Site::new();
    let deploys = site.path("deploys");
    let mut sealed = BTreeSet::new();
    for number in 0..10 {
        let id = site.seal(&[("index.html", &number.to_string())]);
        sealed.insert(id.clone());
        assert_eq!(ls(&deploys), sealed);
        let page = deploys.join(id).join("index.html");
        assert_eq!(fs::read_to_string(page).unwrap(), number.to_string());
    }
}

#[test]
fn deploys_lists_a_new_deploy_once_its_seal_has_returned_also_with_listings_under_way() {
    let site = Site::new();
    let seals = Seals::default();
    let deploys = site.path("deploys");
    let by_path = || listed(&mut Dir::new(open(&deploys)).unwrap());
    let mut kept = Dir::new(open(&deploys)).unwrap();
    let by_handle = move || {
        kept.rewind();
        listed(&mut kept)
    };
    // Until the next deploy is there, drops the listing and asks for it again: one of them is under way as it becomes old.
    let until_it_is_there = || {
        let next = deploys.join(seals.next.lock().unwrap().as_str());
        let dir = File::from(open(&deploys));
        loop {
            forget_pages(&dir);
            let listed = by_path();
            if seals.over.load(Ordering::SeqCst) || next.exists() {
                return listed;
            }
        }
    };
    thread::scope(|scope| {
        let _over = Over(&seals.over);
        let listers = [
            scope.spawn(|| seals.watch(by_path)),
            scope.spawn(|| seals.watch(by_handle)),
            scope.spawn(|| seals.watch(until_it_is_there)),
        ];
        for number in 0..count("DEPLOYFS_TEST_SEALS", 300) {
            let dir = site.beside(&number.to_string());
            fs::create_dir(&dir).unwrap();
            symlink(number.to_string(), dir.join("number")).unwrap();
            *seals.next.lock().unwrap() = deploy(&site, &dir, true);
            seals.asked.fetch_add(1, Ordering::SeqCst);
            let id = deploy(&site, &dir, false);
            let listed: BTreeSet<String> = by_path().into_iter().collect();
            seals.returned.lock().unwrap().push(id);
            assert_eq!(listed, seals.so_far(), "right after the seal");
        }
        seals.over.store(true, Ordering::SeqCst);
        for lister in listers {
            assert!(lister.join().unwrap() > 0, "no listing met a seal");
        }
    });
}

#[test]
fn an_id_that_was_looked_for_too_early_is_there_once_it_is_sealed() {
    let site = Site::new();
    let elsewhere = Site::unmounted();
    for number in ["1", "2", "3"] {
        // The same content has the same id in every store.
        let id = elsewhere.seal(&[("index.html", number)]);
        let path = site.path("deploys").join(&id);
        for _ in 0..3 {
            assert_eq!(fs::metadata(&path).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(site.seal(&[("index.html", number)]), id);
        assert_eq!(fs::read_to_string(path.join("index.html")).unwrap(), number);
    }
}

#[test]
fn live_lists_the_new_deploy_once_activate_has_returned() {
    let site = Site::new();
    let live = site.path("live");
    assert_eq!(ls(&live), BTreeSet::new());
    let both = ["a", "b"].map(|name| site.seal(&[(name, name), ("all", "")]));
    for (id, name) in [(&both[0], "a"), (&both[1], "b")]
        .into_iter()
        .cycle()
        .take(20)
    {
        site.activate(id);
        assert_eq!(ls(&live), [name, "all"].map(str::to_owned).into());
        assert_eq!(
            names(&site.path("")),
            ["channels", "deploys", "live", "staging"]
        );
    }
}

#[test]
fn retired_trees_are_never_listed_and_no_guess_reaches_them() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 7);
    let guesses: Vec<String> = (0..200u64)
        .map(|guess| format!(".retired-{:032x}", u128::from(guess) << (guess % 100)))
        .chain(["", "x", "*", "0"].map(|end| format!(".retired-{end}")))
        .collect();
    let guess_all = || {
        for guess in &guesses {
            let error = fs::metadata(site.path(guess)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{guess}");
        }
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        let guessing = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                guess_all();
            }
        });
        for flip in 0..100 {
            site.flip(&deploys.ids[flip * 3 % 7]);
            assert_eq!(
                names(&site.path("")),
                ["channels", "deploys", "live", "staging"]
            );
        }
        over.store(true, Ordering::SeqCst);
        guessing.join().expect("no guess is right");
    });
    let asked = site.upcalls_during(guess_all);
    assert_eq!(asked, guesses.len() as u64, "a wrong guess is remembered");
}

#[test]
fn a_plain_umount_of_an_idle_mount_works_after_flips_and_ends_the_daemon() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 7);
    for round in 0..4 {
        let mut number = 0;
        for flip in 0..20 {
            number = (round + flip * 2) % 7;
            site.flip(&deploys.ids[number]);
            assert_eq!(fs::read_dir(site.live(MARKS)).unwrap().count(), 2);
        }
        let daemon = format!("/proc/{}", site.daemon_pid());
        sh(&format!("umount '{}'", text(&site.mnt)));
        assert!(!is_mounted(&site.mnt));
        wait_for("the daemon's end", || !Path::new(&daemon).exists());
        site.mount(&[]);
        let page = fs::read(site.live(FIXED)).unwrap();
        assert_eq!(deploys.number_of(FIXED, &page), Some(number as u32));
    }
}

/// Seals one after the other, and what listings may show meanwhile.
#[derive(Default)]
struct Seals {
    asked: AtomicUsize,
    returned: Mutex<Vec<String>>,
    /// The id of the deploy that is sealed next.
    next: Mutex<String>,
    over: AtomicBool,
}

impl Seals {
    fn so_far(&self) -> BTreeSet<String> {
        self.returned.lock().unwrap().iter().cloned().collect()
    }

    /// Lists until all is over; how many listings saw a seal under way.
    fn watch(&self, mut list: impl FnMut() -> Vec<String>) -> usize {
        let mut during_a_seal = 0;
        while !self.over.load(Ordering::SeqCst) {
            let before = self.so_far();
            let listed = list();
            let asked = self.asked.load(Ordering::SeqCst);
            let distinct: BTreeSet<String> = listed.iter().cloned().collect();
            assert_eq!(distinct.len(), listed.len(), "a line twice");
            assert!(distinct.is_superset(&before), "a listing was stale");
            assert!(listed.len() <= asked, "a listing was early");
            during_a_seal += usize::from(before.len() < asked);
        }
        during_a_seal
    }
}

/// Seals a folder, or only tries it, without a process in between; the deploy's id.
fn deploy(site: &Site, dir: &Path, dry_run: bool) -> String {
    let request = FolderRequest {
        dir: dir.into(),
        from: None,
        delete: Vec::new(),
        no_cache: false,
        dry_run,
        options: SealOptions::default(),
    };
    match site.ask(&Request::Deploy(request)) {
        Answer::Sealed(sealed) => sealed.deploy_id.to_string(),
        other => panic!("{other:?}"),
    }
}

fn open(dir: &Path) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, dir, flags, Mode::empty()).unwrap()
}

fn listed(dir: &mut Dir) -> Vec<String> {
    let names = dir.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// What `ls` prints.
fn ls(dir: &Path) -> BTreeSet<String> {
    let printed = sh(&format!("ls -A '{}'", text(dir)));
    printed.lines().map(str::to_owned).collect()
}
