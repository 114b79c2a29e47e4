//! What a gc makes a seal wait for.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use deployfs::model::report::{Answer, Request};

use crate::Run;
use crate::bed::{settle, time};
use crate::data::write;
use crate::report::{Limit, Row, Spread};
use crate::support::{Site, noise};

/// Files of the deploy that is removed; the next one keeps every other of them.
const FILES: usize = 10_000;
const BYTES: usize = 40_000;
/// Seals of a small folder, one after the other, without a gc.
const ALONE: usize = 40;
const ROUNDS: usize = 3;

/// Small seals, one after the other, while a gc copies half of every pack.
pub fn seals(run: &mut Run) {
    let files = run.scaled(FILES);
    let (mut slowest, mut seals) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let folder = run.path(&format!("collected-{round}"));
        let file = |number: usize| folder.join(format!("{:03}/{number}", number / 100));
        for number in 0..files {
            let bytes = noise((round * files + number) as u64, BYTES);
            write(&file(number), &bytes).expect("room");
        }
        let site = Site::new();
        let whole = site.deploy(&folder);
        for number in (0..files).step_by(2) {
            fs::remove_file(file(number)).expect("a file");
        }
        site.activate(&site.deploy(&folder));
        site.ok(["rm", &whole]);
        let small = run.path(&format!("small-{round}"));
        let mut number = 0;
        let mut seal = || {
            number += 1;
            let page = format!("page {number} of round {round}");
            write(&small.join("page"), page.as_bytes()).expect("room");
            time(|| drop(site.deploy(&small))) * 1e3
        };
        settle();
        let alone = Spread::of((0..ALONE).map(|_| seal())).median;
        let over = AtomicBool::new(false);
        let beside: Vec<f64> = std::thread::scope(|scope| {
            scope.spawn(|| {
                match site.ask(&Request::Gc { dry_run: false }) {
                    Answer::Gc(report) => assert!(report.packs_rewritten > 0, "{report:?}"),
                    other => panic!("{other:?}"),
                }
                over.store(true, Ordering::Relaxed);
            });
            std::iter::from_fn(|| (!over.load(Ordering::Relaxed)).then(&mut seal)).collect()
        });
        seals += beside.len();
        slowest.push(beside.into_iter().fold(0.0, f64::max) - alone);
    }
    let megabytes = files * BYTES / 1_000_000;
    let what = format!(
        "the slowest small seal while a gc copies half of {megabytes} MB, less one without a gc"
    );
    let row = Row::value("gc", what, "ms", &slowest, Limit::AtMost(100.0));
    run.add(row.note(format!("{seals} seals in {ROUNDS} rounds")));
}
