//! Removing deploys: what is refused, what goes at once, what open files and the next seal still have.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

/// Deploys `0`, `1`, …, each sealed and made live; as many as make the first ones removable but for the day that must pass.
fn many_live(site: &Site, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            let id = site.seal(&[
                ("index.html", &number.to_string()),
                ("css/site.css", "body {}"),
            ]);
            site.activate(&id);
            id
        })
        .collect()
}

/// A deploy that was never live.
fn never_live(site: &Site, text: &str) -> String {
    site.seal(&[("index.html", text), ("deep/er/page.html", text)])
}

fn listed(site: &Site) -> Vec<String> {
    let list = site.json(["list"]);
    let ids = list.as_array().unwrap().iter();
    ids.map(|deploy| deploy["deploy_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn p3_p8_a_removed_deploy_goes_from_list_and_mount_and_its_open_files_go_on_reading() {
    let site = Site::live_with(&[("index.html", "live")]);
    let id = never_live(&site, "old");
    let dir = site.path("deploys").join(&id);
    let page = dir.join("deep/er/page.html");
    let mut open = File::open(&page).unwrap();
    let deep = File::open(dir.join("deep")).unwrap();
    assert_eq!(fs::read_dir(site.path("deploys")).unwrap().count(), 2);

    assert_eq!(site.ok(["rm", &id, "-m", "leaked"]), id);
    assert!(!listed(&site).contains(&id));
    assert_eq!(fs::read_dir(site.path("deploys")).unwrap().count(), 1);
    for path in [&dir, &page] {
        assert_eq!(fs::metadata(path).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(!site.store.join("deploys").join(&id).exists());
    let mut read = String::new();
    open.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    let again = rustix::fs::openat(
        &deep,
        "er/page.html",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    assert_eq!(
        std::io::read_to_string(File::from(again.unwrap())).unwrap(),
        "old"
    );
    let log = site.json(["log"]);
    let last = log.as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (last["verb"].as_str(), last["message"].as_str()),
        (Some("remove"), Some("leaked"))
    );
    assert!(site.refused(1, ["show", &id]).contains("no deploy"));
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p8_what_is_live_pinned_or_was_live_is_refused_with_the_reason_and_nothing_goes() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            need_fuse();
            site.mount(&[]);
        }
        let ids = many_live(&site, 7);
        let free = never_live(&site, "never live");
        let pinned = never_live(&site, "pinned");
        let report = site.json(["pin", &pinned, "-m", "before the relaunch"]);
        assert_eq!(report["pinned"]["message"], "before the relaunch");
        let reasons = [
            (&ids[6], vec!["it is live", "activate another one first"]),
            (
                &pinned,
                vec!["pinned by root: before the relaunch", "unpin"],
            ),
            (&ids[5], vec!["rollback"]),
            (
                &ids[3],
                vec!["the last 5 that were live", "keep-recently-live"],
            ),
            (&ids[0], vec!["was live within 1d", "keep-live-within"]),
        ];
        for (id, words) in reasons {
            let said = site.refused_whole(1, ["rm", &free, id]);
            mentions(&said, &words);
            mentions(&said, &[id, "nothing was removed"]);
        }
        let status = site.json(["status"]);
        assert_eq!(status["pinned"], serde_json::json!([pinned]));
        assert!(
            site.ok(["show", &pinned])
                .contains("by root  before the relaunch")
        );
        assert_eq!(site.ok(["unpin", &pinned]), pinned);
        assert_eq!(site.json(["unpin", &pinned])["unchanged"], true);
        let retention = site.store.join("retention.toml");
        fs::write(&retention, "keep-recently-life = 2").unwrap();
        let said = site.refused_whole(1, ["rm", &free]);
        mentions(
            &said,
            &[text(&retention), "keep-recently-life", "keep-recently-live"],
        );
        fs::write(
            &retention,
            "keep-recently-live = 2\nkeep-live-within = '0s'",
        )
        .unwrap();
        assert_eq!(site.ok(["rm", &ids[0]]), ids[0]);
        fs::remove_file(&retention).unwrap();
        let both = site.json(["rm", &pinned, &free, &free]);
        assert_eq!(both["removed"], serde_json::json!([pinned, free]));
        assert!(site.refused_whole(1, ["rm", &free]).contains("no deploy"));
        assert_eq!(listed(&site).len(), 6);
    }
}

#[test]
fn a_removed_deploy_that_reappears_is_removed_again() {
    let site = Site::unmounted();
    let id = never_live(&site, "gone");
    let file = site.store.join("deploys").join(&id);
    let bytes = fs::read(&file).unwrap();
    site.ok(["rm", &id]);
    assert!(!file.exists());
    fs::write(&file, bytes).unwrap();
    site.ok(["create", "x"]);
    assert!(!file.exists());
    assert_eq!(listed(&site), [""; 0]);
}

#[test]
fn sealing_the_same_content_brings_a_removed_deploy_back() {
    let site = Site::live_with(&[("index.html", "live")]);
    let id = never_live(&site, "again");
    site.ok(["pin", &id]);
    site.ok(["unpin", &id]);
    site.ok(["rm", &id]);
    assert_eq!(never_live(&site, "again"), id);
    let page = site.path("deploys").join(&id).join("index.html");
    assert_eq!(fs::read_to_string(page).unwrap(), "again");
    site.ok(["verify", &id]);
    assert_eq!(
        site.json(["show", &id])["seals"].as_array().unwrap().len(),
        1
    );
}

fn pack_bytes(site: &Site) -> u64 {
    site.json(["status"])["pack_bytes"].as_u64().unwrap()
}

/// A deploy of files that share nothing with other seeds, half of them compressible; not live.
fn bulky(site: &Site, seed: u64) -> String {
    let dir = site.beside(&format!("bulky-{seed}"));
    for number in 0..20 {
        write_noise(
            &dir.join(format!("noise/{number}")),
            seed << 8 | number,
            20_000,
        );
        let page = format!("<p>{seed} {number}</p>").repeat(200);
        fs::write(dir.join(format!("{number}.html")), page).unwrap();
    }
    write_noise(&dir.join("large"), seed << 8 | 99, 900_000);
    let id = site.deploy(&dir);
    fs::remove_dir_all(dir).unwrap();
    id
}

#[test]
fn p3_p8_gc_gives_space_back_and_keeps_what_is_open_in_a_removed_deploy() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            need_fuse();
            site.mount(&[]);
        }
        let keep = bulky(&site, 1);
        let small = pack_bytes(&site);
        let gone = bulky(&site, 2);
        let before = pack_bytes(&site);
        assert!(before > small + 1_000_000);
        site.ok(["rm", &gone]);
        assert_eq!(pack_bytes(&site), before, "rm alone gives nothing back");
        let would = site.json(["gc", "--dry-run"]);
        assert_eq!(pack_bytes(&site), before);
        let done = site.json(["gc"]);
        assert_eq!(
            (&would["dry_run"], &done["dry_run"]),
            (&true.into(), &false.into())
        );
        assert_eq!(would["freed_bytes"], done["freed_bytes"]);
        assert_eq!(
            pack_bytes(&site),
            before - done["freed_bytes"].as_u64().unwrap()
        );
        assert!(
            pack_bytes(&site) <= small + 1000,
            "{} {small}",
            pack_bytes(&site)
        );
        site.ok(["verify", &keep]);
        site.ok(["fsck", "--read-data"]);
        assert_eq!(
            site.json(["gc"])["freed_bytes"],
            0,
            "there is nothing more to free"
        );
        assert_eq!(bulky(&site, 2), gone);
        site.ok(["fsck", "--read-data"]);
    }
}

