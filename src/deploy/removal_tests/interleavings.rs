//! Seals, removals, a gc and readers at once, in any order of their steps: shuttle chooses which thread goes on at each lock, each
//! atomic and each step of the disk.

use std::collections::BTreeSet;

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::*;
use crate::sync::{Mutex, thread};

/// How many changes of thread at chosen steps it takes to bring out what is looked for (the depth of PCT).
const DEPTH: usize = 4;
/// Its threads' stacks: sealing needs more than shuttle's default.
const STACK: usize = 4 << 20;

/// A mount in which files are opened as in ours: while their deploy is there.
#[derive(Default)]
struct Mount(Mutex<Open>);

#[derive(Default)]
struct Open {
    removed: BTreeSet<DeployId>,
    held: Vec<Blob>,
}

impl Mount {
    /// A look into the deploy, which from here on may be read on; none: it has been removed.
    fn open(&self, id: DeployId, root: &Blob) -> Option<Blob> {
        let mut open = self.0.lock().unwrap();
        (!open.removed.contains(&id)).then(|| {
            open.held.push(root.clone());
            root.clone()
        })
    }
}

impl Mounted for Mount {
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
        held.into_iter().map(Held::Dir).for_each(tell);
    }
}

fn ids(flow: &Deployfs) -> Vec<DeployId> {
    flow.store
        .with_ledger(|ledger| ledger.deploys().keys().copied().collect())
}

/// None: the same deploy was removed meanwhile, which is refused.
fn seal(flow: &Deployfs, source: &Source) -> Option<DeployId> {
    match ask(flow, &deploy(source, None)) {
        Ok(Answer::Sealed(report)) => Some(report.deploy_id),
        Err(failure) if failure.message.contains("was removed while") => None,
        other => panic!("{other:?}"),
    }
}

/// Unless it is live, or has been so lately.
fn remove(flow: &Deployfs, id: DeployId) {
    let request = Request::Remove {
        targets: vec![id.to_string()],
        message: String::new(),
    };
    ask(flow, &request).ok();
}

/// By `fsck`, whatever goes on beside it.
fn assert_sound(flow: &Deployfs) {
    match ask(flow, &Request::Fsck { read_data: true }).unwrap() {
        Answer::Check(report) => assert_eq!(report.problems, Vec::<String>::new()),
        other => panic!("{other:?}"),
    }
}

fn check_all(flow: &Deployfs, mount: &Mount) {
    let mut checker = flow.store.checker(&|_| true);
    checker.check_store();
    ids(flow)
        .into_iter()
        .for_each(|id| checker.check_deploy(id, true));
    assert_eq!(checker.finish().problems, Vec::<String>::new());
    for root in &mount.0.lock().unwrap().held {
        read_all(flow, root).unwrap();
    }
}

/// One run of the threads, in the order that shuttle chooses.
fn at_once(sources: &Sources) {
    let mut random = shuttle::rand::thread_rng();
    let mut pick = |below: usize| random.gen_range(0..below);
    let has_index = pick(16) == 0;
    let mut chosen = |count: usize| -> Vec<&Source> {
        (0..count)
            .map(|_| &sources.good[pick(sources.good.len())])
            .collect()
    };
    let (first, more) = (chosen(5), chosen(2));
    let refused = &sources.bad[pick(sources.bad.len())];
    let world = World::new(sources, has_index);
    let mount = Arc::new(Mount::default());
    let flow = &world.open_with(mount.clone());
    let mut there: Vec<DeployId> = first
        .iter()
        .filter_map(|source| seal(flow, source))
        .collect();
    ask(flow, &Request::Activate(activate(there[0]))).unwrap();
    // So that the gc has packs to rewrite from the first step on.
    for id in there.split_off(3) {
        remove(flow, id);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let nobody = AtomicBool::new(false);
            let watch = Watch {
                progress: &|_| {},
                cancel: &nobody,
            };
            let mut gc = flow.begin_gc(&watch).unwrap();
            while flow.gc_slice(&mut gc, Duration::ZERO, &watch).unwrap() {}
            flow.end_gc(gc).unwrap();
        });
        scope.spawn(|| {
            for source in &more {
                // All that it has appended by then is taken back.
                ask(flow, &deploy(refused, None)).unwrap_err();
                if let Some(id) = seal(flow, source) {
                    // It may have been removed again.
                    ask(flow, &Request::Activate(activate(id))).ok();
                }
            }
        });
        scope.spawn(|| {
            for id in &there {
                remove(flow, *id);
            }
        });
        scope.spawn(|| {
            for turn in 0..9 {
                let all = ids(flow);
                let id = &all[turn % all.len()];
                let Ok(file) = flow.store.deploy_file(*id) else {
                    continue;
                };
                if let Some(root) = mount.open(*id, &file.root) {
                    read_all(flow, &root).unwrap();
                }
            }
        });
        scope.spawn(|| {
            assert_sound(flow);
            let Answer::Scrubbed(report) = ask(flow, &Request::Scrub { rate: None }).unwrap()
            else {
                panic!("another answer");
            };
            assert_eq!(report.problems, Vec::<String>::new());
        });
    });
    check_all(flow, &mount);
    ask(flow, &Request::Gc { dry_run: false }).unwrap();
    check_all(flow, &mount);
    assert!(
        flow.store.suspects().is_empty(),
        "a sound chunk is suspected"
    );
}

