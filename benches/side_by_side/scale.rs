//! Row 10: a deploy of a million files, and a thousand deploys.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use deployfs::model::report::{Answer, FolderRequest, Request, SealOptions};

use crate::Run;
use crate::bed::{Bed, drop_caches, keep_caches, settle, stat_all, time};
use crate::data::{Random, write};
use crate::report::{Limit, Row, Spread, pairs};
use crate::support::{Site, text, wait_for};

/// Files of the large deploy, and files in each of its folders.
const MANY: usize = 1_000_000;
const FOLDER: usize = 1_000;
/// Files looked up in random order.
const LOOKUPS: usize = 10_000;
/// Files in each folder of the small deploy that it is compared with.
const SMALL_FOLDER: usize = crate::data::FOLDER;
/// Deploys, files in each, and files that differ from one to the next.
const DEPLOYS: usize = 1_000;
const FILES: usize = 10_000;
const CHANGED: usize = 100;
/// Deploys whose figures are compared: the last so many, and as many after the first fifth, when most files have changed once.
const SOME: usize = 50;

fn path_of(number: usize, folder: usize) -> PathBuf {
    PathBuf::from(format!("{:04}/{number:07}", number / folder))
}

fn has_thread(pid: i32, name: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
    threads.flatten().any(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// A deploy of a million files.
pub fn files(run: &mut Run) {
    let many = run.scaled(MANY);
    let folder = run.path("many");
    let names: Vec<PathBuf> = (0..many).map(|number| path_of(number, FOLDER)).collect();
    for name in &names {
        write(&folder.join(name), text(name).as_bytes()).expect("room for a small file");
    }
    settle();
    let site = Site::new();
    let mut id = String::new();
    let seal = time(|| id = site.deploy(&folder));
    let what = format!("deploy DIR of {many} small files");
    run.add(Row::value("scale-files", what, "s", &[seal], Limit::None));
    site.activate(&id);
    // The index gets a new pack behind the answer; an end of the daemon meanwhile would put it off to the next one.
    while has_thread(site.daemon_pid(), "index") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let random = |seed| {
        let mut random = Random::new(seed);
        let name = |_| names[random.below(names.len())].clone();
        (0..LOOKUPS).map(name).collect::<Vec<_>>()
    };
    // As many in a folder as the small deploy has there: what a folder takes that nobody has read yet is shared by as many.
    let as_in_small = |seed| {
        let mut random = Random::new(seed);
        let mut folders: Vec<usize> = (0..names.len() / FOLDER).collect();
        random.shuffle(&mut folders);
        folders.truncate(LOOKUPS / SMALL_FOLDER);
        let mut some: Vec<PathBuf> = folders
            .into_iter()
            .flat_map(|folder| {
                let step = FOLDER / SMALL_FOLDER;
                let first = folder * FOLDER + random.below(step);
                (0..SMALL_FOLDER).map(move |n| first + n * step)
            })
            .map(|number| names[number].clone())
            .collect();
        random.shuffle(&mut some);
        some
    };
    let mut round = 0;
    let first: Vec<f64> = (0..5)
        .map(|_| {
            round += 1;
            let name = &random(round)[0];
            site.umount();
            drop_caches();
            let started = Instant::now();
            site.mount(&[]);
            fs::symlink_metadata(site.path("live").join(name)).expect("a file of the deploy");
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let what = format!("from the start of mount to the first stat, {many} files, nothing cached");
    run.add(Row::value(
        "scale-files",
        what,
        "ms",
        &first,
        Limit::AtMost(300.0),
    ));

    let data = run.data();
    let small = Bed::new(&data);
    let again = |site: &Site| {
        site.umount();
        site.mount(&[]);
    };
    let _kept = keep_caches();
    let each = |site: &Site, some: &[PathBuf]| {
        again(site);
        wait_for(
            "the index to be open",
            || matches!(site.ask(&Request::Status), Answer::Status(status) if status.index == "ready"),
        );
        stat_all(&site.path("live"), some) * 1e6 / some.len() as f64
    };
    let lookups = pairs(
        5,
        || {
            round += 1;
            each(&site, &as_in_small(round))
        },
        || each(&small.site, &small.order),
    );
    let what = format!(
        "a first lookup, {SMALL_FOLDER} in a folder, in random order: {many} files / {}",
        small.order.len()
    );
    run.add(Row::ratio(
        "scale-files",
        what,
        "µs",
        &lookups,
        Limit::AtMost(1.25),
    ));
    let scattered: Vec<f64> = (0..5)
        .map(|_| {
            round += 1;
            each(&site, &random(round))
        })
        .collect();
    let what = format!("the same, {LOOKUPS} all over its {} folders", many / FOLDER);
    run.add(Row::value(
        "scale-files",
        what,
        "µs",
        &scattered,
        Limit::None,
    ));

    again(&site);
    let walk = stat_all(&site.path("live"), &names);
    let pid = site.daemon_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let memory = |mark: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(mark));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.expect("a size") / 1024.0
    };
    let what = format!("the daemon's memory at most while all {many} are looked up and held");
    run.add(
        Row::value(
            "scale-files",
            what,
            "MiB",
            &[memory("VmHWM:")],
            Limit::AtMost(200.0),
        )
        .note(format!(
            "at the end {:.0} MiB, of it {:.0} MiB not backed by files; the walk took {walk:.1} s",
            memory("VmRSS:"),
            memory("RssAnon:")
        )),
    );
}

/// What one more deploy costs.
struct Cost {
    seal: f64,
    activate: f64,
    diff: f64,
    bytes: f64,
}

/// A thousand deploys, each differing in one file of a hundred from the one before.
pub fn deploys(run: &mut Run) {
    let deploys = run.scaled(DEPLOYS);
    let folder = run.path("first");
    for number in 0..FILES {
        let path = path_of(number, 50);
        write(
            &folder.join(&path),
            &crate::support::noise(number as u64, 500),
        )
        .expect("room");
    }
    let site = Site::new();
    let mut ids = vec![site.deploy(&folder)];
    let patch = run.path("patch");
    let mut random = Random::new(17);
    let mut costs = Vec::new();
    let mut lists = Vec::new();
    let mut mounts = Vec::new();
    for round in 1..deploys {
        for _ in 0..CHANGED {
            let path = path_of(random.below(FILES), 50);
            // The same few names over and over would be another patch each time: only these bytes are new.
            write(
                &patch.join(path),
                &crate::support::noise(random.next(), 500),
            )
            .expect("room");
        }
        costs.push(one_more(&site, &patch, &mut ids));
        fs::remove_dir_all(&patch).expect("the patch was made here");
        if round == SOME || round == deploys - 1 {
            lists.push(milliseconds(|| {
                site.ask(&Request::List);
            }));
            mounts.push(milliseconds(|| {
                site.umount();
                site.mount(&[]);
                fs::symlink_metadata(site.path("live").join(path_of(7, 50))).expect("a file");
            }));
        }
    }
    let early = &costs[deploys / 5..][..SOME];
    let late = &costs[costs.len() - SOME..];
    let mut row = |what: &str, unit, limit, of: fn(&Cost) -> f64| {
        let both: Vec<_> = late.iter().map(of).zip(early.iter().map(of)).collect();
        let what = format!("{what}: the last of {deploys} deploys / at a fifth of them");
        run.add(Row::ratio("scale-deploys", what, unit, &both, limit));
    };
    row("seal of 1 % changed", "ms", Limit::AtMost(1.5), |cost| {
        cost.seal
    });
    row("activate", "ms", Limit::AtMost(1.5), |cost| cost.activate);
    row(
        "diff with the one before",
        "ms",
        Limit::AtMost(1.5),
        |cost| cost.diff,
    );
    row(
        "bytes added to the packs",
        "KB",
        Limit::AtMost(1.25),
        |cost| cost.bytes,
    );
    let note = format!(
        "with {SOME} deploys: list {:.1} ms, mount {:.1} ms",
        lists[0], mounts[0]
    );
    let what = format!("list of {deploys} deploys");
    run.add(Row::value("scale-deploys", what, "ms", &lists[1..], Limit::None).note(note));
    let what = format!("unmount, mount and first stat with {deploys} deploys");
    run.add(Row::value(
        "scale-deploys",
        what,
        "ms",
        &mounts[1..],
        Limit::AtMost(300.0),
    ));
    let added = Spread::of(costs.iter().map(|cost| cost.bytes)).median;
    let what = "bytes added by a deploy, of the bytes that are new in it";
    let new = (CHANGED * 500) as f64 / 1e3;
    run.add(Row::value(
        "scale-deploys",
        what,
        "×",
        &[added / new],
        Limit::None,
    ));
}

fn one_more(site: &Site, patch: &std::path::Path, ids: &mut Vec<String>) -> Cost {
    let before = ids.last().expect("the first deploy").clone();
    let request = Request::Deploy(FolderRequest {
        dir: patch.to_owned(),
        from: Some(before.clone()),
        delete: Vec::new(),
        dry_run: false,
        no_cache: false,
        options: SealOptions::default(),
    });
    let mut bytes = 0.0;
    let seal = milliseconds(|| match site.ask(&request) {
        Answer::Sealed(report) => {
            bytes = report.stored_bytes as f64 / 1e3;
            ids.push(report.deploy_id.to_string());
        }
        other => panic!("{other:?}"),
    });
    let id = ids.last().expect("just sealed");
    let activate = milliseconds(|| site.flip(id));
    let (a, b) = (before, id.clone());
    let diff = milliseconds(|| {
        site.ask(&Request::Diff { a, b });
    });
    Cost {
        seal,
        activate,
        diff,
        bytes,
    }
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    time(work) * 1e3
}
