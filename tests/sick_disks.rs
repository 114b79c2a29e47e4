//! P10, P4: a full disk and a read-only disk. What cannot be done fails whole; what can be done still works.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");

/// Two deploys, the second one live, and a staged third with bytes that do not compress.
fn two_and_a_staged_third(site: &Site) -> [String; 2] {
    let one = site.seal(&[("index.html", "one")]);
    let two = site.seal(&[("index.html", "two")]);
    site.activate(&one);
    site.activate(&two);
    let dir = site.stage("v3", &[("index.html", "three")]);
    for number in 0..8 {
        fs::write(dir.join(format!("{number}.bin")), noise(number, 300_000)).unwrap();
    }
    [one, two]
}

#[test]
fn p10_on_a_full_disk_a_seal_fails_whole_and_activate_and_rollback_still_work() {
    let disk = Disk::new(48);
    let site = Site::unmounted_on(&disk.path);
    site.mount(&[]);
    let [one, two] = two_and_a_staged_third(&site);
    let staged = contents(&site.staging("v3"));
    let filler = disk.fill();

    let said = site.refused_whole(1, ["seal", "v3"]);
    mentions(&said, &["No space left", "packs/"]);
    for _ in 0..10 {
        assert_eq!(site.ok(["rollback"]), one);
        assert_eq!(site.read("index.html"), "one");
        assert_eq!(site.ok(["activate", &two]), two);
        assert_eq!(site.read("index.html"), "two");
    }
    let said = site.refused_whole(1, ["seal", "v3"]);
    mentions(&said, &["No space left"]);
    // Locks and channels need a record only, as activations do.
    site.ok(["lock", "-m", "the disk is full"]);
    site.ok(["unlock"]);
    site.ok(["channel", "set", "preview", &one, "--expires", "1s"]);
    // Nor is anything lost where it all begins anew on the full disk.
    site.umount();
    site.mount(&[]);
    let preview = site.path("channels/preview");
    wait_for("the channel's end", || !preview.exists());
    assert_eq!(site.read("index.html"), "two");
    assert_eq!(site.ok(["rollback"]), one);
    site.ok(["verify"]);

    fs::remove_file(filler).unwrap();
    let three = site.ok(["seal", "v3"]);
    site.activate(&three);
    assert_eq!(contents(&site.path("live")), staged);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_a_disk_without_inodes_is_told_from_one_without_space() {
    let disk = Disk::new(24);
    let site = Site::unmounted_on(&disk.path);
    let filler = disk.path.join("filler");
    fs::create_dir(&filler).unwrap();
    let full = (0..).find_map(|number| fs::File::create(filler.join(format!("{number}"))).err());
    assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    let said = site.refused_whole(1, ["create", "v1"]);
    mentions(&said, &["No space left", "df -i"]);
    fs::remove_dir_all(&filler).unwrap();
    site.ok(["create", "v1"]);
}

#[test]
fn p10_an_attribute_that_keeps_root_out_is_named_with_its_remedy() {
    let disk = Disk::new(24);
    let site = Site::unmounted_on(&disk.path);
    sh(&format!("chattr +i {}/packs", site.store.display()));
    let build = site.beside("build");
    write_files(&build, &[("index.html", "page")]);
    let said = site.refused_whole(1, ["deploy", text(&build)]);
    sh(&format!("chattr -i {}/packs", site.store.display()));
    mentions(&said, &["Operation not permitted", "packs", "chattr -i"]);
    site.deploy(&build);
}

#[test]
fn p10_on_a_full_disk_gc_frees_packs_of_which_a_chunk_is_kept() {
    let disk = Disk::new(96);
    let site = Site::unmounted_on(&disk.path);
    let build = site.beside("build");
    fs::create_dir(&build).unwrap();
    let mut bulky = Vec::new();
    for number in 0..3u64 {
        fs::write(build.join(format!("kept{number}")), noise(number, 1 << 20)).unwrap();
        let bulk = build.join("bulk");
        fs::write(&bulk, noise(90 + number, 20 << 20)).unwrap();
        bulky.push(site.deploy(&build));
        fs::remove_file(bulk).unwrap();
    }
    let kept = site.deploy(&build);
    site.activate(&kept);
    for id in &bulky {
        site.ok(["rm", id]);
    }
    let packed = || -> u64 {
        let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
        packs(&site).into_iter().map(blocks).sum()
    };
    assert!(packed() > 60 << 20);
    disk.fill();
    let report = site.json(["gc"]);
    let freed = report["freed_bytes"].as_u64().unwrap();
    assert!(freed > 55 << 20, "{report}");
    assert!(packed() < 8 << 20, "{}", packed());
    site.ok(["verify"]);
    site.ok(["fsck", "--read-data"]);
    // What was freed can be stored again.
    fs::write(build.join("bulk"), noise(90, 20 << 20)).unwrap();
    let again = site.deploy(&build);
    site.ok(["verify", &again]);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_on_a_full_disk_the_same_holds_without_a_daemon() {
    let disk = Disk::new(48);
    let site = Site::unmounted_on(&disk.path);
    let [one, two] = two_and_a_staged_third(&site);
    let staged = site.staging("v3");
    let filler = disk.fill();
    for args in [vec!["seal", "v3"], vec!["deploy", text(&staged)]] {
        mentions(&site.refused_whole(1, args), &["No space left"]);
    }
    assert_eq!(site.ok(["rollback"]), one);
    assert_eq!(site.ok(["activate", &two]), two);
    fs::remove_file(filler).unwrap();
    site.ok(["seal", "v3"]);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_on_a_read_only_disk_all_that_only_looks_works_and_all_that_changes_is_refused() {
    let disk = Disk::new(48);
    let site = Site::unmounted_on(&disk.path);
    let [one, two] = two_and_a_staged_third(&site);
    let build = site.beside("build");
    write_files(&build, &[PAGE]);
    let looks = [
        vec!["list"],
        vec!["show", "live"],
        vec!["diff"],
        vec!["log"],
        vec!["verify"],
        vec!["fsck", "--read-data"],
        vec!["deploy", "--dry-run", text(&build)],
    ];
    let answers = || looks.clone().map(|args| site.ok(args));
    let before = answers();
    disk.remount("ro");
    assert_eq!(answers(), before);
    let status = site.json(["status"]);
    assert_eq!(status["live"], two.as_str());
    assert_eq!(status["staging"][0], "v3");
    let changes = [
        vec!["create"],
        vec!["seal", "v3"],
        vec!["abort", "v3"],
        vec!["deploy", text(&build)],
        vec!["activate", &one],
        vec!["rollback"],
    ];
    for args in changes {
        mentions(
            &site.refused_whole(1, args),
            &[text(&disk.path), "Read-only file system"],
        );
    }
    mentions(
        &refusal(&site.try_mount(&[]), 1),
        &[text(&disk.path), "Read-only file system"],
    );
    mentions(
        &refusal(&deployfs(["init", text(&disk.path.join("new"))]), 1),
        &["Read-only file system"],
    );
    disk.remount("rw");
    assert_eq!(site.ok(["rollback"]), one);
    site.ok(["seal", "v3"]);
}
