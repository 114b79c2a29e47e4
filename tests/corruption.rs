//! P5: damage of any kind to any file of a store is found, harms nothing else, and is mended as far as it can be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use deployfs::deploy::Deployfs;
use deployfs::deploy::mounted::Content;
use deployfs::model::report::{Answer, CheckReport, Request};
use deployfs::model::{Blob, Node};
use deployfs::users::this_process;

use crate::support::*;

/// A repeatable row of random numbers.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: u64) -> Self {
        Random(
            blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof(),
        )
    }

    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end.max(1)
    }
}

/// Prints how to have this very row again.
fn seeded(name: &str) -> (u64, Random) {
    let seed = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("{name}: repeat with DEPLOYFS_TEST_SEED={seed}");
    (seed, Random::new(seed))
}

/// A store with records of all kinds, a pack that is finished and one that is not.
fn rich_store() -> Site {
    let site = Site::unmounted();
    let build = site.beside("build");
    for number in 0..70 {
        let words = format!("<p>page {number} of a site with words in common</p>\n").repeat(200);
        write_files(&build, &[(&format!("pages/{number}.html"), &words)]);
    }
    for number in 0..5 {
        write_noise(&build.join(format!("large/{number}")), number, 3_500_000);
    }
    write_files(&build, &[("link@", "pages"), ("short", "a"), ("empty", "")]);
    let one = site.deploy(&build);
    site.activate(&one);
    for version in 0..2 {
        let words = format!("<p>page 3 in version {version}</p>\n").repeat(300);
        write_files(&build, &[("pages/3.html", &words)]);
        write_files(&build, &[(&format!("new/{version}"), "a new file")]);
        let id = site.deploy(&build);
        site.activate(&id);
    }
    site
}

/// All files of a store that can become damaged.
fn files_of(store: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["format", "head", "history"]
        .map(|name| store.join(name))
        .into();
    for folder in ["packs", "deploys"] {
        files.extend(entries(&store.join(folder)));
    }
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Where payloads start and end in a pack, by the format as pack.rs describes it; what is not in one of them is metadata.
fn payloads(pack: &[u8]) -> Vec<(usize, usize)> {
    const HEADER: usize = 88;
    let (mut found, mut at) = (Vec::new(), 0);
    while pack
        .get(at..at + HEADER)
        .is_some_and(|head| head.starts_with(b"dfc\x01"))
    {
        let stored = u32::from_le_bytes(pack[at + 76..at + 80].try_into().unwrap()) as usize;
        if at + HEADER + stored > pack.len() {
            break;
        }
        found.push((at + HEADER, at + HEADER + stored));
        at += HEADER + stored;
    }
    found
}

/// A place in a file: every kind of place comes often, however large the payloads are.
fn place(random: &mut Random, bytes: &[u8]) -> (usize, bool) {
    let payloads = payloads(bytes);
    if payloads.is_empty() {
        return (random.below(bytes.len() as u64) as usize, true);
    }
    let (start, end) = payloads[random.below(payloads.len() as u64) as usize];
    match random.below(3) {
        0 if end > start => (start + random.below((end - start) as u64) as usize, false),
        1 => (start - 1 - random.below(88) as usize, true),
        _ => {
            let footer = payloads.last().unwrap().1;
            match bytes.len() - footer {
                0 => (start - 1 - random.below(88) as usize, true),
                len => (footer + random.below(len as u64) as usize, true),
            }
        }
    }
}

fn fsck(store: &Path, read_data: bool) -> Result<CheckReport, String> {
    let flow = Deployfs::open_read_only(store).map_err(|failure| failure.message)?;
    let cancel = AtomicBool::new(false);
    match flow.run(
        &Request::Fsck { read_data },
        &this_process(),
        &|_| {},
        &cancel,
    ) {
        Ok(Answer::Check(report)) => Ok(report),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.message),
    }
}

fn finds(store: &Path, read_data: bool) -> bool {
    fsck(store, read_data).map_or(true, |report| {
        !report.problems.is_empty() || !report.notes.is_empty()
    })
}

