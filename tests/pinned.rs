//! Pinned readers: whoever holds something of a deploy open keeps that deploy, whatever goes live.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use crate::support::*;

/// More than there are retired trees kept warm, so that the first of them are dropped.
const FORWARD: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];
/// To deploys that others hold open, warm ones and dropped ones, and on to more flips.
const BACK_AND_ON: [usize; 12] = [0, 7, 0, 1, 2, 1, 6, 5, 4, 3, 7, 6];

#[test]
fn p3_what_is_held_open_keeps_its_deploy_across_flips_and_rollbacks() {
    holds_across_flips(&Site::new());
}

#[test]
fn p3_what_is_held_open_of_a_channel_keeps_its_deploy_even_when_the_channel_is_gone() {
    let mut site = Site::new();
    site.channel = "preview";
    let (deploys, mut held) = holds_across_flips(&site);
    site.ok(["channel", "rm", "preview"]);
    assert!(!site.live("").exists());
    for held in &mut held {
        held.check(&deploys);
        held.forget();
        held.check(&deploys);
    }
    // A channel of the same name later is another matter.
    site.flip(&deploys.ids[5]);
    let now = fs::read(site.live(FIXED)).unwrap();
    assert_eq!(deploys.number_of(FIXED, &now), Some(5));
    for held in &mut held {
        held.check(&deploys);
    }
}

fn holds_across_flips(site: &Site) -> (Numbered, Vec<Held>) {
    let deploys = Numbered::seal(site, 8);
    let mut held = Vec::new();
    for number in [0, 1, 2] {
        site.flip(&deploys.ids[number]);
        held.push(Held::of_live(site, number as u32));
    }
    let mut flip_and_check = |number: usize| {
        site.flip(&deploys.ids[number]);
        let now = fs::read(site.live(FIXED)).unwrap();
        assert_eq!(deploys.number_of(FIXED, &now), Some(number as u32));
        for held in &mut held {
            held.check(&deploys);
        }
    };
    FORWARD.into_iter().for_each(&mut flip_and_check);
    BACK_AND_ON.into_iter().for_each(&mut flip_and_check);
    (deploys, held)
}

#[test]
fn p3_what_the_kernel_has_dropped_of_a_held_deploy_is_asked_again_and_is_the_same() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 8);
    site.flip(&deploys.ids[0]);
    let mut held = Held::of_live(&site, 0);
    held.check(&deploys);
    for number in FORWARD {
        site.flip(&deploys.ids[number]);
        held.forget();
        held.check(&deploys);
    }
    // By now it is more flips ago than trees are kept: the kernel no longer has a name for it.
    wait_for("the old tree is dropped", || !held.has_a_name());
    held.check(&deploys);
    held.forget();
    held.check(&deploys);
    for number in BACK_AND_ON {
        site.flip(&deploys.ids[number]);
        drop_caches();
        held.forget();
        held.check(&deploys);
    }
}

#[test]
fn p3_a_working_directory_keeps_a_path_while_its_tree_is_kept_warm() {
    let site = Site::new();
    let deploys = Numbered::seal(&site, 5);
    site.flip(&deploys.ids[0]);
    let mut inside = Inside::of(&site.live("about"));
    for number in [1, 2, 3, 4] {
        site.flip(&deploys.ids[number]);
        let path = inside.path().join("team/index.html");
        let bytes = fs::read(path).unwrap();
        assert_eq!(deploys.number_of(GROWING, &bytes), Some(0));
    }
    let bytes = inside.read("team/index.html");
    assert_eq!(deploys.number_of(GROWING, &bytes), Some(0));
    // Whoever comes by path first after the rollback brings the tree back to its old place.
    site.flip(&deploys.ids[0]);
    let bytes = fs::read(site.live(GROWING)).unwrap();
    assert_eq!(deploys.number_of(GROWING, &bytes), Some(0));
    assert_eq!(inside.path(), site.live("about"));
}

/// All that can be held of one deploy.
struct Held {
    number: u32,
    file: File,
    mapped_file: File,
    mapped: Mapped,
    live: OwnedFd,
    marks: Dir,
    inside: Inside,
}

impl Held {
    fn of_live(site: &Site, number: u32) -> Self {
        let dir = |path: &Path| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty()).unwrap()
        };
        let mapped_file = File::open(site.live(GROWING)).unwrap();
        Held {
            number,
            file: File::open(site.live(DEEP)).unwrap(),
            mapped: Mapped::of(&mapped_file),
            mapped_file,
            live: dir(&site.live("")),
            marks: Dir::new(dir(&site.live(MARKS))).unwrap(),
            inside: Inside::of(&site.live("about")),
        }
    }

    /// Lets the kernel drop the bytes.
    fn forget(&self) {
        self.mapped.forget();
        forget_pages(&self.mapped_file);
        forget_pages(&self.file);
    }

    /// Whether the kernel has its tree at a path, be it a secret one.
    fn has_a_name(&self) -> bool {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.live.as_raw_fd()));
        !text(&path.unwrap()).ends_with(" (deleted)")
    }

    fn check(&mut self, deploys: &Numbered) {
        let number = Some(self.number);
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(deploys.number_of(DEEP, &bytes), number, "an open file");
        let mapped = deploys.number_of(GROWING, self.mapped.bytes());
        assert_eq!(mapped, number, "a mapping");
        for path in TELLING {
            let file = openat(&self.live, path, OFlags::CLOEXEC, Mode::empty()).unwrap();
            let mut bytes = Vec::new();
            File::from(file).read_to_end(&mut bytes).unwrap();
            assert_eq!(deploys.number_of(path, &bytes), number, "{path} by handle");
        }
        self.marks.rewind();
        let listed = self.marks.by_ref().map(|entry| entry.unwrap());
        let names = listed.map(|entry| entry.file_name().to_str().unwrap().to_owned());
        let names = names.filter(|name| !name.starts_with('.')).collect();
        assert_eq!(deploys.number_listed(names), self.number, "a listing");
        let below = self.inside.read("team/index.html");
        assert_eq!(deploys.number_of(GROWING, &below), number, "a working dir");
        let above = self.inside.read("../index.html");
        assert_eq!(deploys.number_of(FIXED, &above), number, "above it");
    }
}

/// A process with its working directory in the mount, that reads files for us.
struct Inside {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Inside {
    fn of(dir: &Path) -> Self {
        let each = "while read -r path; do wc -c <\"$path\" && cat \"$path\" || exit 1; done";
        let mut process = Command::new("sh")
            .args(["-c", each])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Inside { process, answers }
    }

    fn read(&mut self, path: &str) -> Vec<u8> {
        let asked = format!("{path}\n");
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(asked.as_bytes()).unwrap();
        let mut length = String::new();
        self.answers.read_line(&mut length).unwrap();
        let mut bytes = vec![0; length.trim().parse().expect("a length")];
        self.answers.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Where it is, as the kernel says.
    fn path(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/cwd", self.process.id())).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
