//! At every step of the disk the process dies, or the power goes; and again at every step of the recovery.

use super::bench::{Bench, Op, Point};
use super::campaign;
use super::model::Model;
use super::sources::{Root, Sources};
use crate::campaign::Random;
use crate::store::sim_disk::Image;

/// Things done in one script.
const OPS: u64 = 10;
/// One script in so many has an index too: it takes ten times as long.
const INDEXED: u64 = 16;

#[test]
fn p4_a_crash_at_any_step_of_the_disk_loses_nothing_that_was_acknowledged() {
    campaign("crash points", "DEPLOYFS_TEST_CRASHES", 300, script);
}

#[test]
fn a_store_that_did_not_sync_would_be_found() {
    let sources = Sources::make();
    let outcomes = (0..3).map(|seed| explored(&sources, seed, true).1);
    for outcome in outcomes {
        assert!(outcome.is_err());
    }
}

fn script(sources: &Sources, seed: u64) -> (u64, Result<(), String>) {
    explored(sources, seed, false)
}

/// On a disk that lies about its syncs, or on a good one.
fn explored(sources: &Sources, seed: u64, lies: bool) -> (u64, Result<(), String>) {
    let mut explorer = Explorer {
        sources,
        root: Root::new(),
        random: Random::new(seed),
        tried: 0,
        lies,
        indexed: seed.is_multiple_of(INDEXED),
    };
    let outcome = explorer.script();
    (explorer.tried, outcome)
}

struct Explorer<'a> {
    sources: &'a Sources,
    /// For what comes after the crashes.
    root: Root,
    random: Random,
    tried: u64,
    lies: bool,
    indexed: bool,
}

impl Explorer<'_> {
    fn script(&mut self) -> Result<(), String> {
        let root = Root::new();
        let sources = self.sources;
        let mut random = self.random.fork();
        let mut bench = Bench::new(
            sources,
            &root,
            Image::default(),
            Model::default(),
            random.fork(),
        )
        .with_index(self.indexed);
        if self.lies {
            bench.disk.lie();
        }
        let points = bench.watch();
        bench.init()?;
        self.explore(&points.lock().unwrap(), "init")?;
        bench.open()?;
        for number in 0..OPS {
            let op = Op::any(&mut random);
            let doing = format!("{number}: {op:?}");
            let points = bench.watch();
            bench.run(op).map_err(|what| format!("{doing}: {what}"))?;
            points.lock().unwrap().push(bench.point());
            let points = points.lock().unwrap();
            self.explore(&points, &doing)?;
            // Now and then the process did end there, and the script goes on after it.
            if random.once_in(4) {
                bench = Bench::at(sources, &root, random.pick(&points), &mut random)
                    .with_index(self.indexed);
                let open = bench
                    .recover()
                    .map_err(|what| format!("{doing}, went on: {what}"))?;
                assert!(open, "a store that was made stays one");
            }
        }
        bench.check()?;
        bench.read()
    }

    fn explore(&mut self, points: &[Point], doing: &str) -> Result<(), String> {
        for (number, point) in points.iter().enumerate() {
            let nested = 1 + u64::from(self.random.once_in(16));
            self.crash(point, nested)
                .map_err(|what| format!("{doing}, crash at its step {number}: {what}"))?;
        }
        Ok(())
    }

    /// Ends the process there; `nested`: how often the recovery is interrupted too.
    fn crash(&mut self, point: &Point, nested: u64) -> Result<(), String> {
        self.tried += 1;
        let mut random = self.random.fork();
        let points = self.after(point, nested > 0, &mut random)?;
        for (number, point) in points.iter().enumerate() {
            self.crash(point, nested - 1)
                .map_err(|what| format!("and at step {number} of the recovery: {what}"))?;
        }
        Ok(())
    }

    /// What the next process finds, and whether it can work on; returns the moments of its recovery.
    fn after(&self, point: &Point, watch: bool, random: &mut Random) -> Result<Vec<Point>, String> {
        let mut bench = Bench::at(self.sources, &self.root, point, random).with_index(self.indexed);
        let points = watch.then(|| bench.watch());
        let open = bench.recover()?;
        bench.disk.watch(None);
        if open && random.once_in(if watch { 2 } else { 8 }) {
            bench.read()?;
            let activate = Op::Activate(random.number() >> 8);
            let next = [
                Op::Deploy(random.number() >> 8),
                *random.pick(&[Op::Gc, activate]),
                Op::Reopen,
            ];
            for op in next {
                bench
                    .run(op)
                    .map_err(|what| format!("afterwards {op:?}: {what}"))?;
            }
            bench
                .check()
                .map_err(|what| format!("after the next seal: {what}"))?;
        }
        let points = points.map(|points| std::mem::take(&mut *points.lock().unwrap()));
        Ok(points.unwrap_or_default())
    }
}