/// What all deploys hold, by deploy and path; none where it cannot be read. Bytes that are not those of the name's own hash
/// fail the test.
fn read_all(store: &Path) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    if let Ok(flow) = Deployfs::open_read_only(store) {
        for root in flow.shown().deploys {
            read_tree(&flow, &format!("{}:", root.id), &root.tree, &mut found);
        }
    }
    found
}

fn read_tree(
    flow: &Deployfs,
    path: &str,
    tree: &Blob,
    found: &mut BTreeMap<String, Option<String>>,
) {
    let tree = flow.tree(tree);
    found.insert(
        format!("{path}/"),
        tree.as_ref().ok().map(|_| "a folder".to_owned()),
    );
    let Ok(tree) = tree else { return };
    for entry in tree.entries() {
        let below = format!("{path}/{}", entry.name);
        match &entry.node {
            Node::File(blob) => {
                let bytes = flow.read(blob, 0, u32::MAX).ok();
                let hash = bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string());
                if let Some(hash) = &hash {
                    assert_eq!(*hash, blob.id.to_string(), "{below}: wrong bytes");
                }
                found.insert(below, hash);
            }
            Node::Symlink(target) => {
                let target = String::from_utf8_lossy(target).into_owned();
                found.insert(below, Some(target));
            }
            Node::Dir { tree, .. } => read_tree(flow, &below, tree, found),
        }
    }
}

fn is_lost(
    all: &BTreeMap<String, Option<String>>,
    whole: &BTreeMap<String, Option<String>>,
) -> bool {
    all != whole
}

#[test]
fn p5_every_flipped_bit_anywhere_is_found_by_the_read_by_fsck_and_by_fsck_read_data() {
    let site = rich_store();
    let store = &site.store;
    let whole = read_all(store);
    assert!(whole.values().all(Option::is_some) && whole.len() > 200);
    for read_data in [false, true] {
        let report = fsck(store, read_data).unwrap();
        assert_eq!((report.problems, report.notes), (vec![], vec![]));
    }
    let (_, mut random) = seeded("flipped bits");
    let files = files_of(store);
    for number in 0..count("DEPLOYFS_TEST_FLIPPED_BITS", 60) {
        let file = &files[number % files.len()];
        let before = fs::read(file).unwrap();
        let (at, is_metadata) = place(&mut random, &before);
        let mut bytes = before.clone();
        bytes[at] ^= 1 << random.below(8);
        fs::write(file, &bytes).unwrap();
        let what = format!("{number}: {} byte {at}", file.display());
        let read = read_all(store);
        for (path, content) in &read {
            assert!(
                content.is_none() || whole[path] == *content,
                "{what}: {path}"
            );
        }
        if !is_metadata {
            assert!(is_lost(&read, &whole), "{what}: the read does not see it");
        }
        if is_metadata {
            assert!(finds(store, false), "{what}: fsck does not see it");
        }
        assert!(
            finds(store, true),
            "{what}: fsck --read-data does not see it"
        );
        fs::write(file, &before).unwrap();
    }
    assert_eq!(read_all(store), whole);
    let flipped = count("DEPLOYFS_TEST_FLIPPED_BITS", 60);
    println!("flipped bits: {flipped} tried, 0 violations");
}

#[test]
fn p6_bits_flipped_in_the_index_harm_nothing() {
    let site = rich_store();
    let whole = read_all(&site.store);
    let (_, mut random) = seeded("index");
    for number in 0..count("DEPLOYFS_TEST_FLIPPED_BITS", 60).div_ceil(10) {
        // It opens the index, where a small deploy does not.
        site.ok(["gc"]);
        let mut flipped = 0;
        for file in entries(&site.store.join("index")) {
            if file.is_file() && fs::metadata(&file).unwrap().len() > 0 {
                let mut bytes = fs::read(&file).unwrap();
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
                fs::write(&file, bytes).unwrap();
                flipped += 1;
            }
        }
        assert!(flipped > 0, "there is an index");
        write_noise(
            &site.beside("build").join("large/0"),
            100 + number as u64,
            400_000,
        );
        site.ok(["deploy", text(&site.beside("build"))]);
        site.ok(["gc"]);
        site.ok(["fsck", "--read-data"]);
    }
    let now = read_all(&site.store);
    for (path, content) in &whole {
        assert_eq!(now[path], *content, "{path}");
    }
}

