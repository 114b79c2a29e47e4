//! `export` and `import`: a deploy arrives under its id with every byte, or not at all.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::*;

/// A site of every size of file: none, small and alike, several chunks, a list of chunks.
fn site_folder(site: &Site) -> PathBuf {
    let dir = site.beside("build");
    for number in 0..200 {
        let page = format!(
            "<html><p>page {number}</p>{}</html>",
            "the same text ".repeat(40)
        );
        write_files(&dir, &[(&format!("pages/{number}.html"), &page)]);
    }
    write_files(
        &dir,
        &[("index.html", "one"), ("empty", ""), ("deep/er/x", "x")],
    );
    write_noise(&dir.join("medium.bin"), 1, 1 << 20);
    write_noise(&dir.join("large.bin"), 2, 9 << 20);
    symlink("index.html", dir.join("home")).unwrap();
    dir
}

fn export(site: &Site, id: &str) -> PathBuf {
    let path = site.beside("site.dpl");
    let file = fs::File::create(&path).unwrap();
    let out = site.command(["export", id]).stdout(file).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    path
}

fn mtime(path: &Path) -> i64 {
    fs::symlink_metadata(path).unwrap().mtime()
}

#[test]
fn a_deploy_moves_to_another_store_under_its_id() {
    let from = Site::new();
    let dir = site_folder(&from);
    let id = from.ok([
        "deploy",
        text(&dir),
        "-m",
        "release 7",
        "--meta",
        "git_sha=1a2b",
    ]);
    from.activate(&id);
    let file = export(&from, "live");
    for mounted in [true, false] {
        let to = if mounted {
            Site::new()
        } else {
            Site::unmounted()
        };
        let report = to.json(["import", text(&file), "--activate"]);
        assert_eq!(report["deploy_id"], id);
        assert_eq!(report["existed"], false);
        assert!(to.ok(["fsck", "--read-data"]).is_empty());
        let shown = to.json(["show", "live"]);
        assert_eq!(shown["message"], "release 7");
        assert_eq!(shown["meta"]["git_sha"], "1a2b");
        assert_eq!(
            shown["meta"]["origin_sealed_by"],
            from.json(["show", &id])["sealed_by"]
        );
        if !mounted {
            to.mount(&[]);
        }
        assert_eq!(contents(&to.path("live")), contents(&dir));
        // Alike pages share a dictionary here too.
        let stored = report["stored_bytes"].as_u64().unwrap();
        assert!(stored < (10 << 20) + 100_000, "{stored}");
        let again = to.json(["import", text(&file)]);
        assert_eq!(
            (&again["existed"], &again["new_chunks"]),
            (&true.into(), &0.into())
        );
    }
}

#[test]
fn a_pipe_from_store_to_store_works_for_ordinary_users_of_root_s_daemons() {
    let (from, to) = (Site::unmounted(), Site::unmounted());
    for site in [&from, &to] {
        site.mount(&["--control-group", "nogroup"]);
    }
    let dir = site_folder(&from);
    let id = from.deploy(&dir);
    let mut export = from.command(["export", &id]);
    let mut export = nobody(&mut export)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut import = to.command(["import", "-"]);
    let import = nobody(&mut import)
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert_eq!(stdout(&import).trim_end(), id, "{}", stderr(&import));
    assert!(export.wait().unwrap().success());
    assert_eq!(contents(&to.path(&format!("deploys/{id}"))), contents(&dir));
}

#[test]
fn p7_an_import_has_this_store_s_mtimes_and_equal_bytes_keep_theirs() {
    let (from, to) = (Site::new(), Site::new());
    let one = to.seal(&[("same.html", "same"), ("page.html", "old")]);
    to.activate(&one);
    let same = mtime(&to.live("same.html"));
    let last = mtime(&to.live("."));
    let id = from.seal(&[("same.html", "same"), ("page.html", "new"), ("d/x", "x")]);
    to.ok(["import", text(&export(&from, &id)), "--activate"]);
    assert_eq!(mtime(&to.live("same.html")), same);
    for path in ["page.html", "d/x", "d", "."] {
        assert!(mtime(&to.live(path)) > last, "{path}");
    }
    let newest = mtime(&to.live("page.html"));
    let next = to.seal(&[("page.html", "newer")]);
    to.activate(&next);
    assert!(mtime(&to.live("page.html")) > newest);
}