fn run(orders: usize, seed: u64, once: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(50_000_000);
    config.silence_warnings = true;
    // It is repeated from the seed.
    config.failure_persistence = FailurePersistence::None;
    let once = Arc::new(once);
    let again = once.clone();
    let at_random = RandomScheduler::new_from_seed(seed, orders.div_ceil(2));
    Runner::new(at_random, config.clone()).run(move || once());
    let by_priority = PctScheduler::new_from_seed(seed, DEPTH, orders / 2);
    Runner::new(by_priority, config).run(move || again());
}

fn orders() -> usize {
    campaign::count("DEPLOYFS_TEST_INTERLEAVINGS", 300) as usize
}

#[test]
fn p8_in_any_order_of_the_steps_of_seals_removals_a_gc_and_readers_nothing_is_lost() {
    let (orders, sources) = (orders(), Sources::make());
    run(orders, campaign::seed(), move || at_once(&sources));
    println!("interleavings: {orders} tried, 0 violations");
}

/// The removal took the file that a seal of the same content had just written, and the seal was recorded: the deploy was there
/// until the store was opened again.
#[test]
fn p4_a_deploy_file_that_a_removal_takes_after_it_was_written_again_is_not_counted_on() {
    let (orders, sources) = (10 * orders(), Sources::make());
    run(orders, campaign::seed(), move || {
        let world = World::new(&sources, false);
        let flow = world.open_with(Arc::new(Mount::default()));
        let id = seal(&flow, &sources.good[0]).unwrap();
        let file = flow.store.deploy_file(id).unwrap();
        let on_disk = || world.disk.image().bytes(&format!("deploys/{id}")).is_some();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _one = flow.one_change();
                flow.store.drop_deploy_file(id);
            });
            scope.spawn(|| {
                flow.store.write_deploy_file(&file).unwrap();
                let _one = flow.one_change();
                assert_eq!(flow.store.has_deploy_file(id), on_disk());
                assert_eq!(flow.store.deploy_file(id).is_ok(), on_disk());
            });
        });
    });
    println!("interleavings of a seal and a removal: {orders} tried, 0 violations");
}

/// A deploy that was removed meanwhile counted as damaged, as did a pack that a seal was finishing or had taken back.
#[test]
fn p5_fsck_raises_no_alarm_about_what_seals_and_removals_do_beside_it() {
    let (orders, sources) = (orders(), Sources::make());
    run(orders, campaign::seed(), move || {
        let world = World::new(&sources, false);
        let flow = &world.open_with(Arc::new(Mount::default()));
        let ids = [0, 1, 2].map(|number| seal(flow, &sources.good[number]).unwrap());
        ask(flow, &Request::Activate(activate(ids[0]))).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert_sound(flow));
            scope.spawn(|| remove(flow, ids[1]));
            scope.spawn(|| {
                ask(flow, &deploy(&sources.bad[0], None)).unwrap_err();
                seal(flow, &sources.good[3]).unwrap();
                seal(flow, &sources.good[1])
            });
        });
    });
    println!("interleavings of fsck and changes: {orders} tried, 0 violations");
}

/// Whoever looked through the packs stopped at one that was gone: a gc said that a deploy was damaged, a reader got an error.
#[test]
fn p8_a_pack_that_a_refused_seal_takes_back_holds_up_neither_a_reader_nor_a_gc() {
    let (orders, sources) = (orders(), Sources::make());
    run(orders, campaign::seed(), move || {
        let world = World::new(&sources, false);
        let flow = &world.open_with(Arc::new(Mount::default()));
        let id = seal(flow, &sources.good[0]).unwrap();
        let file = flow.store.deploy_file(id).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for bad in &sources.bad {
                    ask(flow, &deploy(bad, None)).unwrap_err();
                }
            });
            scope.spawn(|| read_all(flow, &file.root).unwrap());
            scope.spawn(|| ask(flow, &Request::Gc { dry_run: false }).unwrap());
        });
        assert!(flow.store.suspects().is_empty());
    });
    println!("interleavings of refused seals: {orders} tried, 0 violations");
}
