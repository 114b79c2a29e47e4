//! Seals, removals, a gc and readers at once, in any order of their steps: shuttle chooses which thread goes on at each lock, each
//! atomic and each step of the disk.

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::*;
use crate::sync::thread;

/// How many changes of thread at chosen steps it takes to bring out what is looked for (the depth of PCT).
const DEPTH: usize = 4;
/// Its threads' stacks: sealing needs more than shuttle's default.
const STACK: usize = 4 << 20;

/// None: the same deploy was removed meanwhile, which is refused.
fn seal(flow: &Deployfs, source: &Source) -> Option<DeployId> {
    match ask(flow, &deploy(source, None)) {
        Ok(Answer::Sealed(report)) => Some(report.deploy_id),
        Err(failure) if failure.message.contains("was removed while") => None,
        other => panic!("{other:?}"),
    }
}

/// By `fsck`, whatever goes on beside it.
fn assert_sound(flow: &Deployfs) {
    match ask(flow, &Request::Fsck { read_data: true }).unwrap() {
        Answer::Check(report) => assert_eq!(report.problems, Vec::<String>::new()),
        other => panic!("{other:?}"),
    }
}

fn check_all(flow: &Deployfs, opened: &Opened) {
    assert_whole(flow);
    opened.check(flow);
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
    let mut world = World::new(sources, has_index);
    let flow = &world.open();
    let opened = &*world.opened;
    let mut there: Vec<DeployId> = first
        .iter()
        .filter_map(|source| seal(flow, source))
        .collect();
    ask(flow, &Request::Activate(activate(there[0]))).unwrap();
    // So that the gc has packs to rewrite from the first step on.
    for id in there.split_off(3) {
        // Unless it is live, or has been so lately; so below.
        ask(flow, &remove(id)).ok();
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
                ask(flow, &remove(*id)).ok();
            }
        });
        scope.spawn(|| {
            for turn in 0..9 {
                let all = ids(flow);
                let id = &all[turn % all.len()];
                let Ok(file) = flow.store.deploy_file(*id) else {
                    continue;
                };
                let held = Held::Dir(file.root.clone());
                if opened.open(*id, held, Vec::new()) {
                    read_all(flow, &file.root).unwrap();
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
    check_all(flow, opened);
    ask(flow, &Request::Gc { dry_run: false }).unwrap();
    check_all(flow, opened);
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

/// Runs it with a new store each time.
fn in_any_order(
    what: &str,
    orders: usize,
    once: impl Fn(&World<'_>, &Deployfs) + Send + Sync + 'static,
) {
    let sources = Sources::make();
    run(orders, campaign::seed(), move || {
        let mut world = World::new(&sources, false);
        let flow = world.open();
        once(&world, &flow);
    });
    println!("{what}: {orders} tried, 0 violations");
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
    in_any_order("a deploy file", 10 * orders(), |world, flow| {
        let id = seal(flow, &world.sources.good[0]).unwrap();
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
}

/// A deploy that was removed meanwhile counted as damaged, as did a pack that a seal was finishing or had taken back.
#[test]
fn p5_fsck_raises_no_alarm_about_what_seals_and_removals_do_beside_it() {
    in_any_order("fsck beside changes", orders(), |world, flow| {
        let sources = world.sources;
        let ids = [0, 1, 2].map(|number| seal(flow, &sources.good[number]).unwrap());
        ask(flow, &Request::Activate(activate(ids[0]))).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| assert_sound(flow));
            scope.spawn(|| ask(flow, &remove(ids[1])).unwrap());
            scope.spawn(|| {
                ask(flow, &deploy(&sources.bad[0], None)).unwrap_err();
                seal(flow, &sources.good[3]).unwrap();
                seal(flow, &sources.good[1])
            });
        });
    });
}

/// Whoever looked through the packs stopped at one that was gone: a gc said that a deploy was damaged, a reader got an error.
#[test]
fn p8_a_pack_that_a_refused_seal_takes_back_holds_up_neither_a_reader_nor_a_gc() {
    in_any_order("refused seals", orders(), |world, flow| {
        let sources = world.sources;
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
}