/// A damage of some kind to some file; what it was.
fn damage(random: &mut Random, store: &Path) -> String {
    let files = files_of(store);
    let file = &files[random.below(files.len() as u64) as usize];
    let Ok(mut bytes) = fs::read(file) else {
        return format!("{} is gone already", file.display());
    };
    let name = file.strip_prefix(store).unwrap().display().to_string();
    if bytes.is_empty() {
        return format!("{name}: empty");
    }
    let (at, _) = place(random, &bytes);
    match random.below(8) {
        0..=3 => {
            bytes[at] ^= 1 << random.below(8);
            fs::write(file, bytes).unwrap();
            format!("{name}: one bit of byte {at}")
        }
        4 => {
            let end = bytes.len().min(at + 1 + random.below(600) as usize);
            bytes[at..end].fill(0);
            fs::write(file, bytes).unwrap();
            format!("{name}: zeros from {at} to {end}")
        }
        5 => {
            let end = bytes.len().min(at + 1 + random.below(600) as usize);
            bytes[at..end].copy_from_slice(&noise(random.below(1000), end - at));
            fs::write(file, bytes).unwrap();
            format!("{name}: rubbish from {at} to {end}")
        }
        6 => {
            bytes.truncate(at);
            fs::write(file, bytes).unwrap();
            format!("{name}: cut at {at}")
        }
        _ => {
            fs::remove_file(file).unwrap();
            format!("{name}: removed")
        }
    }
}

fn copy_of(site: &Site, name: &str) -> PathBuf {
    let copy = site.beside(name);
    sh(&format!(
        "rm -rf {copy}; cp -a --reflink=auto {store} {copy}",
        copy = copy.display(),
        store = site.store.display()
    ));
    copy
}

#[test]
fn p5_a_repair_after_any_damage_loses_nothing_that_could_be_read_and_leaves_nothing_for_a_second() {
    let site = rich_store();
    let (_, mut random) = seeded("repairs");
    for number in 0..count("DEPLOYFS_TEST_REPAIRS", 24) {
        let store = copy_of(&site, "damaged-store");
        let damages: Vec<String> = (0..1 + random.below(4))
            .map(|_| damage(&mut random, &store))
            .collect();
        let before = read_all(&store);
        let repaired = Deployfs::repair(&store)
            .unwrap_or_else(|failure| panic!("{number} {damages:?}: {failure}"));
        let what = format!("{number} {damages:?}: {repaired:?}");
        let after = read_all(&store);
        for (path, content) in &before {
            assert!(
                content.is_none() || after.get(path) == Some(content),
                "{path} is lost: {what}"
            );
        }
        let again = Deployfs::repair(&store).unwrap();
        assert_eq!(again.mended, Vec::<String>::new(), "{what}");
        assert_eq!(again.left, repaired.left, "{what}");
        let check = fsck(&store, true).unwrap();
        // Where a chunk is lost that others lean on, either may be named.
        assert_eq!(check.problems.len(), repaired.left.len(), "{what}");
    }
    let damaged = count("DEPLOYFS_TEST_REPAIRS", 24);
    println!("repairs: {damaged} tried, 0 violations");
}

#[test]
fn p5_a_single_flipped_bit_is_mended_wherever_it_is() {
    let site = rich_store();
    let whole = read_all(&site.store);
    let (_, mut random) = seeded("single bits");
    let names: Vec<PathBuf> = files_of(&site.store)
        .into_iter()
        .map(|file| file.strip_prefix(&site.store).unwrap().to_owned())
        .collect();
    for number in 0..count("DEPLOYFS_TEST_REPAIRS", 24) {
        let store = copy_of(&site, "flipped-store");
        let file = store.join(&names[number % names.len()]);
        let mut bytes = fs::read(&file).unwrap();
        let (at, _) = place(&mut random, &bytes);
        bytes[at] ^= 1 << random.below(8);
        fs::write(&file, bytes).unwrap();
        let report = Deployfs::repair(&store).unwrap();
        let what = format!("{number} {} byte {at}: {report:?}", file.display());
        assert!(
            report.left.is_empty() && !report.mended.is_empty(),
            "{what}"
        );
        assert_eq!(read_all(&store), whole, "{what}");
        assert!(!finds(&store, true), "{what}");
    }
    let flipped = count("DEPLOYFS_TEST_REPAIRS", 24);
    println!("single bits: {flipped} tried, 0 violations");
}

