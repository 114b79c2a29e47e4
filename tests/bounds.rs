//! Memory and work that do not grow with what they should not grow with. The same with a million records, names and so on is
//! measured by `scripts/bench --only bounds-history,bounds-deploys,bounds-names`.

use std::fs;
use std::path::Path;

use deployfs::model::history::Verb;

use crate::support::{History, Site, many_deploys, memory_of, stderr, stdout, text, wait_for};

const MEBIBYTE: u64 = 1 << 20;

fn two_deploys() -> Site {
    let site = Site::unmounted();
    for page in ["one", "two"] {
        site.seal(&[("index.html", page)]);
    }
    site
}

/// A mounted store whose history has so many records, with messages of so many bytes.
fn with_history(records: u64, message: usize) -> Site {
    let site = two_deploys();
    let mut history = History::of(&site.store);
    history.lengthen(records, message);
    history.finish();
    site.mount(&[]);
    site
}

fn peak_of(site: &Site) -> u64 {
    memory_of(site.daemon_pid(), "VmHWM:")
}

#[test]
fn the_daemon_s_memory_does_not_grow_with_the_texts_of_the_history() {
    let short = peak_of(&with_history(400, 10));
    let site = with_history(400, 512 << 10);
    let long = peak_of(&site);
    // A third of the records are seals, so that there are 66 MiB of messages; a block of the history is in memory at a time.
    let most = short + 32 * MEBIBYTE;
    assert!(long < most, "{long} bytes, with short texts {short}");
    let log = site.json(["log", "-n", "1"]);
    assert_eq!(log[0]["seq"], 400);
    let list = site.json(["list"]);
    assert_eq!(list[0]["message"].as_str().unwrap().len(), 512 << 10);
}

#[test]
fn the_daemon_s_memory_takes_some_bytes_for_each_record_also_when_all_are_asked_for() {
    // With all of them in memory they would take 180 MiB. The allocator keeps some for each thread that has answered.
    const RECORDS: u64 = 200_000;
    let short = peak_of(&with_history(100, 40));
    let site = with_history(RECORDS, 40);
    let most = short + 40 * MEBIBYTE + RECORDS * 64;
    let opened = peak_of(&site);
    assert!(opened < most, "{opened} bytes, with few records {short}");
    let log = site.ok(["log"]);
    assert_eq!(log.lines().count() as u64, RECORDS);
    let asked = peak_of(&site);
    assert!(asked < most, "{asked} bytes after 'log'");
}

#[test]
fn a_history_of_many_pages_is_shown_whole_and_in_order() {
    const RECORDS: u64 = 25_000;
    let site = with_history(RECORDS, 5);
    let seqs = |site: &Site, args: &[&str]| -> Vec<u64> {
        let log = site.json(args.iter().copied());
        let entries = log.as_array().unwrap().iter();
        entries
            .map(|entry| entry["seq"].as_u64().unwrap())
            .collect()
    };
    let check = |site: &Site| {
        assert!(seqs(site, &["log"]).into_iter().eq(1..=RECORDS));
        let last = seqs(site, &["log", "-n", "12345"]);
        assert!(last.into_iter().eq(RECORDS - 12_344..=RECORDS));
        let text = site.ok(["log"]);
        let first = |line: &str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
        assert!(text.lines().map(first).eq((1..=RECORDS).rev()));
        let preview = seqs(site, &["log", "--channel", "preview", "-n", "3"]);
        assert_eq!(preview.len(), 3);
        assert_eq!(seqs(site, &["log", "-n", "0"]).len(), 0);
    };
    check(&site);
    site.umount();
    check(&site);
}

#[test]
fn without_a_daemon_the_last_entries_are_shown_without_reading_the_others() {
    let site = two_deploys();
    let mut history = History::of(&site.store);
    history.lengthen(5_000, 40);
    history.finish();
    let path = site.store.join("history");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let log = site.json(["log", "-n", "5"]);
    let seqs: Vec<u64> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [4996, 4997, 4998, 4999, 5000]);
    // Whoever reads the damaged record says so, and nothing is written after it.
    let all = site.run(["log"]);
    assert_eq!(all.status.code(), Some(1));
    assert!(
        stderr(&all).contains("'history' at byte"),
        "{}",
        stderr(&all)
    );
    let said = site.refused(
        1,
        [
            "activate",
            &log[0]["deploy_id"].as_str().unwrap_or("live")[..4],
        ],
    );
    assert!(said.contains("'history' at byte"), "{said}");
    let checked = site.run(["fsck"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(stdout(&checked).contains("'history' at byte"));
}

#[test]
fn a_torn_last_record_is_not_shown_and_does_not_hide_the_others() {
    let site = two_deploys();
    let before = site.json(["log"]);
    let mut history = History::of(&site.store);
    history.add(Verb::Lock, None, |_| {});
    history.finish();
    let path = site.store.join("history");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    assert_eq!(site.json(["log"]), before);
    assert_eq!(site.json(["log", "-n", "10"]), before);
}

/// Calls of a process that read, so far.
fn reads_of(pid: i32) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let reads = counts.lines().find_map(|line| line.strip_prefix("syscr: "));
    reads.unwrap().parse().unwrap()
}

#[test]
fn du_reads_for_a_deploy_no_more_than_what_is_new_in_it() {
    const DEPLOYS: u64 = 300;
    let site = Site::unmounted();
    many_deploys(&site.store, DEPLOYS as usize);
    site.mount(&[]);
    wait_for("the index to be open", || {
        site.json(["status"])["index"] == "ready"
    });
    let pid = site.daemon_pid();
    let before = reads_of(pid);
    let usage = site.json(["du"]);
    let reads = reads_of(pid) - before;
    let deploys = usage["deploys"].as_array().unwrap();
    assert_eq!(deploys.len() as u64, DEPLOYS);
    // A deploy has a hundred files, of which one is new in it, a folder's tree and a root's.
    assert!(reads < DEPLOYS * 30, "{reads} calls");
    // The last one shares nothing of its own but what only it has: a page, a folder and the root.
    let freed = deploys[0]["unique_bytes"].as_u64().unwrap();
    let stored = deploys[0]["stored_bytes"].as_u64().unwrap();
    assert!(0 < freed && freed < stored / 3, "{freed} of {stored}");
}

/// Makes so many small files in a folder.
fn many_names(dir: &Path, count: u64) {
    fs::create_dir(dir).unwrap();
    for number in 0..count {
        let path = dir.join(format!("page-{number:07}.html"));
        fs::write(path, format!("<p>{number}\n")).unwrap();
    }
}

#[test]
fn what_a_seal_knows_of_a_folder_takes_few_bytes_for_each_name() {
    const NAMES: u64 = 100_000;
    let (site, small) = (Site::new(), Site::new());
    for (site, names) in [(&small, 100), (&site, NAMES)] {
        let folder = site.beside("site");
        many_names(&folder, names);
        // Without what the packs and the index need, which is the same however the folder is read.
        let report = site.json(["deploy", "--dry-run", text(&folder)]);
        assert_eq!(report["files"], names);
    }
    let (few, many) = (peak_of(&small), peak_of(&site));
    assert!(
        many < few + NAMES * 450,
        "{many} bytes, for 100 names {few}"
    );
}
