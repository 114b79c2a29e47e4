//! The same work for many things, on all cores.

use std::panic::resume_unwind;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread;

/// The answers for all items, in their order. Where there are not `worth` items for each of two threads, the caller's thread does
/// all of it. Threads have the rights of the one that starts them.
pub fn on_all_cores<T: Sync, R: Send>(
    items: &[T],
    worth: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = cores.min(items.len() / worth);
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else {
                return done;
            };
            done.push((number, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_answer_in_its_place() {
        for count in [0, 1, 9, 10, 5_000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(on_all_cores(&items, 5, |item| item * 2), doubled);
        }
    }
}