/// A pack whose last record had a flipped bit in its header was taken for one with a damaged footer: it was cut there, and the
/// record was lost.
#[test]
fn p5_a_flipped_bit_in_the_header_of_the_last_record_does_not_cost_the_record() {
    let site = rich_store();
    let whole = read_all(&site.store);
    let packs = entries(&site.store.join("packs"));
    let bytes = fs::read(&packs[0]).unwrap();
    let records_end = bytes
        .last_chunk::<16>()
        .unwrap()
        .first_chunk::<8>()
        .unwrap();
    let end = u64::from_le_bytes(*records_end) as usize;
    let mut in_headers = 0;
    // Headers are longer than the steps.
    for at in (end - 1600..end).step_by(40) {
        let store = copy_of(&site, "flipped-store");
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        fs::write(store.join("packs").join(packs[0].file_name().unwrap()), bad).unwrap();
        let report = Deployfs::repair(&store).unwrap();
        in_headers += usize::from(report.mended[0].contains("in the header"));
        assert!(report.left.is_empty(), "byte {at} of {end}: {report:?}");
        assert_eq!(read_all(&store), whole, "byte {at} of {end}: {report:?}");
    }
    assert!(in_headers > 0);
}

#[test]
fn stores_from_before_the_checksums_still_open() {
    let site = rich_store();
    let format = site.store.join("format");
    let text = fs::read_to_string(&format).unwrap();
    let old: Vec<&str> = text.lines().take(2).collect();
    fs::write(&format, format!("{}\n", old.join("\n"))).unwrap();
    let head = site.store.join("head");
    let text = fs::read_to_string(&head).unwrap();
    let old: Vec<&str> = text.trim_end().split(' ').take(2).collect();
    fs::write(&head, format!("{}\n", old.join(" "))).unwrap();
    site.ok(["fsck", "--read-data"]);
    site.ok(["rollback"]);
    site.ok(["fsck", "--read-data"]);
}

const GOOD: &str = "good bytes";
const BAD: &str = "bytes that the disk will lose";

#[test]
fn p5_status_names_a_damaged_chunk_until_the_same_content_is_sealed_again() {
    let site = Site::live_with(&[("good", GOOD), ("bad", BAD)]);
    let live = site.json(["status"])["live"].as_str().unwrap().to_owned();
    damage_text(&site, BAD.as_bytes());
    assert!(fs::read(site.live("bad")).is_err());
    assert_eq!(site.read("good"), GOOD);
    let chunk = blake3::hash(BAD.as_bytes()).to_hex().to_string();
    let suspects = || site.json(["status"])["suspects"].clone();
    assert_eq!(suspects()[0]["chunk"], chunk.as_str());
    assert!(
        suspects()[0]["file"]
            .as_str()
            .unwrap()
            .starts_with("packs/")
    );
    assert!(suspects()[0]["since"].as_u64().unwrap() > 1_700_000_000);
    mentions(&site.ok(["status"]), &["suspect", &chunk]);
    // It is remembered by the next daemon.
    site.umount();
    site.mount(&[]);
    assert_eq!(suspects()[0]["chunk"], chunk.as_str());
    assert_eq!(site.seal(&[("good", GOOD), ("bad", BAD)]), live);
    assert_eq!(site.read("bad"), BAD, "healed, without another mount");
    assert_eq!(suspects().as_array().unwrap().len(), 0);
    site.umount();
    site.mount(&[]);
    assert_eq!(site.read("bad"), BAD);
    let check = site.json(["fsck", "--read-data"]);
    assert_eq!(check["problems"].as_array().unwrap().len(), 0, "{check}");
}

#[test]
fn p5_a_seal_that_meets_damage_nobody_has_seen_writes_the_chunk_anew() {
    let site = Site::unmounted();
    let one = site.seal(&[("a", BAD)]);
    damage_text(&site, BAD.as_bytes());
    let two = site.seal(&[("a", BAD), ("b", GOOD)]);
    site.ok(["verify", &one]);
    site.ok(["verify", &two]);
}

