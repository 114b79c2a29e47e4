//! Whatever is kept stays whole (P8): random rows of seals, activations, pins, removals, steps of a gc, open readers and power
//! cuts, beside a reference model; and threads that do all of it at once.

#[cfg(feature = "interleavings")]
mod interleavings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::Deployfs;
use super::crash_tests::sources::{Files, Root as Folder, Source, Sources};
use super::ingest::Watch;
use super::mounted::{Held, Mounted, MountedError, Root};
use crate::campaign::{self, Random};
use crate::model::report::{
    ActivateRequest, Answer, Caller, Failure, FolderRequest, PruneRequest, Request, SealOptions,
};
use crate::model::{Blob, ChannelName, DeployId, Node};
use crate::store::sim_disk::{Image, SimDisk};
use crate::store::{Disk, Gc, Index, Limits, RETENTION, Store, StoreError};
use crate::sync::Mutex;

/// Small, so that there are many packs.
const LIMITS: Limits = Limits {
    finish_bytes: 60_000,
    seal_finish_chunks: 14,
    seal_finish_bytes: 20_000,
    buffer: 2048,
};
/// How many of the deploys that were live stay in these tests.
const RECENT: usize = 2;

/// Something to do; numbers choose among what is there then.
#[derive(Debug, Clone, Copy)]
enum Op {
    Deploy(usize),
    /// Laid over the live deploy.
    Over(usize),
    /// Refused once its chunks are stored.
    Refused(usize),
    Activate(usize),
    Rollback,
    Pin(usize),
    Unpin(usize),
    Remove(usize),
    Prune(usize),
    /// A whole gc.
    Gc,
    GcBegin,
    GcSteps(usize),
    /// The power fails at one of the disk's steps while a gc goes on.
    CutInGc(u64),
    OpenFile(usize),
    OpenDir(usize),
    Close,
    Reopen,
    ReopenWithoutIndex,
    Cut(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let number = 0..1000usize;
    prop_oneof![
        8 => number.clone().prop_map(Op::Deploy),
        2 => number.clone().prop_map(Op::Over),
        1 => number.clone().prop_map(Op::Refused),
        4 => number.clone().prop_map(Op::Activate),
        1 => Just(Op::Rollback),
        1 => number.clone().prop_map(Op::Pin),
        1 => number.clone().prop_map(Op::Unpin),
        5 => number.clone().prop_map(Op::Remove),
        2 => (0..4usize).prop_map(Op::Prune),
        2 => Just(Op::Gc),
        3 => Just(Op::GcBegin),
        8 => (1..30usize).prop_map(Op::GcSteps),
        2 => any::<u64>().prop_map(Op::CutInGc),
        2 => number.clone().prop_map(Op::OpenFile),
        1 => number.prop_map(Op::OpenDir),
        1 => Just(Op::Close),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReopenWithoutIndex),
        1 => any::<u64>().prop_map(Op::Cut),
    ]
}

/// What is open in a mount that there is not.
#[derive(Default)]
struct Opened(Mutex<Open>);

#[derive(Default)]
struct Open {
    removed: BTreeSet<DeployId>,
    /// With the bytes of those that are files.
    held: Vec<(Held, Vec<u8>)>,
}

impl Opened {
    /// A look into the deploy, which from here on may be read on; false: it has been removed.
    fn open(&self, id: DeployId, held: Held, bytes: Vec<u8>) -> bool {
        let mut open = self.0.lock().unwrap();
        let is_there = !open.removed.contains(&id);
        if is_there {
            open.held.push((held, bytes));
        }
        is_there
    }

    fn close_all(&self) {
        self.0.lock().unwrap().held.clear();
    }

    /// What is open can be read.
    fn check(&self, flow: &Deployfs) {
        for (held, bytes) in &self.0.lock().unwrap().held {
            match held {
                Held::File(blob) => assert_eq!(&flow.store.read_blob(blob).unwrap(), bytes),
                // All that is below it must stay readable; what comes out is checked by its hashes.
                Held::Dir(blob) => read_all(flow, blob).unwrap(),
            }
        }
    }
}

