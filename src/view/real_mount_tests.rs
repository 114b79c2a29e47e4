//! The view in a real kernel mount. These need root and /dev/fuse, and fail without.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::mounts::{find_mount_of, unmount_path};
use super::test_content::Memory;
use super::{Listable, MountError, MountOptions, MountedView, mount};
use crate::deploy::mounted::{Mounted, MountedError, Root, Shown};
use crate::model::ChannelName;

struct Site {
    content: Arc<Memory>,
    // Dropped in `Drop`, before the folder it is mounted on.
    mounted: Option<MountedView>,
    folder: TempDir,
}

impl Site {
    fn new(content: Memory, live: Option<Root>, deploys: Vec<Root>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let content = Arc::new(content);
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let shown = Shown {
            live,
            channels: Vec::new(),
            deploys,
        };
        let mounted = mount(options(folder.path()), content.clone(), &shown).unwrap();
        Site {
            content,
            mounted: Some(mounted),
            folder,
        }
    }

    fn mounted(&self) -> &MountedView {
        self.mounted.as_ref().unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("mnt").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn upcalls(&self, during: impl FnOnce()) -> u64 {
        let before = self.mounted().counts().upcalls();
        during();
        self.mounted().counts().upcalls() - before
    }

    fn flip(&self, root: &Root) {
        self.mounted()
            .view()
            .flip(&ChannelName::live(), root)
            .unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount().ok();
        }
    }
}

fn options(folder: &Path) -> MountOptions {
    MountOptions {
        mountpoint: folder.join("mnt"),
        store: folder.into(),
        fsname: None,
        uid: 0,
        gid: 0,
        listable: Listable::Group(0),
        allow_other: true,
        noexec: false,
        threads: None,
    }
}

/// 40 files in 2 directories, all with `text` in them.
fn build(content: &Memory, text: &str, order: u64) -> Root {
    let names: Vec<String> = (0..40)
        .map(|number| format!("d{}/f{number}", number % 2))
        .collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text)).collect();
    files.extend([("index.html", text), ("home@", "index.html")]);
    content.seal(&files, 1000 + order, order)
}

fn walk(dir: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        seen += 1;
        match fs::metadata(&path).unwrap().is_dir() {
            true => seen += walk(&path),
            false => assert!(!fs::read(&path).unwrap().is_empty()),
        }
    }
    assert!(!dir.join("missing").exists());
    seen
}

fn two_deploys() -> (Site, Root, Root) {
    let content = Memory::default();
    let one = build(&content, "one", 1);
    let two = build(&content, "two", 2);
    let deploys = vec![one.clone(), two.clone()];
    (Site::new(content, Some(one.clone()), deploys), one, two)
}

#[test]
fn deploys_read_through_the_mount() {
    let (site, one, two) = two_deploys();
    assert_eq!(site.read("live/index.html"), "one");
    assert_eq!(site.read("live/home"), "one");
    assert_eq!(site.read(&format!("deploys/{}/d1/f1", two.id)), "two");
    let live = fs::metadata(site.path("live/index.html")).unwrap();
    let same = fs::metadata(site.path(&format!("deploys/{}/index.html", one.id))).unwrap();
    assert_eq!(live.ino(), same.ino());
    assert_eq!((live.mtime(), live.mode() & 0o7777), (1001, 0o444));
    assert!(site.mounted().is_readonly());
    let info = find_mount_of(&site.path("live/d1")).unwrap();
    assert_eq!(info.store, site.folder.path());
    assert!(!info.dead);
}

#[test]
fn p9_a_warm_pass_makes_no_upcall() {
    let (site, ..) = two_deploys();
    let live = site.path("live");
    assert_eq!(walk(&live), 44);
    walk(&live);
    assert_eq!(site.upcalls(|| assert_eq!(walk(&live), 44)), 0);
}

#[test]
fn p1_a_flip_shows_the_new_tree_at_once_and_flipping_back_finds_it_warm() {
    let (site, one, two) = two_deploys();
    walk(&site.path("live"));
    site.flip(&two);
    assert_eq!(site.read("live/d1/f1"), "two");
    walk(&site.path("live"));
    let upcalls = site.upcalls(|| {
        site.flip(&one);
        assert_eq!(site.read("live/d1/f1"), "one");
        walk(&site.path("live"));
    });
    assert!(upcalls <= 10, "{upcalls}");
    site.flip(&one);
    assert_eq!(
        site.mounted().counts().flips,
        2,
        "showing what is shown is no flip"
    );
    assert_eq!(
        fs::read_dir(site.path("")).unwrap().count(),
        4,
        "retired names are never listed"
    );
}

#[test]
fn p1_many_flips_are_never_stale_while_old_trees_are_dropped() {
    let content = Memory::default();
    let roots: Vec<Root> = (0..7)
        .map(|number| build(&content, &format!("text {number}"), number + 1))
        .collect();
    let site = Site::new(content, None, roots.clone());
    assert_eq!(fs::read_dir(site.path("live")).unwrap().count(), 0);
    for round in 0..70 {
        let at = round * 3 % 7;
        site.flip(&roots[at]);
        assert_eq!(site.read("live/d0/f0"), format!("text {at}"));
        assert_eq!(site.read("live/index.html"), format!("text {at}"));
        walk(&site.path("live"));
    }
}

#[test]
fn p3_an_open_file_keeps_its_bytes_across_a_flip() {
    let (site, _, two) = two_deploys();
    let mut file = File::open(site.path("live/index.html")).unwrap();
    site.flip(&two);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one");
    assert_eq!(site.read("live/index.html"), "two");
}