#[test]
fn p3_open_files_and_folders_of_a_removed_deploy_outlive_gc() {
    let site = Site::live_with(&[("index.html", "live")]);
    let gone = bulky(&site, 1);
    let dir = site.path("deploys").join(&gone);
    let large = File::open(dir.join("large")).unwrap();
    let folder = File::open(dir.join("noise")).unwrap();
    site.ok(["rm", &gone]);
    site.ok(["gc"]);
    let mut read = Vec::new();
    (&large).read_to_end(&mut read).unwrap();
    assert_eq!(read, noise(1 << 8 | 99, 900_000));
    let later = rustix::fs::openat(
        &folder,
        "7",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    let mut read = Vec::new();
    File::from(later.unwrap()).read_to_end(&mut read).unwrap();
    assert_eq!(read, noise(1 << 8 | 7, 20_000));
    let held = pack_bytes(&site);
    drop((large, folder));
    drop_caches();
    wait_for("the kernel lets go", || {
        site.ok(["gc"]);
        pack_bytes(&site) < held / 10
    });
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p8_prune_keeps_what_is_asked_for_and_what_is_protected_and_gives_back_the_rest() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            need_fuse();
            site.mount(&[]);
        }
        let ids: Vec<String> = (1..=6).map(|seed| bulky(&site, seed)).collect();
        site.activate(&ids[0]);
        site.ok(["pin", &ids[1], "-m", "a customer's"]);
        let said = site.refused_whole(1, ["prune"]);
        mentions(&said, &["--keep", "keep-within", "retention.toml"]);
        let usage = site.run(["prune", "--keep-within", "soon"]);
        assert!(refusal(&usage, 2).contains("such as 30d"));
        let would = site.json(["prune", "--keep", "2", "--dry-run"]);
        assert_eq!(would["removed"], serde_json::json!([ids[2], ids[3]]));
        assert_eq!(listed(&site).len(), 6);

        let before = pack_bytes(&site);
        let out = site.run(["prune", "--keep", "2", "-m", "weekly"]);
        assert_eq!(stdout(&out), format!("{}\n{}\n", ids[2], ids[3]));
        mentions(
            &stderr(&out),
            &[
                "it is live",
                "pinned by root: a customer's",
                "the last 2",
                "freed",
            ],
        );
        assert!(pack_bytes(&site) < before - 2_000_000);
        let log = site.json(["log"]);
        assert_eq!(log.as_array().unwrap().last().unwrap()["message"], "weekly");

        fs::write(site.store.join("retention.toml"), "keep = 0").unwrap();
        let report = site.json(["prune", "--no-gc"]);
        assert_eq!(report["removed"], serde_json::json!([ids[4], ids[5]]));
        assert_eq!(report["gc"], serde_json::Value::Null);
        let reasons: Vec<&str> = report["kept"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kept| kept["reason"].as_str().unwrap())
            .collect();
        assert_eq!(reasons, ["live", "pinned"]);
        assert!(site.json(["gc"])["freed_bytes"].as_u64().unwrap() > 1_000_000);
        site.ok(["fsck", "--read-data"]);
    }
}

