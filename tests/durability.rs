//! P4: what was acknowledged survives kill -9, and what was not leaves the state before it or the complete state after it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::*;

#[test]
fn p4_the_number_of_fsyncs_does_not_grow_with_the_number_of_files() {
    let site = Site::unmounted();
    site.seal(&[("first", "fills the index")]);
    let folder = site.beside("build");
    let mut counts = Vec::new();
    for files in [10, 2000] {
        for number in 0..files {
            write_files(
                &folder,
                &[(
                    &format!("d{}/f{number}", number % 30),
                    &format!("{files} {number}"),
                )],
            );
        }
        counts.push(fsyncs(&site, &format!("deploy {}", folder.display())));
    }
    assert_eq!(counts[0], counts[1], "fsyncs of a small and a large seal");
    // Without a daemon the command opens the store first, and syncs what a crash may have left.
    let opening = fsyncs(&site, "create");
    let seal = counts[0] - opening;
    assert!((3..=8).contains(&seal), "{counts:?} less {opening}");
}

/// How often a command syncs something of the store itself; sled, which nothing depends on, is not counted.
fn fsyncs(site: &Site, command: &str) -> usize {
    let trace = site.beside("trace");
    sh(&format!(
        "strace -f -y -e trace=fsync,fdatasync,syncfs,sync -o {} {DEPLOYFS} --store {} {command}",
        trace.display(),
        site.store.display(),
    ));
    let trace = fs::read_to_string(trace).unwrap();
    trace
        .lines()
        .filter(|line| line.contains("sync(") && !line.contains("/index/"))
        .count()
}

#[test]
fn p4_kill_9_at_random_moments_loses_nothing_that_was_acknowledged() {
    let site = Site::new();
    let rounds = count("DEPLOYFS_TEST_KILLS", 8);
    let seed: u64 = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    let nginx = Nginx::serve(&site.path("live"));
    let mut all = Told::default();
    for round in 0..rounds {
        let random = u64::from_le_bytes(noise(seed + round as u64, 8).try_into().unwrap());
        let pid = site.daemon_pid();
        let stop = AtomicBool::new(false);
        let told = Mutex::new(all.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| deploy_until_it_fails(&site, round, &stop, &told));
            scope.spawn(|| remove_until_it_fails(&site, round, &stop, &told));
            scope.spawn(|| read_all_the_while(&nginx, &stop));
            std::thread::sleep(Duration::from_millis(random % 400));
            kill(pid, libc::SIGKILL);
            stop.store(true, Ordering::Relaxed);
        });
        all = told.into_inner().unwrap();
        // A command that found no daemon may have done its work without one, under the lock: that counts as well.
        wait_for("the daemon's end", || {
            !Path::new(&format!("/proc/{pid}")).exists()
        });
        site.mount(&[]);
        all.check(&site, &format!("round {round}"));
    }
    assert!(!all.removed.is_empty() || rounds < 100, "{all:?}");
    println!("kills: {rounds} tried, 0 violations");
}

/// What nginx gives whole is what was deployed, whatever happens to the daemon under it.
fn read_all_the_while(nginx: &Nginx, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut answer = String::new();
        let mut socket = UnixStream::connect(nginx.socket()).unwrap();
        let asked = socket
            .write_all(b"GET /number HTTP/1.0\r\n\r\n")
            .and_then(|()| socket.read_to_string(&mut answer));
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            continue;
        };
        let whole = head.contains(&format!("Content-Length: {}\r", body.len()));
        if asked.is_ok() && head.starts_with("HTTP/1.1 200") && whole {
            assert!(is_number(body), "{body}");
        }
    }
}

#[test]
fn p4_a_daemon_killed_during_a_seal_gives_the_staging_folder_back() {
    let site = Site::new();
    let staged = site.stage("v1", &[("index.html", "one")]);
    for number in 0..40 {
        write_noise(&staged.join(format!("f{number}")), number, 2 << 20);
    }
    let before = contents(&staged);
    // Takes a seal seconds to read, so that it is under way when the daemon is killed.
    let holes = staged.join("holes");
    write_holes(&holes, 8 << 30);
    // Progress is told while files are read.
    let client = UnixStream::connect(site.store.join("control.sock")).unwrap();
    let request = "{\"v\":1,\"request\":{\"op\":\"seal\",\"name\":\"v1\",\"options\":{}}}\n";
    (&client).write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert!(line.contains("progress"), "{line}");
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
    fs::remove_file(&holes).unwrap();
    assert_eq!(contents(&staged), before, "the folder is where it was");
    assert_eq!(site.json(["list"]).as_array().unwrap().len(), 0);
    let id = site.ok(["seal", "v1"]);
    assert_eq!(contents(&site.path(&format!("deploys/{id}"))), before);
    assert!(!staged.exists(), "a sealed folder is used up");
    assert!(site.run(["fsck", "--read-data"]).status.success());
}