#[test]
fn p2_changes_are_refused_with_erofs() {
    let (site, ..) = two_deploys();
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    refused(fs::create_dir(site.path("live/new")));
    refused(fs::create_dir(site.path("deploys/new")));
    refused(fs::write(site.path("live/index.html"), "x"));
    refused(fs::write(site.path("live/other"), "x"));
    refused(fs::remove_file(site.path("live/index.html")));
    refused(fs::rename(site.path("live/d0"), site.path("live/d9")));
    assert_eq!(site.read("live/index.html"), "one");
}

#[test]
fn p5_lost_bytes_are_an_error_and_are_reported() {
    let (site, ..) = two_deploys();
    site.content.lose(b"one");
    let error = fs::read(site.path("live/index.html")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(!site.mounted().read_errors().is_empty());
}

#[test]
fn a_listing_of_deploys_is_fresh_after_a_seal_and_a_removal() {
    let (site, one, two) = two_deploys();
    let list = || {
        let dir = fs::read_dir(site.path("deploys")).unwrap();
        dir.map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    let three = build(&site.content, "three", 3);
    assert_eq!(list().len(), 2);
    assert!(!site.path(&format!("deploys/{}", three.id)).exists());
    site.mounted().view().sealed(&three).unwrap();
    assert_eq!(list(), [&one, &two, &three].map(|root| root.id.to_string()));
    assert_eq!(site.read(&format!("deploys/{}/d0/f0", three.id)), "three");
    let mut open = File::open(site.path(&format!("deploys/{}/d1/f1", two.id))).unwrap();
    site.mounted().view().removed(two.id).unwrap();
    assert_eq!(list().len(), 2);
    assert!(!site.path(&format!("deploys/{}", two.id)).exists());
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "two");
}

#[test]
fn somebody_else_s_unmount_ends_the_view() {
    let (site, _, two) = two_deploys();
    assert!(!site.mounted().wait_ended(Duration::from_millis(1)));
    unmount_path(&site.path("")).unwrap();
    assert!(site.mounted().wait_ended(Duration::from_secs(5)));
    let answer = site.mounted().view().flip(&ChannelName::live(), &two);
    assert!(matches!(answer, Err(MountedError::Gone)), "{answer:?}");
}

#[test]
fn a_mount_point_that_is_in_use_is_refused() {
    let (site, ..) = two_deploys();
    let again = |folder: &Path| {
        mount(
            options(folder),
            Arc::new(Memory::default()),
            &Shown::default(),
        )
        .err()
        .unwrap()
    };
    let busy = again(site.folder.path());
    assert!(matches!(busy, MountError::Busy { .. }), "{busy}");
    let folder = tempfile::tempdir().unwrap();
    let absent = again(folder.path());
    assert!(matches!(absent, MountError::Mountpoint { .. }), "{absent}");
    fs::create_dir_all(folder.path().join("mnt/x")).unwrap();
    let full = again(folder.path());
    assert!(matches!(full, MountError::NotEmpty(_)), "{full}");
}

#[test]
fn a_dead_mount_of_ours_is_detached_and_mounted_over() {
    let (site, one, _) = two_deploys();
    let device = fs::metadata(site.path("")).unwrap().dev();
    abort(libc::minor(device));
    assert!(site.mounted().wait_ended(Duration::from_secs(5)));
    assert!(find_mount_of(&site.path("live")).unwrap().dead);
    let content = site.content.clone();
    let shown = Shown {
        live: Some(one),
        ..Shown::default()
    };
    let again = mount(options(site.folder.path()), content, &shown).unwrap();
    let text = fs::read_to_string(site.path("live/index.html"));
    assert!(again.unmount().unwrap());
    assert_eq!(text.unwrap(), "one");
}

#[test]
fn a_view_that_has_ended_leaves_the_mount_alone_that_has_its_device_number_now() {
    let content = Arc::new(Memory::default());
    let live = build(&content, "one", 1);
    let shown = Shown {
        live: Some(live.clone()),
        deploys: vec![live],
        ..Shown::default()
    };
    let mounted = |folder: &Path| {
        fs::create_dir_all(folder.join("mnt")).unwrap();
        let options = MountOptions {
            fsname: Some("site".into()),
            ..options(folder)
        };
        mount(options, content.clone(), &shown).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    // Other tests mount too, and may be given the number.
    for _ in 0..100 {
        let first = mounted(&one);
        unmount_path(&one.join("mnt")).unwrap();
        assert!(first.wait_ended(Duration::from_secs(5)));
        let second = mounted(&two);
        let has_its_number = second.device() == first.device();
        assert!(first.unmount().unwrap());
        let text = fs::read_to_string(two.join("mnt/live/index.html"));
        assert!(second.unmount().unwrap());
        assert_eq!(text.unwrap(), "one");
        if has_its_number {
            return;
        }
    }
    panic!("no device number was given twice");
}

/// Cuts the connection as a killed daemon does.
fn abort(connection: u32) {
    let control = tempfile::tempdir().unwrap();
    let none: Option<&std::ffi::CStr> = None;
    rustix::mount::mount(
        "fusectl",
        control.path(),
        "fusectl",
        rustix::mount::MountFlags::empty(),
        none,
    )
    .unwrap();
    let written = fs::write(control.path().join(format!("{connection}/abort")), "1");
    super::mounts::detach(control.path()).unwrap();
    written.unwrap();
}