#[test]
fn a_chunk_whose_base_gc_has_dropped_no_longer_counts_as_there() {
    let site = Site::unmounted();
    fs::write(site.store.join("retention.toml"), "keep-recently-live = 0").unwrap();
    let dir = |name: &str| site.beside(name);
    let mut page = noise(7, 60_000);
    // So much that its pack is finished; the page's next version leans on it from another pack.
    for number in 0..17 {
        write_noise(&dir("first").join(number.to_string()), number, 1 << 20);
    }
    fs::write(dir("first").join("page"), &page).unwrap();
    let first = site.deploy(&dir("first"));
    page[30_000] ^= 1;
    fs::create_dir(dir("second")).unwrap();
    fs::write(dir("second").join("page"), &page).unwrap();
    let second = site.deploy(&dir("second"));
    write_noise(&dir("third").join("noise"), 99, 2 << 20);
    let third = site.deploy(&dir("third"));
    need_fuse();
    site.mount(&[]);
    site.ok(["rm", &first, &second]);
    assert_eq!(site.json(["gc"])["packs_dropped"], 1);
    assert_eq!(site.deploy(&dir("second")), second);
    site.ok(["verify", &second]);
    site.ok(["verify", &third]);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn p4_p8_kill_9_in_a_gc_loses_nothing_and_the_next_one_goes_on() {
    let site = Site::unmounted();
    fs::write(
        site.store.join("retention.toml"),
        "keep = 0\nkeep-recently-live = 0\nkeep-live-within = '0s'",
    )
    .unwrap();
    let dir = site.beside("dir");
    let mut moments = 0;
    let fsck = |when: &str| {
        let out = site.run(["fsck", "--read-data"]);
        assert!(out.status.success(), "{when}: {}", stdout(&out));
    };
    for round in 0..count("DEPLOYFS_TEST_KILLS", 12) as u64 {
        // A part of each pack goes: the other must be written again.
        write_noise(&dir.join("kept"), round, 1 << 20);
        let keep = site.deploy(&dir);
        write_noise(&dir.join("gone"), 1000 + round, 5 << 20);
        let gone = site.deploy(&dir);
        fs::remove_file(dir.join("gone")).unwrap();
        site.ok(["pin", &keep]);
        site.ok(["rm", &gone]);
        let before = pack_bytes(&site);
        let mut gc = site.command(["gc"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 17 % 80));
        kill(gc.id() as i32, libc::SIGKILL);
        let done = gc.wait().unwrap().success();
        moments += usize::from(!done && pack_bytes(&site) != before);
        fsck(&format!("round {round}, after the kill"));
        site.ok(["gc"]);
        assert!(pack_bytes(&site) <= before);
        fsck(&format!("round {round}, after the next gc"));
    }
    let ids = listed(&site);
    ids.iter().for_each(|id| drop(site.ok(["unpin", id])));
    site.ok(["prune"]);
    assert!(listed(&site).is_empty());
    assert!(pack_bytes(&site) < 1 << 20, "{}", pack_bytes(&site));
    println!("killed in the middle of its work: {moments} times");
}

#[test]
fn p8_visitors_and_seals_go_on_while_gc_works() {
    let site = Site::new();
    fs::write(
        site.store.join("retention.toml"),
        "keep = 0\nkeep-recently-live = 0\nkeep-live-within = '0s'",
    )
    .unwrap();
    let dir = site.beside("dir");
    for number in 0..40 {
        write_noise(&dir.join(number.to_string()), number, 500_000);
    }
    fs::write(dir.join("index.html"), "live").unwrap();
    let live = site.deploy(&dir);
    site.activate(&live);
    let nginx = Nginx::serve(&site.path("live"));
    let over = AtomicBool::new(false);
    let mut slowest_seal = Duration::ZERO;
    let slowest_page = std::thread::scope(|scope| {
        let _over = Over(&over);
        let gcs = scope.spawn(|| {
            let mut freed = 0;
            while !over.load(Ordering::SeqCst) {
                freed += site.json(["gc"])["freed_bytes"].as_u64().unwrap();
            }
            freed
        });
        let pages = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut http = nginx.connect();
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                number += 1;
                // Cold: its bytes are asked of the daemon while they are moved.
                let path = (number % 40).to_string();
                forget_pages(&File::open(site.live(&path)).unwrap());
                let started = Instant::now();
                assert_eq!(
                    http.get(&format!("/{path}")).body,
                    noise(number % 40, 500_000)
                );
                slowest = slowest.max(started.elapsed());
            }
            assert!(number > 10, "only {number} pages");
            slowest
        });
        let scratch = site.beside("scratch");
        for round in 0..12 {
            write_noise(&scratch.join("gone"), 5000 + round, 4 << 20);
            write_noise(&scratch.join("again"), 7, 500_000);
            let started = Instant::now();
            let id = site.deploy(&scratch);
            slowest_seal = slowest_seal.max(started.elapsed());
            site.ok(["verify", &id]);
            site.ok(["rm", &id]);
        }
        over.store(true, Ordering::SeqCst);
        assert!(gcs.join().unwrap() > 20 << 20);
        pages.join().unwrap()
    });
    println!("slowest page {slowest_page:?}, slowest seal {slowest_seal:?}");
    assert!(slowest_page < Duration::from_secs(5));
    site.ok(["gc"]);
    assert_eq!(listed(&site), [live]);
    site.ok(["fsck", "--read-data"]);
}