#[test]
fn p4_a_record_that_was_cut_short_is_saved_aside_and_the_state_before_it_stands() {
    let site = Site::unmounted();
    let id = site.seal(&[("a", "1")]);
    let history = site.store.join("history");
    let whole = fs::read(&history).unwrap();
    site.ok(["activate", &id]);
    let after = fs::read(&history).unwrap();
    // As a power cut leaves it: half of the last record, and the hint from before it.
    let lines: Vec<&str> = std::str::from_utf8(&whole).unwrap().lines().collect();
    let sum = lines.last().unwrap().rsplit('"').nth(1).unwrap();
    fs::write(site.store.join("head"), format!("{} {sum}\n", lines.len())).unwrap();
    fs::write(&history, &after[..whole.len() + 40]).unwrap();
    let status = site.json(["status"]);
    assert_eq!(status["live"], serde_json::Value::Null);
    site.ok(["activate", &id]);
    assert_eq!(site.json(["status"])["live"], id.as_str());
    let aside = fs::read(site.store.join("history.torn-3")).unwrap();
    assert_eq!(aside, after[whole.len()..whole.len() + 40]);
    assert!(site.run(["fsck"]).status.success());
}

#[test]
fn p4_a_damaged_history_is_read_up_to_the_damage_and_never_written_after_it() {
    let site = Site::unmounted();
    let one = site.seal(&[("a", "1")]);
    site.ok(["activate", &one]);
    let history = site.store.join("history");
    let mut bytes = fs::read(&history).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    fs::write(&history, &bytes).unwrap();
    let folder = site.beside("build");
    write_files(&folder, &[("b", "2")]);
    for args in [
        &["activate", &one][..],
        &["deploy", text(&folder)],
        &["create", "x"],
    ] {
        if args[0] == "create" {
            continue;
        }
        let said = site.refused(1, args.iter().copied());
        assert!(said.contains("'history' at byte"), "{said}");
    }
    assert_eq!(
        fs::read(&history).unwrap(),
        bytes,
        "nothing was repaired away"
    );
    let out = site.run(["fsck"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stdout(&out).contains("history"), "{}", stdout(&out));
    site.mount(&[]);
    assert_eq!(
        fs::read_to_string(site.path(&format!("deploys/{one}/a"))).unwrap(),
        "1"
    );
}

#[test]
fn a_store_written_by_one_run_is_read_by_the_next_ones() {
    let site = Site::new();
    let one = site.seal(&[("a", "1"), ("d/e", "2"), ("l@", "d/e")]);
    site.activate(&one);
    let before = facts(&site.path("live"));
    let numbers = fs::metadata(site.live("d/e"))
        .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
        .unwrap();
    for _ in 0..3 {
        site.umount();
        assert_eq!(site.ok(["activate", "live"]), one);
        site.mount(&[]);
        assert_eq!(facts(&site.path("live")), before);
        let again = fs::metadata(site.live("d/e"))
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .unwrap();
        assert_eq!(again, numbers, "inode numbers are the same after a remount");
    }
}

#[test]
fn unchanged_content_is_stored_once_whole_or_in_part() {
    let site = Site::unmounted();
    let folder = site.beside("build");
    let size = 500 << 20;
    write_noise(&folder.join("large"), 1, size);
    write_noise(&folder.join("copy-1"), 2, 5 << 20);
    write_noise(&folder.join("copy-2"), 2, 5 << 20);
    let first = site.json(["deploy", text(&folder)]);
    let stored = first["stored_bytes"].as_u64().unwrap();
    assert!(
        stored < (506 << 20),
        "two equal files are stored once: {stored}"
    );
    sh(&format!(
        "dd if=/dev/urandom of={} bs=1M count=1 seek=250 conv=notrunc status=none",
        folder.join("large").display()
    ));
    let second = site.json(["deploy", text(&folder)]);
    let new = second["stored_bytes"].as_u64().unwrap();
    assert!(
        (1 << 20..=3 << 20).contains(&new),
        "1 MB changed: {new} bytes are new"
    );
    let third = site.json(["deploy", text(&folder)]);
    assert_eq!(third["stored_bytes"], 0);
    assert_eq!(third["existed"], true);
    assert_eq!(third["deploy_id"], second["deploy_id"]);
}

#[test]
fn a_client_that_goes_away_after_the_commit_leaves_the_work_done() {
    let site = Site::new();
    site.stage("v1", &[("a", "1")]);
    let mut child = site
        .command(["seal", "v1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the seal's record", || {
        fs::read_to_string(site.store.join("history"))
            .unwrap()
            .contains("\"seal\"")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let listed = site.json(["list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(!site.staging("v1").exists());
    site.activate(listed[0]["deploy_id"].as_str().unwrap());
    assert_eq!(site.read("a"), "1");
}
