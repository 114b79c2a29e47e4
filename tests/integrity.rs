//! P5 and P6: damaged bytes are never served, and the index may be lost or broken at any time.

use std::fs;

use crate::support::*;

/// Short texts are stored as they are, so that they can be found.
const GOOD: &str = "good bytes";
const BAD: &str = "bytes that the disk will lose";

#[test]
fn p5_damaged_bytes_give_eio_and_the_log_status_and_fsck_say_which_chunk() {
    let site = Site::live_with(&[("good", GOOD), ("bad", BAD), ("same", BAD)]);
    damage_text(&site, BAD.as_bytes());
    let chunk = blake3::hash(BAD.as_bytes()).to_hex().to_string();
    for name in ["bad", "same"] {
        let error = fs::read(site.live(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    assert_eq!(site.read("good"), GOOD, "other files go on");
    let status = site.json(["status"]);
    let errors = status["errors"].as_array().unwrap();
    assert!(
        errors
            .iter()
            .any(|error| error.as_str().unwrap().contains(&chunk))
    );
    let log = fs::read_to_string(site.store.join("daemon.log")).unwrap();
    assert!(log.contains(&chunk), "{log}");
    for args in [
        &["fsck", "--read-data"][..],
        &["verify"],
        &["verify", "live"],
    ] {
        let out = site.run(args.iter().copied());
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(stdout(&out).contains(&chunk), "{args:?}: {}", stdout(&out));
        assert!(stdout(&out).contains("/bad"), "{args:?} names the path");
    }
}

#[test]
fn p5_a_damaged_tree_is_an_error_and_not_an_empty_folder() {
    let site = Site::live_with(&[("folder/file", GOOD), ("beside", GOOD)]);
    let before = facts(&site.path("live"));
    site.umount();
    damage_text(&site, b"dft\x01\x01\x01\x04file");
    site.mount(&[]);
    let error = fs::read_dir(site.live("folder"))
        .and_then(|mut entries| entries.next().transpose())
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(fs::metadata(site.live("folder/file")).is_err());
    assert_eq!(site.read("beside"), GOOD);
    assert_eq!(site.run(["fsck"]).status.code(), Some(1));
    assert!(before.contains_key(b"folder/file".as_slice()));
}

#[test]
fn p5_every_flipped_bit_of_a_small_store_is_found_or_does_no_harm() {
    let site = Site::unmounted();
    let id = site.seal(&[("a", GOOD), ("b/c", BAD)]);
    let pack = packs(&site).remove(0);
    let whole = fs::read(&pack).unwrap();
    let clean = site.run(["fsck", "--read-data"]);
    assert!(clean.status.success(), "{}", stdout(&clean));
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&pack, bytes).unwrap();
        let out = site.run(["fsck", "--read-data"]);
        assert_eq!(out.status.code(), Some(1), "byte {at}: {}", stderr(&out));
        let reset = site.run(["show", &id]);
        assert!(reset.status.success(), "byte {at}");
    }
    fs::write(&pack, whole).unwrap();
    assert!(site.run(["fsck", "--read-data"]).status.success());
}

#[test]
fn p5_a_damaged_deploy_file_is_named_and_heals_when_its_content_comes_again() {
    let site = Site::new();
    let one = site.seal(&[("a", "1")]);
    let two = site.seal(&[("a", "2")]);
    site.umount();
    let file = site.store.join("deploys").join(&one);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    site.mount(&[]);
    let said = site.refused(1, ["activate", &one]);
    assert!(said.contains(&format!("deploys/{one}")), "{said}");
    let list = site.json(["list"]);
    assert_eq!(
        list.as_array().unwrap().len(),
        2,
        "the other is still listed"
    );
    assert_eq!(list[0]["problem"], serde_json::Value::Null);
    assert!(list[1]["problem"].as_str().unwrap().contains(&one));
    assert_eq!(site.run(["fsck"]).status.code(), Some(1));
    assert_eq!(site.seal(&[("a", "1")]), one);
    site.activate(&one);
    assert_eq!(site.read("a"), "1");
    site.activate(&two);
    assert!(site.run(["fsck", "--read-data"]).status.success());
}

#[test]
fn p6_the_index_may_vanish_or_be_rubbish_between_any_two_commands() {
    let site = Site::unmounted();
    let index = site.store.join("index");
    // Enough chunks that packs are finished, and so indexed, and that it pays to open the index to look them up.
    let folder = site.beside("build");
    let deploy = |version: u64| {
        for number in 0..700 {
            let seed = if number == 0 { version } else { number };
            write_noise(&folder.join(format!("f{number}")), seed, 36 << 10);
        }
        site.json(["deploy", text(&folder)])
    };
    let break_index: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(&index).unwrap(),
        &|| fs::write(index.join("conf"), "rubbish").unwrap(),
        &|| fs::write(index.join("db"), noise(1, 100_000)).unwrap(),
        &|| {
            fs::remove_dir_all(&index).unwrap();
            fs::write(&index, "a file").unwrap();
        },
    ];
    deploy(1000);
    let mut ids = Vec::new();
    for (version, broken) in (1001..).zip(break_index) {
        let out = site.run(["fsck", "--read-data"]);
        assert!(out.status.success(), "{}", stdout(&out));
        site.ok(["gc"]);
        assert!(index.join("db").is_file(), "gc has filled it");
        broken();
        let report = deploy(version);
        let new = report["new_bytes"].as_u64().unwrap();
        assert!(
            new < 100 << 10,
            "what is there is found again: {new} new bytes"
        );
        assert!(index.join("db").is_file(), "{version}: it is filled again");
        ids.push(report["deploy_id"].as_str().unwrap().to_owned());
        broken();
        site.ok(["activate", ids.last().unwrap()]);
    }
    site.mount(&[]);
    for id in &ids {
        assert_eq!(
            fs::read(site.path(&format!("deploys/{id}/f7"))).unwrap(),
            noise(7, 36 << 10)
        );
    }
}

