//! P10: a seal while something else writes, seals, or interrupts. It is made whole or not at all, and says which.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");

/// Tries what depends on the moment several times, and on until it has been refused at least once.
fn until_refused(mut is_refused: impl FnMut(usize) -> bool) {
    let tries = count("DEPLOYFS_TEST_MOMENTS", 3);
    let mut refused = 0;
    for number in 0..tries.max(30) {
        if number >= tries && refused > 0 {
            return;
        }
        refused += usize::from(is_refused(number));
    }
    assert!(refused > 0, "nothing was ever caught at work");
}

/// What a program says is kept.
fn start(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// True once the seal of this staging folder has begun (or is over): it is not found by its name any more.
fn is_moved_aside(site: &Site, name: &str) -> bool {
    !site.staging(name).exists()
}

/// Everything that is being sealed; not the sealed copies that are being removed.
fn under_seal(site: &Site) -> usize {
    let entries = fs::read_dir(site.staging("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.as_encoded_bytes().starts_with(b".sealing-"))
        .count()
}

/// True while that process has that file open.
fn has_open(pid: i32, path: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let mut paths = descriptors
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    paths.any(|open| open == path)
}

fn ids(site: &Site) -> BTreeSet<String> {
    let list = site.json(["list"]);
    let ids = list.as_array().unwrap().iter();
    ids.map(|deploy| deploy["deploy_id"].as_str().unwrap().to_owned())
        .collect()
}

/// What every file of the folder holds.
fn hashes(dir: &Path) -> BTreeSet<String> {
    let entries = contents(dir).into_values();
    entries
        .filter(|(kind, ..)| *kind == 'f')
        .map(|(_, _, hash)| hash)
        .collect()
}

#[test]
fn p10_a_file_that_changes_while_the_seal_reads_is_never_sealed_half() {
    let site = Site::live_with(&[PAGE]);
    until_refused(|number| {
        let name = format!("v{number}");
        let dir = site.stage(&name, &[]);
        for file in 0..40 {
            fs::write(dir.join(format!("{file}.bin")), noise(file, 1 << 20)).unwrap();
        }
        let before = contents(&dir);
        let handle = fs::File::open(&dir).unwrap();
        let seal = start(&mut site.command(["seal", &name]));
        wait_for("the seal's beginning", || is_moved_aside(&site, &name));
        // The path leads nowhere now; a handle still does.
        let inside = format!("/proc/self/fd/{}/39.bin", handle.as_raw_fd());
        let written = fs::OpenOptions::new().append(true).open(&inside);
        let written = written.and_then(|mut file| file.write_all(b"more"));
        let out = seal.wait_with_output().unwrap();
        let sealed = out.status.success();
        if sealed {
            let id = stdout(&out).trim().to_owned();
            assert_eq!(contents(&site.path(&format!("deploys/{id}"))), before);
            if written.is_ok() {
                mentions(&stderr(&out), &["wrote to the staging folder", text(&dir)]);
                assert!(
                    dir.join("39.bin").exists(),
                    "what is not in the deploy is kept"
                );
            }
        } else {
            let said = refusal(&out, 1);
            mentions(&said, &[text(&dir), "39.bin: it ", "seal again"]);
            assert_eq!(contents(&dir).len(), 40);
        }
        assert_eq!(under_seal(&site), 0);
        drop(handle);
        fs::remove_dir_all(&dir).ok();
        !sealed
    });
    site.ok(["fsck", "--read-data"]);
}

/// Copies a source into a staging folder with a program, seals while it runs, and checks what came of it.
fn seal_while_it_writes(
    site: &Site,
    source: &Path,
    whole: &str,
    name: &str,
    writer: &mut Command,
) -> bool {
    let complete = hashes(source);
    let dir = site.staging(name);
    let before = ids(site);
    // What it says would fill a pipe that nobody reads.
    let mut running = writer.stderr(Stdio::null()).spawn().unwrap();
    wait_for("its first files", || {
        fs::read_dir(&dir).is_ok_and(|entries| entries.count() > 2)
    });
    let out = site.run(["seal", name]);
    let written = running.wait().unwrap();
    let sealed = out.status.success();
    if sealed {
        let id = stdout(&out).trim().to_owned();
        let root = site.path(&format!("deploys/{id}"));
        assert!(
            hashes(&root).is_subset(&complete),
            "a file is half in the deploy"
        );
    } else {
        let said = refusal(&out, 1);
        mentions(&said, &[text(&dir), "seal again"]);
        assert_eq!(ids(site), before);
        // The writer has gone on in the folder, which is back in its place.
        assert!(written.success());
        assert!(contents(&dir) == contents(source));
        assert_eq!(site.ok(["seal", name]), whole);
    }
    assert_eq!(under_seal(site), 0);
    !sealed
}

/// A folder of many small and some large files.
fn source(site: &Site) -> std::path::PathBuf {
    let source = site.beside("source");
    for dir in 0..6u64 {
        let path = source.join(format!("d{dir}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..50u64 {
            let seed = dir * 100 + file;
            let size = if file == 0 { 2 << 20 } else { 20_000 };
            fs::write(path.join(format!("{file}.html")), noise(seed, size)).unwrap();
        }
    }
    source
}

#[test]
fn p10_a_tar_that_unpacks_across_the_seal_makes_it_refused_or_its_deploy_exact() {
    let site = Site::new();
    let source = source(&site);
    let whole = site.deploy(&source);
    let archive = site.beside("site.tar");
    sh(&format!(
        "tar -cf {} -C {} .",
        archive.display(),
        source.display()
    ));
    until_refused(|number| {
        let name = format!("tar-{number}");
        let dir = site.stage(&name, &[]);
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(&dir);
        seal_while_it_writes(&site, &source, &whole, &name, &mut tar)
    });
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_an_rsync_across_the_seal_makes_it_refused_or_its_deploy_exact() {
    let site = Site::new();
    let source = source(&site);
    let whole = site.deploy(&source);
    until_refused(|number| {
        let name = format!("rsync-{number}");
        let dir = site.stage(&name, &[]);
        let mut rsync = Command::new("rsync");
        rsync
            .arg("-r")
            .arg(format!("{}/", source.display()))
            .arg(&dir);
        seal_while_it_writes(&site, &source, &whole, &name, &mut rsync)
    });
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p10_two_seals_at_once_are_both_made() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            site.mount(&[]);
        }
        for name in ["a", "b"] {
            let dir = site.stage(name, &[("index.html", name)]);
            fs::write(dir.join("shared.bin"), noise(1, 4 << 20)).unwrap();
        }
        let seals = ["a", "b"].map(|name| start(&mut site.command(["seal", name])));
        let made = seals.map(|seal| seal.wait_with_output().unwrap());
        for out in &made {
            assert!(out.status.success(), "{}", stderr(out));
        }
        let made = made.map(|out| stdout(&out).trim().to_owned());
        assert_eq!(ids(&site), BTreeSet::from(made));
        assert_eq!(site.json(["status"])["staging"], serde_json::json!([]));
        site.ok(["fsck", "--read-data"]);
    }
}

#[test]
fn p10_two_seals_of_one_folder_make_one_deploy_and_one_refusal() {
    let site = Site::new();
    let dir = site.stage("v1", &[PAGE]);
    fs::write(dir.join("big.bin"), noise(1, 8 << 20)).unwrap();
    let seals = [(); 2].map(|()| start(&mut site.command(["seal", "v1"])));
    let mut outs = seals.map(|seal| seal.wait_with_output().unwrap());
    outs.sort_by_key(|out| out.status.code());
    assert!(outs[0].status.success(), "{}", stderr(&outs[0]));
    mentions(&refusal(&outs[1], 1), &["no staging folder 'v1'"]);
    assert_eq!(ids(&site).len(), 1);
}

/// Stages a folder that takes for ever to read, starts its seal and ends it with a signal once it is under way.
fn interrupt(site: &Site, signal: i32) -> Output {
    let dir = site.stage("v2", &[PAGE]);
    // A terabyte of nothing: it takes no space, and hours to hash.
    write_holes(&dir.join("endless.bin"), 1 << 40);
    let mut seal = site.command(["seal", "v2"]);
    // A Ctrl-C is for the whole group of processes; this test is not in it.
    let seal = start(seal.process_group(0));
    wait_for("the seal's beginning", || {
        is_moved_aside(site, "v2") && under_seal(site) == 1
    });
    kill(seal.id() as i32, signal);
    seal.wait_with_output().unwrap()
}

/// Asserts that nothing has come of an interrupted seal, and that its folder can still be sealed.
fn check_nothing_came_of_it(site: &Site, before: &BTreeSet<String>) {
    let dir = site.staging("v2");
    wait_for("the folder's return", || dir.exists());
    assert_eq!(under_seal(site), 0);
    assert_eq!(ids(site), *before);
    assert_eq!(
        fs::metadata(dir.join("endless.bin")).unwrap().len(),
        1 << 40
    );
    assert_eq!(fs::read_to_string(dir.join("index.html")).unwrap(), PAGE.1);
    site.ok(["fsck", "--read-data"]);
    fs::write(dir.join("endless.bin"), "the end").unwrap();
    site.ok(["seal", "v2"]);
}

#[test]
fn p10_an_interrupted_seal_leaves_nothing_behind_with_a_daemon() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let site = Site::live_with(&[("old.html", "old")]);
        let before = ids(&site);
        let out = interrupt(&site, signal);
        assert_eq!(out.status.signal(), Some(signal));
        assert_eq!(stdout(&out), "");
        check_nothing_came_of_it(&site, &before);
    }
}

#[test]
fn p10_an_interrupted_seal_leaves_nothing_behind_without_a_daemon() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let site = Site::unmounted();
        let before = ids(&site);
        let out = interrupt(&site, signal);
        mentions(&refusal(&out, 1), &["interrupted: nothing was changed"]);
        check_nothing_came_of_it(&site, &before);
    }
}