#[test]
fn p5_a_damaged_tree_heals_when_its_content_is_sealed_again() {
    let site = Site::live_with(&[("folder/file", GOOD), ("beside", GOOD)]);
    site.umount();
    damage_text(&site, b"dft\x01\x01\x01\x04file");
    site.mount(&[]);
    assert!(
        fs::read_dir(site.live("folder"))
            .map_or(true, |mut entries| entries.next().unwrap().is_err())
    );
    let id = site.seal(&[("folder/file", GOOD), ("beside", GOOD)]);
    site.activate(&id);
    assert_eq!(site.read("folder/file"), GOOD);
    site.ok(["verify"]);
}

#[test]
fn p5_a_damaged_footer_hides_no_chunk_from_readers() {
    let site = rich_store();
    let whole = read_all(&site.store);
    let pack = entries(&site.store.join("packs")).remove(0);
    let bytes = fs::read(&pack).unwrap();
    let footer = payloads(&bytes).last().unwrap().1;
    assert!(bytes.len() > footer + 88, "the first pack is finished");
    let mut bad = bytes;
    for at in (footer..bad.len() - 24).step_by(5) {
        bad[at] ^= 0x55;
    }
    fs::write(&pack, bad).unwrap();
    assert_eq!(read_all(&site.store), whole);
    assert!(finds(&site.store, false));
}

#[test]
fn p5_a_lost_trailer_hides_nothing_and_is_cut_off_when_the_store_is_opened() {
    let site = rich_store();
    let whole = read_all(&site.store);
    let pack = entries(&site.store.join("packs")).remove(0);
    let bytes = fs::read(&pack).unwrap();
    fs::write(&pack, &bytes[..bytes.len() - 10]).unwrap();
    assert!(finds(&site.store, false));
    site.ok(["rollback"]);
    assert!(!finds(&site.store, true));
    assert_eq!(read_all(&site.store), whole);
}

#[test]
fn p4_a_power_cut_that_took_a_record_and_half_the_footer_leaves_a_store_that_fsck_finds_clean() {
    let site = Site::live_with(&[("a", BAD), ("b", GOOD)]);
    site.umount();
    let pack = entries(&site.store.join("packs")).remove(0);
    let records = fs::read(&pack).unwrap();
    // What was not synced: a record that is lost, one that is whole, the beginning of a footer.
    let torn = [&records, &[0; 100][..], &records, b"dfi\x01 and no more"].concat();
    fs::write(&pack, torn).unwrap();
    site.ok(["create", "opens-the-store"]);
    site.ok(["fsck", "--read-data"]);
    site.mount(&[]);
    assert_eq!(site.read("a"), BAD);
    site.seal(&[("a", "the next one")]);
}

#[test]
fn p4_a_power_cut_that_left_the_name_of_head_without_its_bytes_is_no_damage() {
    let site = Site::live_with(&[("a", GOOD)]);
    site.umount();
    let head = site.store.join("head");
    let len = fs::metadata(&head).unwrap().len() as usize;
    for left in [vec![], vec![0; len]] {
        fs::write(&head, left).unwrap();
        assert!(!finds(&site.store, true));
        site.ok(["fsck"]);
    }
    fs::write(&head, vec![1; len]).unwrap();
    assert!(finds(&site.store, false));
}

#[test]
fn repair_is_refused_while_the_store_is_in_use_and_says_what_it_could_not_mend() {
    let site = Site::live_with(&[("a", BAD), ("b", GOOD)]);
    mentions(
        &site.refused(1, ["fsck", "--repair"]),
        &["in use", "umount"],
    );
    site.umount();
    site.ok(["fsck", "--repair"]);
    // Two bits: no checksum tells which.
    damage_text(&site, BAD.as_bytes());
    damage_text(&site, &BAD.as_bytes()[1..]);
    let out = site.run(["fsck", "--repair"]);
    let chunk = blake3::hash(BAD.as_bytes()).to_hex().to_string();
    assert_eq!(out.status.code(), Some(1));
    mentions(
        &stdout(&out),
        &[
            "packs/000001.pack' at byte",
            &chunk,
            "damaged/000001.pack",
            "left",
            "/a",
        ],
    );
    site.seal(&[("a", BAD)]);
    site.ok(["fsck", "--repair"]);
    site.mount(&[]);
    assert_eq!(site.read("a"), BAD);
    assert_eq!(site.read("b"), GOOD);
}

