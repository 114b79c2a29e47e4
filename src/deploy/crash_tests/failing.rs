//! A disk on which one step fails, or all of its kind from then on: no false acknowledgement, no second try of a failed sync,
//! and what is safe can be read on.

use super::bench::{Bench, Op};
use super::campaign;
use super::model::Model;
use super::sources::{Root, Sources};
use crate::campaign::Random;
use crate::store::sim_disk::{CLASSES, Class, Failing, Fault, Image};

/// Things done in one script.
const OPS: usize = 8;
/// Disks on which each script is run.
const DISKS: u64 = 12;

#[test]
fn p4_a_disk_that_fails_at_any_step_leads_to_no_false_acknowledgement() {
    campaign("failing disks", "DEPLOYFS_TEST_FAULTS", 150, script);
}

fn script(sources: &Sources, seed: u64) -> (u64, Result<(), String>) {
    let mut random = Random::new(seed);
    let ops: Vec<Op> = (0..OPS).map(|_| Op::any(&mut random)).collect();
    let root = Root::new();
    let steps = match on_a_whole_disk(sources, &root, &ops, random.fork()) {
        Ok(steps) => steps,
        Err(what) => return (1, Err(format!("on a whole disk: {what}"))),
    };
    for number in 0..DISKS {
        let fault = pick(&steps, &mut random);
        let outcome = on_a_failing_disk(sources, &root, &ops, fault, &mut random.fork());
        if let Err(what) = outcome {
            return (number + 1, Err(format!("{fault:?}: {what}")));
        }
    }
    (DISKS, Ok(()))
}

fn pick(steps: &[u64; 4], random: &mut Random) -> Fault {
    let class = *random.pick(&CLASSES);
    let how = match class {
        Class::Write => random.pick(&[Failing::Io, Failing::Full, Failing::Full, Failing::Short]),
        Class::Sync | Class::Name => random.pick(&[Failing::Io, Failing::Full]),
        Class::Read => &Failing::Io,
    };
    Fault {
        class,
        at: random.below(steps[class as usize]),
        how: *how,
        lasting: random.once_in(2),
    }
}

fn made<'a>(sources: &'a Sources, root: &'a Root, random: Random) -> Result<Bench<'a>, String> {
    root.stage(None, &Default::default());
    let mut bench = Bench::new(sources, root, Image::default(), Model::default(), random);
    bench.init()?;
    bench.open()?;
    bench.disk.fail(None);
    Ok(bench)
}

/// How many steps of each kind the script takes.
fn on_a_whole_disk(
    sources: &Sources,
    root: &Root,
    ops: &[Op],
    random: Random,
) -> Result<[u64; 4], String> {
    let mut bench = made(sources, root, random)?;
    for &op in ops {
        bench.run(op).map_err(|what| format!("{op:?}: {what}"))?;
    }
    let steps = bench.disk.done();
    bench.check()?;
    bench.read()?;
    Ok(steps)
}

fn on_a_failing_disk(
    sources: &Sources,
    root: &Root,
    ops: &[Op],
    fault: Fault,
    random: &mut Random,
) -> Result<(), String> {
    let mut bench = made(sources, root, random.fork())?;
    bench.disk.fail(Some(fault));
    bench.model().renews = fault.class == Class::Read;
    for (number, &op) in ops.iter().enumerate() {
        let told = |what| format!("{number}: {op:?}: {what}");
        bench.run(op).map_err(told)?;
        look(&mut bench, fault).map_err(told)?;
    }
    bench.disk.fail(None);
    in_order_again(&mut bench)?;
    let mut after = Bench::at(sources, root, &bench.point(), random);
    drop(bench);
    after
        .recover()
        .map_err(|what| format!("opened again: {what}"))?;
    after.read()?;
    for op in [
        Op::Deploy(random.number() >> 8),
        Op::Activate(random.number() >> 8),
        Op::Gc,
        Op::Reopen,
    ] {
        after
            .run(op)
            .map_err(|what| format!("afterwards {op:?}: {what}"))?;
    }
    after.check().map_err(|what| format!("afterwards: {what}"))
}

/// What must hold while the disk fails.
fn look(bench: &mut Bench<'_>, fault: Fault) -> Result<(), String> {
    if let Some(path) = bench.disk.retried() {
        return Err(format!("the sync of '{path}' failed and was tried again"));
    }
    if bench.disk.faults() == 0 || bench.flow.is_none() {
        return Ok(());
    }
    if fault.class != Class::Read || !fault.lasting {
        bench.read()?;
    }
    if fault.how == Failing::Full && fault.class == Class::Write {
        for op in [Op::Activate(0), Op::Rollback, Op::Activate(1)] {
            let before = bench.model().log.len();
            let possible = match op {
                Op::Rollback => bench.flow.as_ref().is_some_and(can_roll_back),
                _ => !bench.model().deploys.is_empty(),
            };
            bench.run(op)?;
            if possible && bench.model().log.len() == before {
                return Err(format!("{op:?} does not work on a full disk"));
            }
        }
    }
    Ok(())
}

fn can_roll_back(flow: &super::super::Deployfs) -> bool {
    flow.store.with_ledger(|ledger| ledger.previous().is_some())
}

/// The disk works again: all is as acknowledged, and a seal works unless the history has stopped.
fn in_order_again(bench: &mut Bench<'_>) -> Result<(), String> {
    if bench.flow.is_none() {
        return Ok(());
    }
    bench
        .read()
        .map_err(|what| format!("the disk works again: {what}"))?;
    let writable = |flow: &super::super::Deployfs| flow.store.check_writable().is_ok();
    if !bench.flow.as_ref().is_some_and(writable) {
        return Ok(());
    }
    bench
        .check()
        .map_err(|what| format!("the disk works again: {what}"))?;
    let before = bench.model().log.len();
    bench.run(Op::Deploy(7))?;
    if bench.model().log.len() == before {
        return Err("the disk works again, but a seal does not".into());
    }
    bench.check()
}