#[test]
fn p10_a_killed_seal_without_a_daemon_is_undone_by_the_next_command() {
    let site = Site::unmounted();
    let before = ids(&site);
    let out = interrupt(&site, libc::SIGKILL);
    assert_eq!(out.status.signal(), Some(libc::SIGKILL));
    assert_eq!(ids(&site), before, "who only looks sees no deploy");
    let out = site.run(["create"]);
    mentions(
        &stderr(&out),
        &[text(&site.staging("v2")), "did not complete"],
    );
    check_nothing_came_of_it(&site, &before);
}

#[test]
fn p10_a_daemon_that_is_killed_in_a_seal_brings_the_folder_back_when_it_is_mounted_again() {
    let site = Site::live_with(&[PAGE]);
    let before = ids(&site);
    let dir = site.stage("v2", &[PAGE]);
    write_holes(&dir.join("endless.bin"), 1 << 40);
    let seal = start(&mut site.command(["seal", "v2"]));
    wait_for("the seal's beginning", || under_seal(&site) == 1);
    site.signal_daemon(libc::SIGKILL);
    let out = seal.wait_with_output().unwrap();
    mentions(
        &refusal(&out, 5),
        &["the daemon ended before it answered", "deployfs log"],
    );
    site.mount(&[]);
    assert_eq!(site.read(PAGE.0), PAGE.1);
    check_nothing_came_of_it(&site, &before);
}

#[test]
fn p10_an_interrupted_deploy_of_a_folder_leaves_nothing_behind() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            site.mount(&[]);
        }
        let build = site.beside("build");
        write_files(&build, &[PAGE]);
        write_holes(&build.join("endless.bin"), 1 << 40);
        let deploy = start(&mut site.command(["deploy", text(&build)]));
        let reader = match mounted {
            true => site.daemon_pid(),
            false => deploy.id() as i32,
        };
        wait_for("the reading", || {
            has_open(reader, &build.join("endless.bin"))
        });
        kill(deploy.id() as i32, libc::SIGINT);
        let out = deploy.wait_with_output().unwrap();
        assert!(!out.status.success());
        assert_eq!(stdout(&out), "");
        assert!(ids(&site).is_empty());
        // The next change does not wait for what was interrupted.
        fs::remove_file(build.join("endless.bin")).unwrap();
        site.deploy(&build);
        site.ok(["fsck", "--read-data"]);
    }
}
