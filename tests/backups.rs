//! `backup`: a consistent copy of a store beside everything that goes on, which is a store itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deployfs::model::report::BackupReport;
use rustix::fs::{FlockOperation, flock};

use crate::support::*;

/// Makes a backup; what it reports.
fn back_up(site: &Site, dir: &Path) -> BackupReport {
    let report = site.json(["backup", text(dir)]);
    serde_json::from_value(report).unwrap()
}

/// Runs a command on the store in a folder.
fn on<'a>(dir: &'a Path, args: impl IntoIterator<Item = &'a str>) -> Output {
    deployfs(["--store", text(dir)].into_iter().chain(args))
}

fn on_ok<'a>(dir: &'a Path, args: impl IntoIterator<Item = &'a str>) -> String {
    let out = on(dir, args);
    assert!(out.status.success(), "{}", stderr(&out));
    stdout(&out)
}

/// A folder with enough random bytes that copying them takes a moment.
fn large_folder(site: &Site, seed: u64, mebibytes: usize) -> PathBuf {
    let folder = site.beside(&format!("large-{seed}"));
    for number in 0..mebibytes as u64 {
        let path = folder.join(format!("f{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(path, noise(seed * 1000 + number, 1 << 20)).unwrap();
    }
    folder
}

#[test]
fn a_backup_is_a_store_with_the_same_deploys_history_and_settings() {
    let site = Site::new();
    let one = site.seal(&[("a", "one"), ("dir/b", "b")]);
    site.activate(&one);
    let two = site.seal(&[("a", "two"), ("dir/b", "b")]);
    site.ok(["channel", "set", "preview", &two]);
    fs::write(site.store.join("retention.toml"), "keep = 7\n").unwrap();
    fs::create_dir(site.store.join("hooks")).unwrap();
    let hook = site.store.join("hooks/post-activate");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let dir = site.beside("backup");

    let report = back_up(&site, &dir);
    assert_eq!((report.deploys, report.new_deploys), (2, 2));
    assert_eq!(report.backup, dir);
    for what in ["list", "log"] {
        let said = on_ok(&dir, [what, "--json"]);
        assert_eq!(said, on_ok(&site.store, [what, "--json"]), "{what}");
    }
    let status = |store: &Path| site_json(store, "status")["uuid"].clone();
    assert_eq!(status(&dir), status(&site.store));
    assert_eq!(fs::read(dir.join("retention.toml")).unwrap(), b"keep = 7\n");
    let mode = fs::metadata(dir.join("hooks/post-activate"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o755);

    // To restore is to mount it; both may be mounted at once.
    let mnt = site.beside("restored");
    fs::create_dir(&mnt).unwrap();
    let restored = Restored::mount(&dir, &mnt);
    assert_eq!(facts(&mnt.join("live")), facts(&site.path("live")));
    assert_eq!(
        facts(&mnt.join("deploys").join(&two)),
        facts(&site.path("deploys").join(&two))
    );
    assert_eq!(
        fs::read_to_string(mnt.join("channels/preview/a")).unwrap(),
        "two"
    );
    let busy = site.refused(1, ["backup", text(&dir)]);
    mentions(&busy, &["is in use by"]);
    drop(restored);
    on_ok(&dir, ["fsck", "--read-data"]);
}

fn site_json(store: &Path, what: &str) -> serde_json::Value {
    serde_json::from_str(&on_ok(store, [what, "--json"])).unwrap()
}

/// A mounted backup.
struct Restored<'a>(&'a Path);

impl<'a> Restored<'a> {
    fn mount(dir: &Path, mnt: &'a Path) -> Self {
        let out = deployfs(["mount", text(dir), text(mnt)]);
        assert!(out.status.success(), "{}", stderr(&out));
        Restored(mnt)
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let out = deployfs(["umount", text(self.0)]);
        if !out.status.success() {
            let _ = Command::new("umount").arg("-l").arg(self.0).output();
        }
    }
}

#[test]
fn a_second_backup_copies_what_is_new_and_drops_what_was_removed() {
    let site = Site::new();
    let large = large_folder(&site, 1, 8);
    let first = site.deploy(&large);
    let dir = site.beside("backup");
    let report = back_up(&site, &dir);
    assert!(report.bytes > 8 << 20, "{report:?}");

    let again = back_up(&site, &dir);
    assert_eq!((again.new_deploys, again.chunks, again.bytes), (0, 0, 0));

    fs::write(large.join("new"), "new").unwrap();
    let second = site.deploy(&large);
    let report = back_up(&site, &dir);
    assert_eq!(report.new_deploys, 1);
    assert!((1..64 << 10).contains(&report.bytes), "{report:?}");

    // Sealed again after its removal, with another base: the backup has its new dates too.
    site.ok(["rm", &second]);
    let other = site.seal(&[("f0", "small")]);
    site.activate(&other);
    site.ok(["rm", &first]);
    site.ok(["gc"]);
    let report = back_up(&site, &dir);
    assert!(report.freed_bytes > 7 << 20, "{report:?}");
    assert!(report.pack_bytes < 1 << 20, "{report:?}");
    site.deploy(&large);
    back_up(&site, &dir);
    let mnt = site.beside("restored");
    fs::create_dir(&mnt).unwrap();
    let restored = Restored::mount(&dir, &mnt);
    let deploys = |mnt: &Path| facts(&mnt.join("deploys").join(&second));
    assert_eq!(deploys(&mnt), deploys(&site.mnt));
    drop(restored);
    on_ok(&dir, ["fsck", "--read-data"]);
}

#[test]
fn p4_a_backup_that_was_killed_is_no_store_yet_or_the_one_before_and_goes_on() {
    let site = Site::unmounted();
    let dir = site.beside("backup");
    site.deploy(&large_folder(&site, 1, 40));
    let kill_once = |is_under_way: &dyn Fn() -> bool| {
        let mut child = site.command(["backup", text(&dir)]).spawn().unwrap();
        wait_for("the backup to be under way", || {
            is_under_way() || child.try_wait().unwrap().is_some()
        });
        let was_killed = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        was_killed
    };
    let pack_bytes = || {
        let packs = fs::read_dir(dir.join("packs")).into_iter().flatten();
        let lens = packs.map(|entry| entry.unwrap().metadata().unwrap().len());
        lens.sum::<u64>()
    };
    assert!(kill_once(&|| pack_bytes() > 4 << 20), "it was too fast");
    let said = refusal(&on(&dir, ["list"]), 1);
    mentions(
        &said,
        &[text(&dir), "not complete", "make the backup again"],
    );
    let said = refusal(&on(&dir, ["fsck", "--repair"]), 1);
    mentions(&said, &["not complete"]);
    let came = pack_bytes();
    let report = back_up(&site, &dir);
    assert!(
        report.bytes < (41 << 20) - came / 2,
        "it began anew: {report:?}, {came}"
    );
    on_ok(&dir, ["fsck", "--read-data"]);

    let before = on_ok(&dir, ["list", "--json"]);
    site.deploy(&large_folder(&site, 2, 40));
    assert!(kill_once(&|| pack_bytes() > 45 << 20), "it was too fast");
    assert_eq!(on_ok(&dir, ["list", "--json"]), before);
    on_ok(&dir, ["verify"]);
    assert_eq!(back_up(&site, &dir).new_deploys, 1);
    on_ok(&dir, ["fsck", "--read-data"]);
}

#[test]
fn a_first_backup_that_ended_before_its_marker_can_be_made_again() {
    let site = Site::unmounted();
    site.seal(&[("a", "a")]);
    let folders = [
        "packs",
        "deploys",
        "staging",
        "staging/.sealing",
        "index",
        "cache",
    ];
    let leftover = |name: &str, made: usize| {
        let dir = site.beside(name);
        fs::create_dir(&dir).unwrap();
        for folder in &folders[..made] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        dir
    };
    // The folders come one by one, then the lock, then the marker's temporary file, which may be whole or not.
    let mut dirs: Vec<PathBuf> = (0..=folders.len())
        .map(|made| leftover(&format!("folders-{made}"), made))
        .collect();
    for (name, tmp) in [
        ("locked", None),
        ("torn", Some("")),
        ("begun", Some("0123")),
    ] {
        let dir = leftover(name, folders.len());
        fs::write(dir.join("lock"), "4711").unwrap();
        if let Some(bytes) = tmp {
            fs::write(dir.join("backup.incomplete.tmp"), bytes).unwrap();
        }
        dirs.push(dir);
    }
    for dir in dirs {
        assert_eq!(back_up(&site, &dir).new_deploys, 1, "{}", dir.display());
        on_ok(&dir, ["fsck", "--read-data"]);
    }

    // A file in such a folder is somebody's.
    for file in [
        "packs/mine",
        "staging/mine",
        "staging/.sealing/mine",
        "mine",
    ] {
        let dir = leftover(&file.replace('/', "-"), folders.len());
        fs::write(dir.join(file), "mine").unwrap();
        let before = facts(&dir);
        mentions(&site.refused(1, ["backup", text(&dir)]), &["is not empty"]);
        assert_eq!(facts(&dir), before);
    }
}

#[test]
fn p5_damage_in_the_store_is_named_and_does_not_reach_the_backup() {
    let site = Site::unmounted();
    let good = site.seal(&[("a", "the first text, which is whole")]);
    let dir = site.beside("backup");
    back_up(&site, &dir);
    let before = fs::read(dir.join("history")).unwrap();
    site.seal(&[("b", "the second text, to be damaged")]);
    damage_text(&site, b"the first text");
    damage_text(&site, b"the second text");
    let said = site.refused(1, ["backup", text(&dir)]);
    mentions(
        &said,
        &[
            "packs/",
            "at byte",
            "stays as it was",
            "then make the backup again",
        ],
    );
    assert_eq!(fs::read(dir.join("history")).unwrap(), before);
    on_ok(&dir, ["fsck", "--read-data"]);
    // The backup brings back what the store has lost.
    let export = site.beside("export");
    let out = on(&dir, ["export", &good]);
    fs::write(&export, out.stdout).unwrap();
    site.ok(["import", text(&export)]);
    site.ok(["verify", &good]);
}

#[test]
fn p5_damage_in_the_backup_is_found_by_check_and_copied_anew() {
    let site = Site::unmounted();
    site.seal(&[("a", "a text that is to be damaged")]);
    let dir = site.beside("backup");
    back_up(&site, &dir);
    let pack = dir.join("packs/000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(6).position(|part| part == b"a text").unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert!(!on(&dir, ["verify"]).status.success());
    let report = site.json(["backup", "--check", text(&dir)]);
    assert_eq!(
        (&report["damaged"], &report["healed"]),
        (&1.into(), &1.into())
    );
    on_ok(&dir, ["verify"]);
}

#[test]
fn p10_a_folder_that_can_hold_no_backup_is_refused_and_nothing_changes() {
    let site = Site::unmounted();
    site.seal(&[("a", "a")]);
    let refused = |dir: &Path, words: &[&str]| {
        mentions(&site.refused(1, ["backup", text(dir)]), words);
    };
    refused(&site.store, &["is the store, or lies in it"]);
    refused(&site.store.join("staging/new"), &["lies in it"]);
    assert!(!site.store.join("staging/new").exists());
    refused(site.store.parent().unwrap(), &["the store lies in it"]);

    let full = site.beside("full");
    write_files(&full, &[("mine", "mine")]);
    refused(&full, &["is not empty"]);
    assert_eq!(facts(&full).len(), 1);

    let other = site.beside("other");
    assert!(deployfs(["init", text(&other)]).status.success());
    refused(&other, &["another store"]);

    // Both went on from one state.
    let dir = site.beside("backup");
    back_up(&site, &dir);
    on_ok(&dir, ["deploy", text(&full)]);
    refused(&dir, &["a history of its own from record 3 on"]);
    site.seal(&[("b", "b")]);
    refused(&dir, &["a history of its own from record 3 on"]);

    let theirs = site.beside("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(NOBODY), None).unwrap();
    refused(&theirs, &["belongs to another user"]);
    let out = nobody(&mut site.command(["backup", text(&theirs)]))
        .output()
        .unwrap();
    mentions(
        &refusal(&out, 1),
        &["packs", "be root or the store's owner"],
    );
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
}

#[test]
fn a_backup_has_the_modes_of_a_store_whatever_the_umask() {
    let site = Site::unmounted();
    site.seal(&[("a", "a")]);
    for mask in ["000", "077"] {
        let dir = site.beside(&format!("backup-{mask}"));
        let (store, to) = (site.store.display(), dir.display());
        sh(&format!(
            "umask {mask}; {DEPLOYFS} --store {store} backup {to}"
        ));
        for path in [
            "", "packs", "deploys", "staging", "index", "history", "format",
        ] {
            let mode = |store: &Path| fs::metadata(store.join(path)).unwrap().mode() & 0o7777;
            let shown = (
                format!("{:o}", mode(&dir)),
                format!("{:o}", mode(&site.store)),
            );
            assert_eq!(shown.0, shown.1, "{path} with umask {mask}");
        }
        let others = fs::metadata(dir.join("packs")).unwrap().mode() & 0o077;
        assert_eq!(others, 0);
    }
}

#[test]
fn gc_waits_for_a_backup_and_says_so() {
    let site = Site::new();
    let id = site.seal(&[("a", "a")]);
    site.ok(["rm", &id]);
    let held = fs::File::open(site.store.join("packs")).unwrap();
    flock(&held, FlockOperation::LockShared).unwrap();
    let mut gc = site.command(["gc"]);
    let mut gc = gc.stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(gc.try_wait().unwrap(), None, "it did not wait");
    // Deploys and flips do not.
    let next = site.seal(&[("b", "b")]);
    site.activate(&next);
    drop(held);
    let out = gc.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    mentions(&stderr(&out), &["waiting for a backup"]);
}

#[test]
fn the_documented_order_for_rsync_gives_a_store_that_is_whole() {
    let docs = include_str!("../docs/operating.md");
    let (_, rest) = docs.split_once("\n### With other tools\n").unwrap();
    let (_, rest) = rest.split_once("\n```sh\n").unwrap();
    let (block, _) = rest.split_once("\n```\n").unwrap();
    let site = Site::new();
    site.seal(&[("a", "a")]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        scope.spawn(|| deploy_all_the_while(&site, 1, &stop));
        scope.spawn(|| gc_all_the_while(&site, &stop));
        for number in 0..5 {
            let copy = site.beside(&format!("copy-{number}"));
            let acknowledged = whole_lines(&site.store);
            let script = block
                .replace("/mnt/backup/by-hand", text(&copy))
                .replace("/srv/store", text(&site.store))
                .replace("deployfs --store", &format!("{DEPLOYFS} --store"));
            sh(&script);
            assert!(whole_lines(&copy) >= acknowledged);
            let list = site_json(&copy, "list");
            on_ok(&copy, ["activate", list[0]["deploy_id"].as_str().unwrap()]);
            on_ok(&copy, ["fsck", "--read-data"]);
        }
    });
}

#[test]
fn p4_backups_beside_deploys_removals_gc_and_kills_hold_one_acknowledged_state() {
    let rounds = count("DEPLOYFS_TEST_BACKUPS", 12);
    let seed = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    let site = Site::new();
    let settings = "keep = 6\nkeep-recently-live = 1\nkeep-live-within = \"0s\"\n";
    fs::write(site.store.join("retention.toml"), settings).unwrap();
    let stop = AtomicBool::new(false);
    let mut campaign = Campaign {
        site: &site,
        dir: site.beside("backup"),
        seed,
        good: 0,
        killed: 0,
        complete: 0,
    };
    std::thread::scope(|scope| {
        let _over = Over(&stop);
        scope.spawn(|| deploy_all_the_while(&site, seed, &stop));
        scope.spawn(|| remove_all_the_while(&site, &stop));
        scope.spawn(|| gc_all_the_while(&site, &stop));
        for round in 0..rounds as u64 {
            campaign.round(round);
        }
    });
    println!(
        "backups: {rounds} tried, 0 violations; {} ended, {} killed",
        campaign.complete, campaign.killed
    );
    assert!(campaign.complete > 0);
}

fn deploy_all_the_while(site: &Site, seed: u64, stop: &AtomicBool) {
    let build = site.beside("build");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Few contents, so that removed ones come again; some of their files are large enough to take a moment.
        let content = u64::from(noise(seed ^ number, 1)[0]) % 24;
        write_files(
            &build,
            &[
                ("number", &format!("{content}\n")),
                (&format!("d{}/page", content % 5), &"page ".repeat(500)),
            ],
        );
        fs::write(build.join("large"), noise(content, 300_000)).unwrap();
        let mut args = vec!["deploy", text(&build)];
        args.extend((number % 3 == 0).then_some("--activate"));
        site.run(args);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_all_the_while(site: &Site, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        site.run(["prune"]);
        std::thread::sleep(Duration::from_millis(40));
    }
}

fn gc_all_the_while(site: &Site, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        site.run(["gc"]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Campaign<'a> {
    site: &'a Site,
    dir: PathBuf,
    seed: u64,
    /// Bytes of the history that the backup had last.
    good: usize,
    killed: usize,
    complete: usize,
}

impl Campaign<'_> {
    fn round(&mut self, round: u64) {
        let random = noise(self.seed.wrapping_add(round << 20), 8);
        if random[0] < 8 {
            // Another first backup.
            fs::remove_dir_all(&self.dir).ok();
            self.good = 0;
        }
        let acknowledged = whole_lines(&self.site.store);
        let mut backup = self.site.command(["backup", text(&self.dir)]);
        let mut child = backup
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut is_killed = false;
        if random[1].is_multiple_of(4) {
            // By the time that one takes: before, within, after.
            std::thread::sleep(Duration::from_micros(u64::from(random[2]) * 400));
            is_killed = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
        } else if random[1] % 16 == 1 {
            self.kill_the_daemon();
        }
        let out = child.wait_with_output().unwrap();
        assert!(
            out.status.success() || is_killed,
            "round {round}: {}",
            stderr(&out)
        );
        match out.status.success() {
            true => self.complete += 1,
            false => self.killed += 1,
        }
        self.check(out.status.success().then_some(acknowledged), round);
        if round % 20 == 3 && self.good > 0 {
            self.restore(round);
        }
    }

    fn kill_the_daemon(&self) {
        let pid = self.site.daemon_pid();
        kill(pid, libc::SIGKILL);
        wait_for("the daemon's end", || {
            !Path::new(&format!("/proc/{pid}")).exists()
        });
        // A command that runs without a daemon may have the store for a moment.
        let started = Instant::now();
        while !self.site.try_mount(&[]).status.success() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it cannot be mounted"
            );
        }
    }

    /// It opens, and is one state that the store has had: at least the last one, and what was acknowledged when it began.
    fn check(&mut self, acknowledged: Option<usize>, round: u64) {
        if !self.dir.join("format").exists() {
            assert!(
                self.good == 0 && acknowledged.is_none(),
                "round {round}: no store"
            );
            return;
        }
        let history = fs::read(self.dir.join("history")).unwrap();
        let source = fs::read(self.site.store.join("history")).unwrap();
        assert!(
            source.starts_with(&history),
            "round {round}: another history"
        );
        assert_eq!(history.last(), Some(&b'\n'), "round {round}: half a record");
        let least = self.good.max(acknowledged.unwrap_or(0));
        assert!(
            history.len() >= least,
            "round {round}: {} < {least}",
            history.len()
        );
        self.good = history.len();
        let out = on(&self.dir, ["fsck", "--read-data"]);
        assert!(
            out.status.success(),
            "round {round}: {}{}",
            stdout(&out),
            stderr(&out)
        );
    }

    /// What the backup shows, mounted, is what was deployed.
    fn restore(&self, round: u64) {
        let mnt = self.site.beside("restored");
        fs::create_dir_all(&mnt).unwrap();
        let _restored = Restored::mount(&self.dir, &mnt);
        for deploy in fs::read_dir(mnt.join("deploys")).unwrap() {
            let deploy = deploy.unwrap().path();
            let number: u64 = fs::read_to_string(deploy.join("number"))
                .unwrap()
                .trim_end()
                .parse()
                .unwrap();
            let large = fs::read(deploy.join("large")).unwrap();
            assert!(
                large == noise(number, 300_000),
                "round {round}: {}",
                deploy.display()
            );
        }
    }
}

/// Bytes of the store's history up to its last whole record.
fn whole_lines(store: &Path) -> usize {
    let bytes = fs::read(store.join("history")).unwrap();
    bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1)
}
