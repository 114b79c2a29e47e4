//! Backups between random steps of a store, and a crash at every step of the disk that holds the backup: it opens as the state
//! before or the state after, whole, and the next backup goes on from there.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::super::Deployfs;
use super::super::backup::bring_up;
use super::super::ingest::Watch;
use super::bench::{Bench, LIMITS, Op};
use super::campaign;
use super::model::Model;
use super::sources::{Root, Sources};
use crate::campaign::Random;
use crate::store::backup::{Place, Snapshot};
use crate::store::sim_disk::{Image, SimDisk};
use crate::store::{Index, Store};

/// Backups in one script, and things done before each.
const BACKUPS: u64 = 5;
const OPS: u64 = 4;

#[test]
fn p4_a_crash_at_any_step_of_a_backup_leaves_the_state_before_or_after() {
    campaign("backup crash points", "DEPLOYFS_TEST_CRASHES", 300, script);
}

fn script(sources: &Sources, seed: u64) -> (u64, Result<(), String>) {
    let mut run = Run {
        random: Random::new(seed),
        target: Root::new(),
        tried: 0,
    };
    let outcome = run.script(sources);
    (run.tried, outcome)
}

struct Run {
    random: Random,
    /// Where targets have their locks.
    target: Root,
    tried: u64,
}

impl Run {
    fn script(&mut self, sources: &Sources) -> Result<(), String> {
        let root = Root::new();
        let mut random = self.random.fork();
        let new = (Image::default(), Model::default());
        let mut bench = Bench::new(sources, &root, new.0, new.1, random.fork());
        bench.init()?;
        bench.open()?;
        let mut image = Image::default();
        let mut before: Option<Snapshot> = None;
        for number in 0..BACKUPS {
            for _ in 0..=random.below(OPS) {
                bench.run(Op::any(&mut random))?;
            }
            let doing = |what: String| format!("backup {number}: {what}");
            let (after, moments) = self.back_up(&bench, &image).map_err(doing)?;
            for (step, moment) in moments.iter().enumerate() {
                self.crash(&bench, moment, before.as_ref(), &after)
                    .map_err(|what| doing(format!("crash at step {step}: {what}")))?;
            }
            let last = moments.last().expect("each backup has steps");
            self.expect(last, false, &[&after]).map_err(doing)?;
            image = last.clone();
            before = Some(after);
        }
        Ok(())
    }

    /// Makes a backup on a disk that holds this; the state it is of, and what the disk held before each step and at the end.
    fn back_up(
        &mut self,
        bench: &Bench<'_>,
        image: &Image,
    ) -> Result<(Snapshot, Vec<Image>), String> {
        let disk = Arc::new(SimDisk::new(image.clone(), self.random.fork()));
        let moments = Arc::new(Mutex::new(Vec::new()));
        let notes = moments.clone();
        disk.watch(Some(Box::new(move |image: &Image| {
            notes.lock().unwrap().push(image.clone());
        })));
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let open = || Store::read_on(bench.disk.clone(), bench.root.path(), LIMITS);
        let (snapshot, source) =
            Snapshot::take(&*bench.disk, "source", &open).map_err(|error| failed(&error))?;
        let root = self.target.path();
        let place = Place::on(disk.clone(), root, LIMITS).map_err(|error| failed(&error))?;
        let reopen = || Store::open_on(disk.clone(), root, Index::none(), LIMITS);
        let watch = Watch {
            progress: &|_| {},
            cancel: &AtomicBool::new(false),
        };
        bring_up(&source, &snapshot, place, reopen, false, &watch)
            .map_err(|error| failed(&error))?;
        disk.watch(None);
        let mut moments = std::mem::take(&mut *moments.lock().unwrap());
        moments.push(disk.image());
        Ok((snapshot, moments))
    }

    /// The process ends at this moment, or the power goes.
    fn crash(
        &mut self,
        bench: &Bench<'_>,
        moment: &Image,
        before: Option<&Snapshot>,
        after: &Snapshot,
    ) -> Result<(), String> {
        self.tried += 1;
        let moment = match self.random.once_in(3) {
            true => moment.clone(),
            false => moment.after_power_cut(&mut self.random),
        };
        let states: Vec<&Snapshot> = before.into_iter().chain([after]).collect();
        self.expect(&moment, before.is_none(), &states)?;
        if self.random.once_in(8) {
            let (_, moments) = self
                .back_up(bench, &moment)
                .map_err(|what| format!("and then: {what}"))?;
            let last = moments.last().expect("each backup has steps");
            self.expect(last, false, &[after])
                .map_err(|what| format!("and then: {what}"))?;
        }
        Ok(())
    }

    /// The disk holds one of these states, whole, or perhaps no store yet.
    fn expect(
        &mut self,
        image: &Image,
        may_be_unmade: bool,
        states: &[&Snapshot],
    ) -> Result<(), String> {
        let root = self.target.path();
        let disk = Arc::new(SimDisk::new(image.clone(), self.random.fork()));
        let read = Store::read_on(disk.clone(), root, LIMITS);
        let unmade =
            |error: &str| error.contains("not complete") || error.contains("not a deployfs");
        match read {
            Err(error) if may_be_unmade && unmade(&error.to_string()) => return Ok(()),
            read => is_one_of(&read.map_err(|error| error.to_string())?, states)?,
        }
        let store = Store::open_on(disk, root, Index::none(), LIMITS);
        let store = store.map_err(|error| format!("it cannot be opened: {error}"))?;
        is_one_of(&store, states)?;
        let flow = Deployfs::over(store);
        let problems = flow.fsck(
            true,
            &Watch {
                progress: &|_| {},
                cancel: &AtomicBool::new(false),
            },
        );
        match problems.map_err(|error| error.to_string())?.problems {
            none if none.is_empty() => Ok(()),
            problems => Err(format!("{problems:?}")),
        }
    }
}

/// The store has the history and the deploy files of one of these states.
fn is_one_of(store: &Store, states: &[&Snapshot]) -> Result<(), String> {
    let seq = store.with_ledger(|ledger| ledger.next_seq()) - 1;
    let sum = store.with_ledger(|ledger| ledger.last_sum().to_owned());
    let is_it = |state: &&&Snapshot| state.last_seq() == seq && state.ledger.last_sum() == sum;
    let Some(state) = states.iter().find(is_it) else {
        let known: Vec<u64> = states.iter().map(|state| state.last_seq()).collect();
        return Err(format!("its last record is {seq}, not one of {known:?}"));
    };
    for (id, _, file) in &state.files {
        match store.deploy_file(*id) {
            Ok(found) if found == *file => {}
            Ok(_) => return Err(format!("deploy {id} has the deploy file of another state")),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