impl Mounted for Opened {
    fn flip(&self, _: &ChannelName, _: &Root) -> Result<(), MountedError> {
        Ok(())
    }
    fn closed(&self, _: &ChannelName) -> Result<(), MountedError> {
        Ok(())
    }
    fn sealed(&self, root: &Root) -> Result<(), MountedError> {
        self.0.lock().unwrap().removed.remove(&root.id);
        Ok(())
    }
    fn removed(&self, id: DeployId) -> Result<(), MountedError> {
        self.0.lock().unwrap().removed.insert(id);
        Ok(())
    }
    fn held(&self, tell: &mut dyn FnMut(Held)) {
        let held = self.0.lock().unwrap().held.clone();
        held.into_iter().for_each(|(held, _)| tell(held));
    }
}

/// What must be so.
#[derive(Default)]
struct Model {
    deploys: BTreeMap<DeployId, Kept>,
    /// Was a deploy once.
    removed: Vec<DeployId>,
    /// The way back: live last.
    trail: Vec<DeployId>,
    /// Those that were live, the latest last.
    lived: Vec<DeployId>,
    seals: u64,
}

struct Kept {
    files: Arc<Files>,
    pinned: bool,
    sealed: u64,
}

impl Model {
    fn live(&self) -> Option<DeployId> {
        self.trail.last().copied()
    }

    fn pick(&self, number: usize) -> Option<DeployId> {
        self.deploys
            .keys()
            .copied()
            .nth(number % self.deploys.len().max(1))
    }

    fn sealed(&mut self, id: DeployId, files: &Arc<Files>) {
        self.seals += 1;
        let pinned = self.deploys.get(&id).is_some_and(|kept| kept.pinned);
        let kept = Kept {
            files: files.clone(),
            pinned,
            sealed: self.seals,
        };
        self.deploys.insert(id, kept);
        self.removed.retain(|gone| *gone != id);
    }

    fn made_live(&mut self, id: DeployId, back: bool) {
        self.lived.retain(|other| *other != id);
        self.lived.push(id);
        match self.trail.iter().rposition(|other| *other == id) {
            Some(at) if back => self.trail.truncate(at + 1),
            _ if self.live() == Some(id) => {}
            _ => self.trail.push(id),
        }
    }

    fn is_protected(&self, id: DeployId) -> bool {
        let previous = self.trail.iter().rev().nth(1);
        self.deploys[&id].pinned
            || self.live() == Some(id)
            || previous == Some(&id)
            || self
                .lived
                .iter()
                .rev()
                .take(RECENT)
                .any(|lived| *lived == id)
    }

    fn remove(&mut self, id: DeployId) {
        self.deploys.remove(&id);
        self.removed.push(id);
        self.trail.retain(|other| *other != id);
        self.trail.dedup();
        self.lived.retain(|other| *other != id);
    }

    fn prunable(&self, keep: usize) -> Vec<DeployId> {
        let mut by_seal: Vec<(u64, DeployId)> = self
            .deploys
            .iter()
            .map(|(&id, kept)| (kept.sealed, id))
            .collect();
        by_seal.sort_unstable();
        by_seal.truncate(by_seal.len().saturating_sub(keep));
        let ids = by_seal.into_iter().map(|(_, id)| id);
        ids.filter(|id| !self.is_protected(*id)).collect()
    }
}

struct World<'a> {
    sources: &'a Sources,
    folder: Folder,
    disk: Arc<SimDisk>,
    has_index: bool,
    opened: Arc<Opened>,
    model: Model,
}

fn caller() -> Caller {
    Caller {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
    }
}

fn deploy(source: &Source, from: Option<&str>) -> Request {
    Request::Deploy(FolderRequest {
        dir: source.dir.clone(),
        from: from.map(str::to_owned),
        delete: vec![],
        dry_run: false,
        no_cache: false,
        options: SealOptions::default(),
    })
}

