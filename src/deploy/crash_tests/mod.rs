//! Crashes at every step of the disk, and disks that fail at any step (P4): random scripts on a simulated disk.

mod backups;
mod bench;
mod crashes;
mod failing;
mod model;
pub(super) mod sources;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::thread::{CpuSet, sched_setaffinity};

use sources::Sources;

/// No more are looked for once so many promises are broken.
const VIOLATIONS_MAX: usize = 5;

/// Runs scripts, each from a seed of its own, until so many cases have been tried; one case: one script. A script returns how
/// many it tried and what went wrong.
fn campaign(
    name: &str,
    variable: &str,
    quick: u64,
    script: impl Fn(&Sources, u64) -> (u64, Result<(), String>) + Sync,
) {
    let wanted = crate::campaign::count(variable, quick);
    let seed = crate::campaign::seed();
    let sources = Sources::make();
    let (tried, scripts) = (AtomicU64::new(0), AtomicU64::new(0));
    let violations = Mutex::new(Vec::new());
    let work = |cpu: usize| {
        // A seal reads on as many threads as there are processors for it: on one, a script takes the same steps each time.
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
        while tried.load(Ordering::Relaxed) < wanted
            && violations.lock().unwrap().len() < VIOLATIONS_MAX
        {
            let seed = seed.wrapping_add(scripts.fetch_add(1, Ordering::Relaxed));
            let ended = catch_unwind(AssertUnwindSafe(|| script(&sources, seed)));
            let (cases, outcome) =
                ended.unwrap_or_else(|_| (1, Err("something panicked, see above".into())));
            tried.fetch_add(cases, Ordering::Relaxed);
            if let Err(what) = outcome {
                violations.lock().unwrap().push(format!(
                    "{what}\n    repeat with: {variable}=1 DEPLOYFS_TEST_SEED={seed}"
                ));
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        // Twice as many as processors: they wait for their seals' threads now and then.
        for number in 0..(2 * processors).min(wanted as usize) {
            let work = &work;
            scope.spawn(move || work(number % processors));
        }
    });
    let violations = violations.into_inner().unwrap();
    println!(
        "{name}: {} tried in {} scripts, {} violations",
        tried.into_inner(),
        scripts.into_inner(),
        violations.len()
    );
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
