//! Taking back what was begun, also where a thread has panicked.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `work`; where it fails or panics, `undo` runs before that is passed on.
pub fn or_undo<T, E>(work: impl FnOnce() -> Result<T, E>, undo: impl FnOnce()) -> Result<T, E> {
    let done = catch_unwind(AssertUnwindSafe(work));
    if !matches!(done, Ok(Ok(_))) {
        undo();
    }
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_panic_is_undone_as_a_failure_is_and_goes_on() {
        let undone = Cell::new(0);
        let undo = || undone.set(undone.get() + 1);
        assert_eq!(or_undo(|| Ok::<_, ()>(7), undo), Ok(7));
        assert_eq!(undone.get(), 0);
        assert_eq!(or_undo(|| Err::<u8, _>("no"), undo), Err("no"));
        assert_eq!(undone.get(), 1);
        let work = || -> Result<(), ()> { panic!("as a reading thread may") };
        let panicked = catch_unwind(AssertUnwindSafe(|| or_undo(work, undo)));
        assert!(panicked.is_err());
        assert_eq!(undone.get(), 2);
    }
}