fn activate(id: DeployId) -> ActivateRequest {
    ActivateRequest {
        target: Some(id.to_string()),
        ..ActivateRequest::default()
    }
}

fn remove(id: DeployId) -> Request {
    Request::Remove {
        targets: vec![id.to_string()],
        message: String::new(),
        now: false,
    }
}

fn ask(flow: &Deployfs, request: &Request) -> Result<Answer, Failure> {
    let opened = match request {
        Request::Deploy(request) => Some(File::open(&request.dir).unwrap().into()),
        _ => None,
    };
    let nobody = AtomicBool::new(false);
    flow.run_with(request, opened, &caller(), &|_| {}, &nobody)
}

/// The blob at a path of a tree, and whether it is a directory's.
fn find(flow: &Deployfs, tree: &Blob, path: &str) -> (Blob, bool) {
    let tree = flow.store.read_tree(tree).unwrap();
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    match &tree.get(name.as_bytes()).unwrap().node {
        Node::File(blob) => (blob.clone(), false),
        Node::Dir { tree, .. } if rest.is_empty() => (tree.clone(), true),
        Node::Dir { tree, .. } => find(flow, tree, rest),
        Node::Symlink(_) => panic!("{path} is a symlink"),
    }
}

impl<'a> World<'a> {
    fn new(sources: &'a Sources, has_index: bool) -> Self {
        let folder = Folder::new();
        let retention = format!("keep-recently-live = {RECENT}\nkeep-live-within = '0s'");
        std::fs::write(folder.path().join(RETENTION), retention).unwrap();
        let disk = Arc::new(SimDisk::new(Image::default(), Random::new(1)));
        Store::init_on(disk.clone(), "root", 1).unwrap();
        World {
            sources,
            folder,
            disk,
            has_index,
            opened: Arc::default(),
            model: Model::default(),
        }
    }

    fn open(&mut self) -> Deployfs {
        self.disk.next_process();
        let index = match self.has_index {
            true => Index::new(self.folder.path().join("index")),
            false => Index::none(),
        };
        let store = Store::open_on(self.disk.clone(), self.folder.path(), index, LIMITS).unwrap();
        let flow = Deployfs::recovered(store).unwrap();
        self.opened = Arc::default();
        flow.attach(self.opened.clone());
        flow
    }

    fn run(&mut self, ops: &[Op]) {
        let mut ops = ops.iter().copied();
        let mut more = true;
        while more {
            let flow = self.open();
            self.check(&flow);
            more = self.run_until_closed(&flow, &mut ops);
        }
    }

    /// False: there is no more to do.
    fn run_until_closed(&mut self, flow: &Deployfs, ops: &mut impl Iterator<Item = Op>) -> bool {
        let nobody = AtomicBool::new(false);
        let watch = Watch {
            progress: &|_| {},
            cancel: &nobody,
        };
        let mut gc: Option<Gc<'_>> = None;
        for op in ops {
            if let Op::Gc | Op::CutInGc(_) = op {
                // One gc at a time: the one under way is broken off.
                gc = None;
            }
            match op {
                Op::GcBegin => gc = Some(flow.begin_gc(&watch).unwrap()),
                Op::GcSteps(steps) => {
                    for _ in 0..steps {
                        if let Some(mut going) = gc.take() {
                            match flow.gc_slice(&mut going, Duration::ZERO, &watch).unwrap() {
                                true => gc = Some(going),
                                false => drop(flow.end_gc(going).unwrap()),
                            }
                        }
                    }
                }
                Op::CutInGc(seed) => {
                    let images = self.images_during(|| {
                        drop(ask(flow, &Request::Gc { dry_run: false }).unwrap())
                    });
                    let mut random = Random::new(seed);
                    let image = random.pick(&images.lock().unwrap()).clone();
                    self.cut(image, &mut random);
                    return true;
                }
                Op::Cut(seed) => {
                    self.cut(self.disk.image(), &mut Random::new(seed));
                    return true;
                }
                Op::Reopen => return true,
                Op::ReopenWithoutIndex => {
                    std::fs::remove_dir_all(self.folder.path().join("index")).ok();
                    return true;
                }
                other => self.ask(flow, other),
            }
            self.check(flow);
        }
        false
    }

