//! What a store needs of the filesystem it lies on, and of whoever makes it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

#[test]
fn a_new_store_has_the_same_modes_whatever_the_umask() {
    let site = Site::without_a_store();
    let modes = |store: &Path| {
        let found = facts(store).into_keys().map(|path| {
            let path = String::from_utf8(path).unwrap();
            let mode = fs::symlink_metadata(store.join(&path)).unwrap().mode();
            format!("{path} {:o}", mode & 0o7777)
        });
        found.collect::<Vec<String>>()
    };
    let made = ["000", "022", "027", "077"].map(|mask| {
        let store = site.beside(&format!("store-{mask}"));
        sh(&format!(
            "umask {mask}; {DEPLOYFS} init {}",
            store.display()
        ));
        let top = fs::metadata(&store).unwrap().mode() & 0o7777;
        assert_eq!(top, 0o711, "umask {mask}");
        // A command makes the files that are not there yet.
        sh(&format!(
            "umask {mask}; {DEPLOYFS} --store {} create v1",
            store.display()
        ));
        modes(&store)
    });
    let made = made.map(|lines| -> Vec<String> {
        // A draft is its maker's.
        let is_draft = |line: &String| line.starts_with("staging/v1");
        lines.into_iter().filter(|line| !is_draft(line)).collect()
    });
    for other in &made[1..] {
        assert_eq!(other, &made[0]);
    }
}

#[test]
fn a_store_works_on_a_filesystem_that_cannot_rename_to_a_free_name_only() {
    let site = Site::without_a_store();
    let (below, above) = (site.beside("below"), site.beside("above"));
    fs::create_dir(&below).unwrap();
    fs::create_dir(&above).unwrap();
    sh(&format!("bindfs {} {}", below.display(), above.display()));
    let _mounted = Mounted(above.clone());
    let mut site = site;
    site.store = above.join("store");
    site.ok(["init", text(&site.store)]);
    let staged = site.stage("v1", &[("a", "one")]);
    mentions(&site.refused(1, ["create", "v1"]), &["exists already"]);
    assert_eq!(facts(&staged).len(), 1);
    let id = site.ok(["seal", "v1"]);
    site.activate(&id);
    // A refused seal gives its folder back, beside another that has its name by then.
    let staged = site.stage("v2", &[("a", "two")]);
    std::os::unix::fs::symlink("/etc/passwd", staged.join("link")).unwrap();
    site.refused(1, ["seal", "v2"]);
    assert_eq!(fs::read_to_string(staged.join("a")).unwrap(), "two");
    site.ok(["abort", "v2"]);
    site.mount(&[]);
    assert_eq!(site.read("a"), "one");
    site.umount();
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn a_staging_folder_that_cannot_be_removed_keeps_its_name() {
    let disk = Disk::new(64);
    let site = Site::unmounted_on(&disk.path);
    let staged = site.stage("v1", &[("dir/fixed", "x"), ("other", "y")]);
    let fixed = staged.join("dir/fixed");
    sh(&format!("chattr +i {}", fixed.display()));
    let said = site.refused(1, ["abort", "v1"]);
    sh(&format!("chattr -i {}", fixed.display()));
    mentions(&said, &[text(&staged), "chattr -i", "not permitted"]);
    let sealing = fs::read_dir(site.staging(".sealing")).unwrap();
    assert_eq!(sealing.count(), 0);
    assert_eq!(site.json(["status"])["staging"], serde_json::json!(["v1"]));
    site.ok(["abort", "v1"]);
    assert!(!staged.exists());
}

#[test]
fn abort_empties_nothing_that_is_mounted_in_the_folder() {
    let site = Site::live_with(&[("a", "one")]);
    let staged = site.stage("v1", &[("page", "x")]);
    let build = site.beside("build");
    write_files(&build, &[("src/main.c", "precious")]);
    let mounted = Mounted::bind(&build, &staged.join("dir/m"));
    let said = site.refused(1, ["abort", "v1"]);
    mentions(&said, &["mounted at 'm'", "unmount", text(&staged)]);
    assert_eq!(
        fs::read_to_string(build.join("src/main.c")).unwrap(),
        "precious"
    );
    drop(mounted);
    site.ok(["abort", "v1"]);
    assert!(!staged.exists() && build.join("src/main.c").exists());
}

#[test]
fn commands_without_a_daemon_wait_for_one_another_however_they_meet() {
    let site = Site::unmounted();
    let id = site.seal(&[("a", "a")]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        // Somebody always asks whether the store is in use.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                deployfs::deploy::Deployfs::is_in_use(&site.store);
            }
        });
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        site.activate(&id);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
    });
    let log = site.json(["log"]);
    assert_eq!(log.as_array().unwrap().len(), 2 + 3 * 20);
}
