//! Memory and time of large stores: a long history, many deploys, a million names.

use std::fs;
use std::path::Path;
use std::time::Instant;

use deployfs::model::report::{Answer, Request};

use crate::Run;
use crate::report::{Limit, Row};
use crate::support::{History, Site, many_deploys, memory_of, stderr, text};

/// Records of the long history, and bytes of each message.
const RECORDS: usize = 1_000_000;
const MESSAGE: usize = 40;
/// Messages of a megabyte in another one.
const LONG: usize = 1_100;
/// Deploys of a hundred files, each different in one.
const DEPLOYS: usize = 20_000;
/// Files of the large folders.
const NAMES: usize = 1_000_000;
/// How often a command is timed.
const TIMES: usize = 5;

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Milliseconds of a command, each time.
fn timed(site: &Site, args: &[&str]) -> Vec<f64> {
    (0..TIMES)
        .map(|_| {
            let started = Instant::now();
            let out = site.run(args.iter().copied());
            let took = started.elapsed().as_secs_f64() * 1e3;
            assert!(out.status.success(), "{args:?}: {}", stderr(&out));
            took
        })
        .collect()
}

fn two_deploys() -> Site {
    let site = Site::unmounted();
    for page in ["one", "two"] {
        site.seal(&[("index.html", page)]);
    }
    site
}

/// A history of a million records.
pub fn history(run: &mut Run) {
    let records = run.scaled(RECORDS);
    let site = two_deploys();
    let mut history = History::of(&site.store);
    history.lengthen(records as u64, MESSAGE);
    history.finish();
    let mut add = |what: String, unit, values: &[f64], limit| {
        run.add(Row::value("bounds", what, unit, values, limit));
    };
    let took = timed(&site, &["log", "-n", "5"]);
    let what = format!("log -n 5 of {records} records, no daemon");
    add(what, "ms", &took, Limit::AtMost(50.0));
    let mounts: Vec<f64> = (0..3)
        .map(|_| {
            let started = Instant::now();
            site.mount(&[]);
            let took = started.elapsed().as_secs_f64() * 1e3;
            site.umount();
            took
        })
        .collect();
    let what = format!("mount with {records} records");
    add(what, "ms", &mounts, Limit::None);
    site.mount(&[]);
    let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
    let what = format!("the daemon's memory at most at its start with {records} records");
    add(what, "MiB", &[memory], Limit::AtMost(150.0));
    let took = timed(&site, &["log", "-n", "5"]);
    let what = format!("log -n 5 of {records} records, with a daemon");
    add(what, "ms", &took, Limit::AtMost(50.0));
    let started = Instant::now();
    let log = site.run(["log"]);
    let took = started.elapsed().as_secs_f64();
    assert!(log.status.success(), "{}", stderr(&log));
    add(
        format!("log, all {records} of it"),
        "s",
        &[took],
        Limit::None,
    );
    let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
    let what = "the daemon's memory at most afterwards".to_owned();
    add(what, "MiB", &[memory], Limit::AtMost(150.0));

    let long = run.scaled(LONG);
    let site = two_deploys();
    let mut history = History::of(&site.store);
    for _ in 0..long {
        let (id, content) = (history.sealed[0].deploy, history.sealed[0].content);
        history.add(deployfs::model::history::Verb::Seal, id, |record| {
            record.content = content;
            record.message = "m".repeat(1 << 20);
        });
    }
    history.finish();
    site.mount(&[]);
    let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
    let what = format!("the daemon's memory at most at its start with {long} messages of 1 MiB");
    run.add(Row::value(
        "bounds",
        what,
        "MiB",
        &[memory],
        Limit::AtMost(150.0),
    ));
}

/// Twenty thousand deploys.
pub fn deploys(run: &mut Run) {
    let deploys = run.scaled(DEPLOYS);
    let site = Site::unmounted();
    many_deploys(&site.store, deploys);
    let mut add = |what: String, unit, values: &[f64], limit| {
        run.add(Row::value("bounds", what, unit, values, limit));
    };
    let started = Instant::now();
    site.mount(&[]);
    let took = started.elapsed().as_secs_f64() * 1e3;
    add(
        format!("mount with {deploys} deploys"),
        "ms",
        &[took],
        Limit::None,
    );
    let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
    let what = format!("the daemon's memory at most at its start with {deploys} deploys");
    add(what, "MiB", &[memory], Limit::AtMost(150.0));
    let limit = || Limit::AtMost(3000.0);
    let prune = ["prune", "--keep", "100", "--dry-run"];
    for (args, limit) in [
        (&["du"][..], limit()),
        (&prune[..], limit()),
        (&["list"][..], Limit::None),
    ] {
        let took = timed(&site, args);
        let what = format!("{} of {deploys} deploys", args.join(" "));
        add(what, "ms", &took, limit);
    }
    let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
    let what = "the daemon's memory at most afterwards".to_owned();
    add(what, "MiB", &[memory], Limit::None);
}

/// A million names, in one folder and in many.
pub fn names(run: &mut Run) {
    let names = run.scaled(NAMES);
    for (in_each, place) in [
        (names, "in one folder"),
        (1000, "a thousand in each folder"),
    ] {
        let folder = run.path(&format!("names-{in_each}"));
        many_files(&folder, names, in_each);
        seal_names(run, &folder, &format!("{names} names, {place}"));
    }
}

fn seal_names(run: &mut Run, folder: &Path, what: &str) {
    let site = Site::new();
    for (again, times) in [("deploy", "the first time"), ("deploy", "again")] {
        let before = mebibytes(memory_of(site.daemon_pid(), "VmRSS:"));
        let started = Instant::now();
        let id = site.ok([again, text(folder)]);
        let took = started.elapsed().as_secs_f64();
        let memory = mebibytes(memory_of(site.daemon_pid(), "VmHWM:"));
        let what = format!("the daemon's memory at most, {again} of {what}, {times}");
        let note = format!("{before:.0} MiB before; it took {took:.1} s");
        let row = Row::value("bounds", what, "MiB", &[memory], Limit::AtMost(250.0));
        run.add(row.note(note));
        site.activate(&id);
        assert!(matches!(site.ask(&Request::Status), Answer::Status(_)));
        site.umount();
        site.mount(&[]);
    }
}

/// Makes so many small files, each in the folder of its number divided by `in_each`.
fn many_files(dir: &Path, count: usize, in_each: usize) {
    for first in (0..count).step_by(in_each) {
        let folder = match in_each < count {
            true => dir.join(format!("{:05}", first / in_each)),
            false => dir.to_owned(),
        };
        fs::create_dir_all(&folder).unwrap();
        for number in first..count.min(first + in_each) {
            let path = folder.join(format!("page-{number:07}.html"));
            fs::write(path, format!("<p>{number}\n")).unwrap();
        }
    }
}