    fn images_during(&self, work: impl FnOnce()) -> Arc<Mutex<Vec<Image>>> {
        let images = Arc::new(Mutex::new(Vec::new()));
        let notes = images.clone();
        self.disk.watch(Some(Box::new(move |image: &Image| {
            notes.lock().unwrap().push(image.clone());
        })));
        work();
        self.disk.watch(None);
        images.lock().unwrap().push(self.disk.image());
        images
    }

    fn cut(&mut self, image: Image, random: &mut Random) {
        let image = match random.below(3) {
            0 => image,
            _ => image.after_power_cut(random),
        };
        self.disk = Arc::new(SimDisk::new(image, random.fork()));
    }

    fn ask(&mut self, flow: &Deployfs, op: Op) {
        let good = |number: usize| &self.sources.good[number % self.sources.good.len()];
        match op {
            Op::Deploy(number) => self.seal(
                flow,
                &deploy(good(number), None),
                &good(number).files.clone(),
            ),
            Op::Over(number) => {
                let Some(live) = self.model.live() else {
                    return;
                };
                let mut files = (*self.model.deploys[&live].files).clone();
                let source = good(number);
                files.extend(
                    source
                        .files
                        .iter()
                        .map(|(path, bytes)| (path.clone(), bytes.clone())),
                );
                self.seal(flow, &deploy(source, Some("live")), &Arc::new(files));
            }
            Op::Refused(number) => {
                let bad = &self.sources.bad[number % self.sources.bad.len()];
                ask(flow, &deploy(bad, None)).unwrap_err();
            }
            Op::Activate(number) => {
                let Some(id) = self.model.pick(number) else {
                    return;
                };
                ask(flow, &Request::Activate(activate(id))).unwrap();
                self.model.made_live(id, false);
            }
            Op::Rollback => {
                let Some(&id) = self.model.trail.iter().rev().nth(1) else {
                    return;
                };
                ask(flow, &Request::Rollback(ActivateRequest::default())).unwrap();
                self.model.made_live(id, true);
            }
            Op::Pin(number) | Op::Unpin(number) => {
                let Some(id) = self.model.pick(number) else {
                    return;
                };
                let (target, message) = (id.to_string(), String::new());
                let pinned = matches!(op, Op::Pin(_));
                let request = match pinned {
                    true => Request::Pin { target, message },
                    false => Request::Unpin { target, message },
                };
                ask(flow, &request).unwrap();
                self.model.deploys.get_mut(&id).unwrap().pinned = pinned;
            }
            Op::Remove(number) => {
                let Some(id) = self.model.pick(number) else {
                    return;
                };
                let answer = ask(flow, &remove(id));
                assert_eq!(answer.is_err(), self.model.is_protected(id), "{answer:?}");
                if answer.is_ok() {
                    self.model.remove(id);
                }
            }
            Op::Prune(keep) => {
                let request = Request::Prune(PruneRequest {
                    keep: Some(keep),
                    ..PruneRequest::default()
                });
                let Ok(Answer::Pruned(report)) = ask(flow, &request) else {
                    panic!("a prune was refused");
                };
                assert_eq!(report.removed, self.model.prunable(keep));
                report
                    .removed
                    .into_iter()
                    .for_each(|id| self.model.remove(id));
            }
            Op::Gc => {
                ask(flow, &Request::Gc { dry_run: false }).unwrap();
                let Ok(Answer::Gc(again)) = ask(flow, &Request::Gc { dry_run: true }) else {
                    panic!("a gc was refused");
                };
                assert_eq!(again.freed_bytes, 0, "a second gc would free more");
            }
            Op::OpenFile(number) => self.open_at(flow, number, |path| path.to_owned()),
            Op::OpenDir(number) => self.open_at(flow, number, |path| {
                path.split_once('/').map_or(path, |(dir, _)| dir).to_owned()
            }),
            Op::Close => self.opened.close_all(),
            _ => unreachable!("it ends the process, or is a gc's step"),
        }
    }