#[test]
fn p7_a_replica_keeps_the_mtimes_that_no_seal_of_its_own_has_used() {
    let main = Site::new();
    main.activate(&main.seal(&[("a.html", "1"), ("b.html", "same")]));
    main.umount();
    let replica = Site::without_a_store();
    sh(&format!(
        "cp -a {} {}",
        main.store.display(),
        replica.store.display()
    ));
    main.mount(&[]);
    replica.mount(&[]);
    std::thread::sleep(Duration::from_millis(1100));
    let id = main.seal(&[("a.html", "2"), ("b.html", "same"), ("d/c.html", "new")]);
    main.activate(&id);
    replica.ok(["import", text(&export(&main, &id)), "--activate"]);
    for path in [".", "a.html", "b.html", "d", "d/c.html"] {
        assert_eq!(
            mtime(&replica.live(path)),
            mtime(&main.live(path)),
            "{path}"
        );
    }
    // Both go on by themselves in the same second: what then comes from the other gets a second of its own.
    let here = replica.seal(&[("a.html", "3")]);
    let there = main.seal(&[("a.html", "4")]);
    replica.activate(&here);
    let used = mtime(&replica.live("a.html"));
    replica.ok(["import", text(&export(&main, &there)), "--activate"]);
    assert!(mtime(&replica.live("a.html")) > used);
}