#[test]
fn a_scrub_finds_damage_keeps_to_its_rate_and_can_be_interrupted() {
    let site = Site::live_with(&[("a", BAD), ("b", GOOD)]);
    site.ok(["scrub"]);
    assert_eq!(site.json(["status"])["scrub"]["complete"], true);
    damage_text(&site, BAD.as_bytes());
    let out = site.run(["scrub", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let chunk = blake3::hash(BAD.as_bytes()).to_hex().to_string();
    mentions(&stdout(&out), &[&chunk]);
    let status = site.json(["status"]);
    assert_eq!(status["suspects"][0]["chunk"], chunk.as_str());
    mentions(&status["scrub"]["problems"].to_string(), &[&chunk]);
    mentions(&site.ok(["status"]), &["scrub", "1 problems"]);

    let build = site.beside("build");
    write_noise(&build.join("large"), 1, 3 << 20);
    site.deploy(&build);
    let started = std::time::Instant::now();
    site.run(["scrub", "--rate", "2M"]);
    assert!(
        started.elapsed().as_secs_f64() > 1.2,
        "{:?}",
        started.elapsed()
    );
    let mut slow = site.command(["scrub", "--rate", "10K"]).spawn().unwrap();
    wait_for("it runs", || {
        site.json(["status"])["scrub"]["ended"].is_null()
    });
    assert_eq!(site.read("b"), GOOD, "others are served");
    site.seal(&[("c", "sealed meanwhile")]);
    kill(slow.id() as i32, libc::SIGINT);
    assert!(!slow.wait().unwrap().success());
    wait_for("its end", || {
        let scrub = site.json(["status"])["scrub"].clone();
        scrub["ended"].is_u64() && scrub["complete"] == false
    });
}

#[test]
fn a_mount_that_is_told_to_scrubs_by_itself() {
    let site = Site::unmounted();
    site.seal(&[("a", GOOD)]);
    site.mount(&["--scrub-every", "7", "--scrub-rate", "50M"]);
    wait_for("a scrub", || {
        site.json(["status"])["scrub"]["complete"] == true
    });
    site.umount();
    site.mount(&["--scrub-every", "7"]);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let scrub = site.json(["status"])["scrub"].clone();
    assert!(scrub.is_null(), "the last one is remembered: {scrub}");
}

#[test]
fn p5_a_deploy_whose_file_is_damaged_is_an_error_for_visitors_and_everybody_is_told() {
    let site = Site::unmounted();
    let bad = site.seal(&[("index.html", "a page")]);
    site.ok(["activate", &bad]);
    site.ok(["channel", "set", "preview", &bad]);
    let good = site.seal(&[("index.html", "another page")]);
    let path = site.store.join("deploys").join(&bad);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let out = site.try_mount(&[]);
    assert!(out.status.success(), "{}", stderr(&out));
    mentions(
        &stderr(&out),
        &[
            &bad,
            "'live', 'preview'",
            "cannot be read",
            "activate another",
        ],
    );
    for folder in ["live", "channels/preview", &format!("deploys/{bad}")] {
        let errno = |path: &str| fs::read(site.path(path)).unwrap_err().raw_os_error();
        assert_eq!(errno(&format!("{folder}/index.html")), Some(libc::EIO));
        assert_eq!(errno(&format!("{folder}/missing")), Some(libc::EIO));
        let listed =
            fs::read_dir(site.path(folder)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        assert_eq!(listed.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    let status = site.json(["status"]);
    assert_eq!(status["unreadable"][0]["deploy_id"], bad.as_str());
    assert_eq!(status["unreadable"][0]["channels"][0], "live");
    mentions(&site.ok(["status"]), &["WRONG", &bad]);
    let doctor = stdout(&site.run(["doctor"]));
    mentions(&doctor, &["WRONG deploys", &bad]);
    site.activate(&good);
    assert_eq!(site.read("index.html"), "another page");
    fs::write(&path, &whole).unwrap();
    site.activate(&bad);
    assert_eq!(site.read("index.html"), "a page");
    assert_eq!(site.json(["status"])["unreadable"], serde_json::json!([]));
}