    fn seal(&mut self, flow: &Deployfs, request: &Request, files: &Arc<Files>) {
        match ask(flow, request).unwrap() {
            Answer::Sealed(report) => self.model.sealed(report.deploy_id, files),
            other => panic!("{other:?}"),
        }
    }

    /// Opens what `choose` makes of the path of some file of some deploy.
    fn open_at(&mut self, flow: &Deployfs, number: usize, choose: impl Fn(&str) -> String) {
        let Some(id) = self.model.pick(number) else {
            return;
        };
        let files = &self.model.deploys[&id].files;
        let is_file = |(path, _): &(&String, &Vec<u8>)| !path.ends_with('@');
        let (path, bytes) = files.iter().filter(is_file).nth(number % 4).unwrap();
        let root = flow.store.deploy_file(id).unwrap().root;
        let (held, bytes) = match find(flow, &root, &choose(path)) {
            (blob, false) => (Held::File(blob), bytes.clone()),
            (blob, true) => (Held::Dir(blob), Vec::new()),
        };
        assert!(self.opened.open(id, held, bytes));
    }

    fn check(&self, flow: &Deployfs) {
        let model = &self.model;
        let live = flow.store.with_ledger(|ledger| ledger.live());
        assert_eq!(ids(flow), model.deploys.keys().copied().collect::<Vec<_>>());
        assert_eq!(live, model.live());
        assert_whole(flow);
        for id in &model.removed {
            assert!(
                ask(
                    flow,
                    &Request::Show {
                        target: id.to_string()
                    }
                )
                .is_err()
            );
            assert_eq!(self.disk.image().bytes(&format!("deploys/{id}")), None);
        }
        self.opened.check(flow);
        let status = flow.status();
        let pinned = model.deploys.values().filter(|kept| kept.pinned).count();
        assert_eq!(status.pinned.len(), pinned);
        let packs = self.disk.list("packs").unwrap();
        let on_disk: u64 = packs.iter().map(|(_, len)| len).sum();
        assert_eq!(status.pack_bytes, on_disk);
    }
}

/// The deploys that are there.
fn ids(flow: &Deployfs) -> Vec<DeployId> {
    flow.store
        .with_ledger(|ledger| ledger.deploys().keys().copied().collect())
}

fn assert_whole(flow: &Deployfs) {
    let mut checker = flow.store.checker(&|_| true);
    checker.check_store();
    ids(flow)
        .into_iter()
        .for_each(|id| checker.check_deploy(id, true));
    assert_eq!(checker.finish().problems, Vec::<String>::new());
}

fn read_all(flow: &Deployfs, tree: &Blob) -> Result<(), StoreError> {
    for entry in flow.store.read_tree(tree)?.entries() {
        match &entry.node {
            Node::File(blob) => drop(flow.store.read_blob(blob)?),
            Node::Dir { tree, .. } => read_all(flow, tree)?,
            Node::Symlink(_) => {}
        }
    }
    Ok(())
}

#[test]
fn p8_whatever_is_kept_stays_whole_in_any_order_of_seals_removals_gc_steps_and_power_cuts() {
    let cases = campaign::count("DEPLOYFS_TEST_REMOVALS", 40) as u32;
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&campaign::seed().to_le_bytes());
    let config = Config {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let sources = Sources::make();
    let rows = (any::<u8>(), prop::collection::vec(any_op(), 1..60));
    TestRunner::new_with_rng(config, random)
        .run(&rows, |(index, ops)| {
            World::new(&sources, index % 4 == 0).run(&ops);
            Ok(())
        })
        .unwrap();
    println!("removals: {cases} tried, 0 violations");
}