#[test]
fn du_tells_what_each_deploy_takes_and_what_its_removal_frees() {
    for mounted in [true, false] {
        let site = Site::unmounted();
        if mounted {
            need_fuse();
            site.mount(&[]);
        }
        let dir = site.beside("dir");
        let mut page = noise(1, 100_000);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("page"), &page).unwrap();
        write_noise(&dir.join("both"), 2, 50_000);
        let first = site.deploy(&dir);
        page[7] ^= 1;
        fs::write(dir.join("page"), &page).unwrap();
        write_noise(&dir.join("own"), 3, 30_000);
        let second = site.deploy(&dir);

        let report = site.json(["du"]);
        assert_eq!(report["pack_bytes"].as_u64().unwrap(), pack_bytes(&site));
        let deploys = report["deploys"].as_array().unwrap();
        let of = |at: usize, field: &str| deploys[at][field].as_u64().unwrap();
        assert_eq!(
            (&deploys[0]["deploy_id"], &deploys[1]["deploy_id"]),
            (&second.clone().into(), &first.clone().into())
        );
        assert_eq!((of(0, "bytes"), of(1, "bytes")), (180_000, 150_000));
        // The second page is stored as a difference from the first, which must therefore stay.
        let about =
            |bytes: u64, expected: u64| assert!(bytes.abs_diff(expected) < 2500, "{report}");
        about(of(1, "stored_bytes"), 150_000);
        about(of(1, "unique_bytes"), 100_000);
        about(of(1, "freed_bytes"), 0);
        about(of(0, "stored_bytes"), 80_000);
        about(of(0, "unique_bytes"), 30_000);
        about(of(0, "freed_bytes"), 30_000);
        assert!(site.ok(["du", &first]).contains(&first));
        site.refused(1, ["du", "ffff"]);

        site.ok(["rm", &first]);
        let alone = site.json(["du", &second])["deploys"][0].clone();
        let frees = alone["freed_bytes"].as_u64().unwrap();
        about(frees, 180_000);
        let before = pack_bytes(&site);
        site.ok(["rm", &second]);
        site.ok(["gc"]);
        assert!(pack_bytes(&site) <= before - frees);
    }
}

#[test]
fn a_gc_over_what_cannot_be_read_stops_names_the_deploy_and_removes_nothing() {
    let site = Site::new();
    let gone = bulky(&site, 1);
    let kept = bulky(&site, 2);
    site.ok(["rm", &gone]);
    let pack = fs::read_dir(site.store.join("packs")).unwrap().next();
    let pack = pack.unwrap().unwrap().path();
    let whole = fs::read(&pack).unwrap();
    let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 1).collect();
    fs::write(&pack, &damaged).unwrap();
    let said = site.refused(1, ["gc"]);
    mentions(
        &said,
        &[&kept, "nothing more is removed", "deployfs verify"],
    );
    assert_eq!(fs::read(&pack).unwrap(), damaged);
    fs::write(&pack, &whole).unwrap();
    assert!(site.json(["gc"])["freed_bytes"].as_u64().unwrap() > 1_000_000);
    site.ok(["verify", &kept]);
}