#[test]
fn p10_a_damaged_or_cut_export_is_refused_whole_wherever_it_is() {
    let (from, to) = (
        Site::unmounted(),
        Site::live_with(&[("index.html", "here")]),
    );
    let dir = from.beside("build");
    write_files(&dir, &[("index.html", "there"), ("d/a", "a"), ("d/b", "b")]);
    write_noise(&dir.join("c.bin"), 1, 400_000);
    let id = from.deploy(&dir);
    let whole = fs::read(export(&from, &id)).unwrap();
    let bad = to.beside("bad.dpl");
    let step = whole.len() / 12;
    let places = (0..60).step_by(9).chain((60..whole.len()).step_by(step));
    for at in places.chain([whole.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        for bytes in [&flipped[..], &whole[..at]] {
            fs::write(&bad, bytes).unwrap();
            let said = to.refused_whole(1, ["import", text(&bad), "--activate"]);
            assert!(said.contains("export"), "{at}: {said}");
        }
    }
    fs::write(&bad, [&whole[..], b"more"].concat()).unwrap();
    mentions(
        &to.refused_whole(1, ["import", text(&bad)]),
        &["after its end"],
    );
    fs::write(&bad, b"deployfs export 2\nfrom later").unwrap();
    mentions(
        &to.refused_whole(1, ["import", text(&bad)]),
        &["newer deployfs"],
    );
    mentions(
        &to.refused_whole(1, ["import", text(&dir)]),
        &["is a folder"],
    );
    fs::write(&bad, &whole).unwrap();
    mentions(
        &to.refused_whole(1, ["import", text(&bad), "--max-bytes", "100K"]),
        &["--max-bytes"],
    );
    mentions(
        &to.refused_whole(1, ["import", text(&bad), "--max-entries", "3"]),
        &["--max-entries"],
    );
    assert_eq!(to.ok(["import", text(&bad)]), id);
}

#[test]
fn a_broken_off_import_is_run_again_and_stores_nothing_twice() {
    let from = Site::unmounted();
    let dir = from.beside("build");
    for number in 0..30 {
        write_noise(&dir.join(format!("{number}.bin")), number, 1 << 20);
    }
    let id = from.deploy(&dir);
    let file = export(&from, &id);
    let bytes = fs::read(&file).unwrap();
    let to = Site::new();
    let cut = to.beside("cut.dpl");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    mentions(
        &to.refused_whole(1, ["import", text(&cut)]),
        &["too early", "run the import again"],
    );
    let report = to.json(["import", text(&file)]);
    let new = report["new_bytes"].as_u64().unwrap();
    assert!(new < 17 << 20, "{new}");
    assert!(to.json(["status"])["pack_bytes"].as_u64().unwrap() < 32 << 20);
    // The same where the import is killed.
    let to = Site::unmounted();
    let mut import = to.command(["import", text(&file)]).spawn().unwrap();
    let packs = || -> u64 {
        let packs = fs::read_dir(to.store.join("packs")).unwrap();
        packs
            .map(|pack| pack.unwrap().metadata().map_or(0, |m| m.len()))
            .sum()
    };
    wait_for("a third", || packs() > 10 << 20);
    kill(import.id() as i32, libc::SIGKILL);
    import.wait().unwrap();
    if to.json(["list"]).as_array().unwrap().is_empty() {
        let report = to.json(["import", text(&file)]);
        assert!(report["new_bytes"].as_u64().unwrap() < 21 << 20, "{report}");
    }
    assert_eq!(to.json(["list"])[0]["deploy_id"], id);
    assert!(packs() < 32 << 20);
    to.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_links_that_lead_out_are_asked_about_again() {
    let (from, to) = (Site::unmounted(), Site::unmounted());
    let dir = from.beside("build");
    write_files(&dir, &[("index.html", "x")]);
    symlink("/etc/passwd", dir.join("out")).unwrap();
    let id = from.ok(["deploy", text(&dir), "--allow-external-symlinks"]);
    let file = export(&from, &id);
    mentions(
        &to.refused_whole(1, ["import", text(&file)]),
        &["the export", "out", "--allow-external-symlinks"],
    );
    assert_eq!(
        to.ok(["import", text(&file), "--allow-external-symlinks"]),
        id
    );
}

#[test]
fn an_export_that_cannot_be_written_says_so_and_one_of_damage_is_not_whole() {
    let site = Site::new();
    let id = site.deploy(&site_folder(&site));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let out = site.command(["export", &id]).stdout(full).output().unwrap();
    mentions(&stderr(&out), &["cannot be written", "No space left"]);
    assert_eq!(out.status.code(), Some(1));
    let mut early = Command::new("sh");
    let line = format!(
        "{DEPLOYFS} --store {} export {id} | head -c 100 | wc -c",
        site.store.display()
    );
    assert_eq!(
        stdout(&early.args(["-c", &line]).output().unwrap()).trim(),
        "100"
    );
    site.umount();
    let pack = site.store.join("packs/000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let file = fs::File::create(site.beside("bad.dpl")).unwrap();
    let out = site.command(["export", &id]).stdout(file).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    let other = Site::unmounted();
    let bad = site.beside("bad.dpl");
    mentions(
        &other.refused_whole(1, ["import", text(&bad)]),
        &["too early"],
    );
}

#[test]
fn p8_an_export_to_a_slow_reader_is_whole_though_its_deploy_is_removed_and_gc_runs() {
    let (from, to) = (Site::live_with(&[("index.html", "kept")]), Site::new());
    let dir = from.beside("build");
    for number in 0..20 {
        write_noise(&dir.join(number.to_string()), number, 1 << 20);
    }
    let id = from.deploy(&dir);
    let mut export = from
        .command(["export", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut read = export.stdout.take().unwrap();
    let mut start = [0; 100];
    read.read_exact(&mut start).unwrap();
    let pack_bytes = || from.json(["status"])["pack_bytes"].as_u64().unwrap();
    from.ok(["rm", &id]);
    from.ok(["gc"]);
    assert!(pack_bytes() > 20 << 20, "it is still being exported");
    let path = from.beside("slow.dpl");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&start).unwrap();
    io::copy(&mut read, &mut file).unwrap();
    let out = export.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(to.ok(["import", text(&path)]), id);
    assert_eq!(contents(&to.path(&format!("deploys/{id}"))), contents(&dir));
    from.ok(["gc"]);
    assert!(pack_bytes() < 1 << 20, "nothing holds it any more");
    assert_eq!(from.json(["status"])["suspects"], serde_json::json!([]));
}

#[test]
fn a_missing_chunk_that_no_deploy_needs_is_forgotten_by_a_clean_fsck_or_scrub() {
    // As a version left it that freed a deploy while it was read.
    let remembered = serde_json::json!([{
        "chunk": "ab".repeat(32),
        "file": "packs",
        "offset": 0,
        "what": "chunk is in no pack",
        "since": 1_700_000_000,
    }]);
    for check in [&["fsck", "--read-data"][..], &["scrub"]] {
        let site = Site::live_with(&[("index.html", "here")]);
        site.umount();
        fs::write(site.store.join("cache/suspects"), remembered.to_string()).unwrap();
        site.mount(&[]);
        let suspects = || site.json(["status"])["suspects"].as_array().unwrap().len();
        assert_eq!(suspects(), 1);
        site.ok(check.iter().copied());
        assert_eq!(suspects(), 0, "{check:?}");
        site.umount();
        assert_eq!(suspects(), 0, "{check:?}");
    }
}

#[test]
fn p8_imports_beside_a_gc_lose_nothing() {
    let (from, to) = (Site::unmounted(), Site::new());
    let dir = from.beside("build");
    let mut kept = Vec::new();
    for round in 0..6u64 {
        write_noise(&dir.join("shared.bin"), round / 2, 2 << 20);
        write_noise(&dir.join("own.bin"), 100 + round, 1 << 20);
        let id = from.deploy(&dir);
        let file = export(&from, &id);
        // What it had stored before is garbage by now, or is about to be.
        let bytes = fs::read(&file).unwrap();
        let cut = to.beside("cut.dpl");
        fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).unwrap();
        to.refused(1, ["import", text(&cut)]);
        let mut gc = to
            .command(["gc"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(to.ok(["import", text(&file)]), id);
        assert!(gc.wait().unwrap().success());
        kept.push(id);
        if round % 3 == 2 {
            to.ok(["rm", &kept.remove(0)]);
        }
    }
    to.ok(["gc"]);
    to.ok(["fsck", "--read-data"]);
    assert_eq!(to.json(["list"]).as_array().unwrap().len(), kept.len());
    assert_eq!(
        contents(&to.path(&format!("deploys/{}", kept.last().unwrap()))),
        contents(&dir)
    );
}

#[test]
fn p10_an_interrupted_import_or_export_through_a_daemon_ends_and_leaves_no_deploy() {
    let (from, to) = (Site::new(), Site::new());
    let dir = from.beside("build");
    for number in 0..40 {
        write_noise(&dir.join(number.to_string()), number, 1 << 20);
    }
    let id = from.deploy(&dir);
    // Nobody reads the pipe: the export waits, and is told to end.
    let mut stuck = from
        .command(["export", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        stuck.try_wait().unwrap().is_none(),
        "it waits for its reader"
    );
    kill(stuck.id() as i32, libc::SIGINT);
    assert!(!stuck.wait().unwrap().success());
    let file = export(&from, &id);
    let before = to.state();
    let mut import = to
        .command(["import", text(&file)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("some of it", || {
        to.json(["status"])["pack_bytes"].as_u64().unwrap() > 2 << 20
    });
    kill(import.id() as i32, libc::SIGINT);
    import.wait().unwrap();
    // The daemon sees that nobody waits any more, unless it had come to the end by then.
    let list = to.json(["list"]);
    let is_whole = list[0]["deploy_id"] == id;
    assert!(is_whole || to.state() == before, "{list}");
    assert_eq!(to.ok(["import", text(&file)]), id);
    to.ok(["fsck", "--read-data"]);
}