/// A deploy that was sealed during a gc, from chunks that the gc had found nobody to need, opened and removed again: the gc never
/// came to know that it was there, and took its chunks from under the reader.
#[test]
fn p3_what_is_sealed_opened_and_removed_during_a_gc_can_be_read_on() {
    let sources = Sources::make();
    let mut world = World::new(&sources, false);
    let flow = world.open();
    let nobody = AtomicBool::new(false);
    let watch = Watch {
        progress: &|_| {},
        cancel: &nobody,
    };
    let ids: Vec<DeployId> = (0..6)
        .map(|number| {
            world.ask(&flow, Op::Deploy(number));
            let sealed = flow.store.with_ledger(|ledger| ledger.latest());
            sealed.unwrap()
        })
        .collect();
    for id in &ids {
        ask(&flow, &remove(*id)).unwrap();
        world.model.remove(*id);
    }
    let mut gc = flow.begin_gc(&watch).unwrap();
    world.ask(&flow, Op::Deploy(3));
    for number in 0..4 {
        world.ask(&flow, Op::OpenFile(number));
    }
    ask(&flow, &remove(ids[3])).unwrap();
    world.model.remove(ids[3]);
    while flow.gc_slice(&mut gc, Duration::ZERO, &watch).unwrap() {}
    flow.end_gc(gc).unwrap();
    world.check(&flow);
    // They go with the next one, once nobody has them open.
    world.opened.close_all();
    let Ok(Answer::Gc(report)) = ask(&flow, &Request::Gc { dry_run: false }) else {
        panic!("a gc was refused");
    };
    assert!(report.freed_bytes > 0);
}

/// A chunk that was found to be there, but without the one that it is compressed with, is stored once more in the middle of a
/// gc. The gc took the older of the two records for the one to keep, and stopped since what that needs was missing.
#[test]
fn p8_a_chunk_that_comes_again_during_a_gc_that_has_removed_its_base_does_not_stop_it() {
    let sources = Sources::make();
    let ops = [
        Op::Deploy(148),
        Op::Deploy(663),
        Op::Deploy(442),
        Op::Remove(977),
        Op::Remove(16),
        Op::GcBegin,
        Op::GcSteps(10),
        Op::Deploy(792),
        Op::GcSteps(24),
    ];
    // The order of the chunks in the packs differs from time to time.
    for _ in 0..10 {
        World::new(&sources, false).run(&ops);
    }
}

#[test]
fn p8_a_seal_and_a_gc_at_once_lose_nothing() {
    let rounds = campaign::count("DEPLOYFS_TEST_REMOVALS", 40);
    let sources = Sources::make();
    let mut world = World::new(&sources, true);
    let flow = world.open();
    let over = AtomicBool::new(false);
    let mut random = Random::new(campaign::seed());
    let gcs = std::thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let mut gcs = 0;
            while !over.load(Ordering::Relaxed) {
                ask(&flow, &Request::Gc { dry_run: false }).unwrap();
                gcs += 1;
            }
            gcs
        });
        let reader = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let live = flow.store.with_ledger(|ledger| ledger.live());
                let Some(id) = live else { continue };
                let read = flow
                    .store
                    .deploy_file(id)
                    .and_then(|file| read_all(&flow, &file.root));
                // It may be removed while it is read, once another one has been live after it and that one's successor too.
                let is_there = || {
                    flow.store
                        .with_ledger(|ledger| ledger.deploys().contains_key(&id))
                };
                assert!(read.is_ok() || !is_there(), "{id}: {read:?}");
            }
        });
        for _ in 0..rounds {
            let source = random.pick(&sources.good);
            let Answer::Sealed(report) = ask(&flow, &deploy(source, None)).unwrap() else {
                panic!("another answer");
            };
            if random.once_in(3) {
                ask(&flow, &Request::Activate(activate(report.deploy_id))).unwrap();
            }
            let prune = PruneRequest {
                keep: Some(random.below(3) as usize),
                ..PruneRequest::default()
            };
            ask(&flow, &Request::Prune(prune)).unwrap();
            assert_whole(&flow);
        }
        over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        gc.join().unwrap()
    });
    assert!(gcs > 0);
    println!("seals beside a gc: {rounds} tried, 0 violations");
}
