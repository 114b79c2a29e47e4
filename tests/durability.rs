//! P4: what was acknowledged survives kill -9, and what was not leaves the state before it or the complete state after it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
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
        counts.push(fsyncs(&site, &folder));
    }
    assert_eq!(counts[0], counts[1], "fsyncs of a small and a large seal");
    assert!((3..=8).contains(&counts[0]), "{counts:?}");
}

/// How often `deploy` syncs something of the store itself; sled, which nothing depends on, is not counted.
fn fsyncs(site: &Site, folder: &Path) -> usize {
    let trace = site.beside("trace");
    sh(&format!(
        "strace -f -y -e trace=fsync,fdatasync,syncfs,sync -o {} {DEPLOYFS} --store {} deploy {}",
        trace.display(),
        site.store.display(),
        folder.display()
    ));
    let trace = fs::read_to_string(trace).unwrap();
    trace
        .lines()
        .filter(|line| line.contains("sync(") && !line.contains("/index/"))
        .count()
}

/// What one client was told of its deploys, line by line, by a process that may be killed with its daemon.
struct Acknowledged {
    sealed: BTreeSet<String>,
    live: Option<String>,
    in_flight: Option<String>,
}

/// Seals and activates until the daemon is gone, and says what it was told.
fn work_until_killed(site: &Site, round: usize, stop: &AtomicBool) -> Acknowledged {
    let mut told = Acknowledged {
        sealed: BTreeSet::new(),
        live: None,
        in_flight: None,
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let folder = site.beside(&format!("build-{round}"));
        write_files(&folder, &[("number", &format!("{round} {number}"))]);
        write_noise(
            &folder.join(format!("noise{}", number % 5)),
            number,
            200_000,
        );
        let out = site.run(["deploy", text(&folder)]);
        if !out.status.success() {
            break;
        }
        let id = stdout(&out).trim_end().to_owned();
        told.sealed.insert(id.clone());
        told.in_flight = Some(id.clone());
        if !site.run(["activate", &id]).status.success() {
            break;
        }
        told.live = told.in_flight.take();
    }
    told
}

#[test]
fn p4_kill_9_at_random_moments_loses_nothing_that_was_acknowledged() {
    let site = Site::new();
    let rounds = count("DEPLOYFS_TEST_KILLS", 8);
    let seed: u64 = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    let mut sealed = BTreeSet::new();
    let mut live = None;
    for round in 0..rounds {
        let random = u64::from_le_bytes(noise(seed + round as u64, 8).try_into().unwrap());
        let pid = site.daemon_pid();
        let stop = AtomicBool::new(false);
        let told = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work_until_killed(&site, round, &stop));
            std::thread::sleep(Duration::from_millis(random % 400));
            kill(pid, libc::SIGKILL);
            stop.store(true, Ordering::Relaxed);
            worker.join().unwrap()
        });
        // A command that found no daemon may have done its work without one, under the lock: that counts as well.
        wait_for("the daemon's end", || {
            !Path::new(&format!("/proc/{pid}")).exists()
        });
        site.mount(&[]);
        sealed.extend(told.sealed);
        live = told.live.or(live);
        check(
            &site,
            &sealed,
            live.as_deref(),
            told.in_flight.as_deref(),
            round,
        );
        live = site.json(["status"])["live"].as_str().map(str::to_owned);
    }
    println!("kills: {rounds} tried, 0 violations");
}

fn check(
    site: &Site,
    sealed: &BTreeSet<String>,
    live: Option<&str>,
    in_flight: Option<&str>,
    round: usize,
) {
    let listed = site.json(["list"]);
    let listed: BTreeSet<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|deploy| deploy["deploy_id"].as_str().unwrap())
        .collect();
    for id in sealed {
        assert!(listed.contains(id.as_str()), "round {round}: {id} is lost");
    }
    let status = site.json(["status"]);
    let now = status["live"].as_str();
    assert!(
        now == live || now == in_flight,
        "round {round}: {now:?} is live, {live:?} was acknowledged, {in_flight:?} under way"
    );
    let check = site.run(["fsck", "--read-data"]);
    assert!(check.status.success(), "round {round}: {}", stdout(&check));
    if let Some(id) = now {
        let deploy = site.path(&format!("deploys/{id}"));
        assert_eq!(facts(&site.path("live")), facts(&deploy), "round {round}");
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
    // Progress is told while files are read: the seal is under way then.
    let client = std::os::unix::net::UnixStream::connect(site.store.join("control.sock")).unwrap();
    let request = "{\"v\":1,\"request\":{\"op\":\"seal\",\"name\":\"v1\",\"options\":{}}}\n";
    std::io::Write::write_all(&mut &client, request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert!(line.contains("progress"), "{line}");
    site.signal_daemon(libc::SIGKILL);
    site.mount(&[]);
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