#[test]
fn a_footer_that_a_crash_cut_off_is_no_damage_and_one_that_is_changed_is() {
    let site = Site::unmounted();
    let folder = site.beside("build");
    // Enough for a pack to be finished.
    write_noise(&folder.join("large"), 1, 20 << 20);
    let id = site.deploy(&folder);
    let pack = site.store.join("packs/000001.pack");
    let whole = fs::read(&pack).unwrap();
    let fsck = || site.run(["fsck", "--read-data"]);
    // The magic and the count, 4 bytes each, the entries, a checksum of 32 bytes; then the trailer, 24.
    let footer = whole
        .windows(4)
        .rposition(|four| four == b"dfi\x01")
        .unwrap();
    assert!(whole.len() - footer > 1000);
    for end in [footer + 5, footer + 200, whole.len() - 24, whole.len() - 1] {
        fs::write(&pack, &whole[..end]).unwrap();
        let out = fsck();
        assert!(out.status.success(), "{end}: {}", stdout(&out));
        assert!(
            stderr(&out).contains("as a crash leaves them"),
            "{end}: {}",
            stderr(&out)
        );
    }
    for at in [footer + 6, whole.len() - 3] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&pack, &bytes).unwrap();
        let out = fsck();
        assert_eq!(out.status.code(), Some(1), "{at}: {}", stdout(&out));
    }
    fs::write(&pack, &whole[..whole.len() - 24]).unwrap();
    site.activate(&id);
    assert!(fsck().status.success());
    site.mount(&[]);
    assert_eq!(fs::read(site.live("large")).unwrap(), noise(1, 20 << 20));
}

#[test]
fn p6_the_index_may_vanish_under_a_running_daemon() {
    let site = Site::live_with(&[("a", "1")]);
    let folder = site.beside("build");
    for number in 0..30 {
        write_noise(&folder.join(format!("f{number}")), number, 600 << 10);
    }
    let one = site.deploy(&folder);
    fs::remove_dir_all(site.store.join("index")).unwrap();
    write_noise(&folder.join("new"), 99, 600 << 10);
    let two = site.deploy(&folder);
    site.activate(&two);
    assert_eq!(contents(&site.path("live")), contents(&folder));
    site.activate(&one);
    assert!(site.run(["fsck", "--read-data"]).status.success());
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
    site.activate(&two);
    assert_eq!(contents(&site.path("live")), contents(&folder));
}
