//! Slots for requests: each user has some of each kind, so that nobody's requests hold up those of another user, and work that
//! takes long holds up neither a rollback nor a status, not even its own user's.
//!
//! A request without a free slot waits in its user's line, as long as its client stays.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::report::Request;

/// Requests of one user that are worked on or wait for a slot, at most. Each holds a thread and up to two descriptors.
pub const PER_USER_MAX: usize = 128;
/// How often a waiting request looks whether its client has gone.
const GONE_CHECK: Duration = Duration::from_millis(200);

/// How long a request may take, and what it may hold up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Reads what is in memory: `status`, `list`, `log`.
    Query,
    /// Appends one record: `activate`, `rollback`, `channel set`.
    Change,
    /// Reads or writes a whole deploy, or all of them: `deploy`, `verify`, `gc`.
    Work,
}

impl Kind {
    /// The kind of a request; `None` for a shutdown, which waits for nobody.
    pub fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Status
            | Request::List
            | Request::Log { .. }
            | Request::Channels
            | Request::Show { .. }
            | Request::Diff { .. } => Some(Kind::Query),
            Request::Activate(_)
            | Request::Rollback(_)
            | Request::SetChannel { .. }
            | Request::CloseChannel { .. }
            | Request::Lock { .. }
            | Request::Unlock { .. }
            | Request::Pin { .. }
            | Request::Unpin { .. }
            | Request::Remove { .. }
            | Request::Create { .. } => Some(Kind::Change),
            Request::Seal { .. }
            | Request::Abort { .. }
            | Request::Deploy(_)
            | Request::Import(_)
            | Request::Export { .. }
            | Request::Verify { .. }
            | Request::Fsck { .. }
            | Request::Scrub { .. }
            | Request::Usage { .. }
            | Request::Prune(_)
            | Request::Gc { .. } => Some(Kind::Work),
            Request::Shutdown => None,
        }
    }

    /// Requests of this kind that are worked on at once for one user.
    pub fn slots(self) -> usize {
        match self {
            Kind::Query => 16,
            Kind::Change | Kind::Work => 8,
        }
    }
}

/// Why a request gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// Its user has [`PER_USER_MAX`] requests already.
    Full,
    /// Its client has gone.
    Gone,
}

/// The slots of all users.
#[derive(Default)]
pub struct Slots {
    users: Mutex<HashMap<u32, User>>,
    freed: Condvar,
}

/// The requests of one user.
#[derive(Default)]
struct User {
    next_ticket: u64,
    lines: HashMap<Kind, Line>,
}

#[derive(Default)]
struct Line {
    running: usize,
    /// Tickets of those that wait, the first in line first.
    waiting: VecDeque<u64>,
}

impl User {
    fn in_hand(&self) -> usize {
        let lines = self.lines.values();
        lines.map(|line| line.running + line.waiting.len()).sum()
    }
}

/// A slot, free again once this is dropped.
pub struct Slot<'a> {
    slots: &'a Slots,
    user: u32,
    kind: Kind,
}

impl Slots {
    /// Waits for a slot of this user's.
    ///
    /// # Errors
    /// The user has too many requests in hand, or `is_gone` has become true: the request must not be carried out.
    pub fn enter(
        &self,
        user: u32,
        kind: Kind,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Slot<'_>, NoSlot> {
        let mut users = self.users();
        let requests = users.entry(user).or_default();
        if requests.in_hand() >= PER_USER_MAX {
            return Err(NoSlot::Full);
        }
        let ticket = requests.next_ticket;
        requests.next_ticket += 1;
        let line = requests.lines.entry(kind).or_default();
        line.waiting.push_back(ticket);
        loop {
            let line = users
                .entry(user)
                .or_default()
                .lines
                .entry(kind)
                .or_default();
            if is_gone() {
                line.waiting.retain(|&other| other != ticket);
                self.forget_idle(&mut users, user);
                self.freed.notify_all();
                return Err(NoSlot::Gone);
            }
            if line.running < kind.slots() && line.waiting.front() == Some(&ticket) {
                line.waiting.pop_front();
                line.running += 1;
                self.freed.notify_all();
                return Ok(Slot {
                    slots: self,
                    user,
                    kind,
                });
            }
            let waited = self.freed.wait_timeout(users, GONE_CHECK);
            users = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn leave(&self, user: u32, kind: Kind) {
        let mut users = self.users();
        if let Some(line) = users
            .get_mut(&user)
            .and_then(|user| user.lines.get_mut(&kind))
        {
            line.running -= 1;
        }
        self.forget_idle(&mut users, user);
        self.freed.notify_all();
    }

    fn forget_idle(&self, users: &mut HashMap<u32, User>, user: u32) {
        if users.get(&user).is_some_and(|user| user.in_hand() == 0) {
            users.remove(&user);
        }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.slots.leave(self.user, self.kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const STAYS: &dyn Fn() -> bool = &|| false;
    const GONE: &dyn Fn() -> bool = &|| true;

    fn fill(slots: &Slots, user: u32, kind: Kind) -> Vec<Slot<'_>> {
        let enter = |_| slots.enter(user, kind, STAYS).ok().unwrap();
        (0..kind.slots()).map(enter).collect()
    }

    #[test]
    fn a_user_with_all_slots_taken_holds_up_only_requests_of_that_user_and_kind() {
        let slots = Slots::default();
        let taken = fill(&slots, 7, Kind::Work);
        assert!(slots.enter(7, Kind::Change, STAYS).is_ok());
        assert!(slots.enter(8, Kind::Work, STAYS).is_ok());
        let freed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let slot = slots.enter(7, Kind::Work, STAYS);
                assert!(slot.is_ok() && freed.load(Ordering::SeqCst));
            });
            std::thread::sleep(GONE_CHECK * 2);
            freed.store(true, Ordering::SeqCst);
            drop(taken);
            waits.join().unwrap();
        });
        assert!(slots.users().is_empty());
    }

    #[test]
    fn a_request_whose_client_goes_leaves_the_line_and_gets_no_slot_even_if_one_is_free() {
        let slots = Slots::default();
        assert_eq!(slots.enter(7, Kind::Work, GONE).err(), Some(NoSlot::Gone));
        let taken = fill(&slots, 7, Kind::Work);
        assert_eq!(slots.enter(7, Kind::Work, GONE).err(), Some(NoSlot::Gone));
        drop(taken);
        assert!(slots.users().is_empty());
    }

    #[test]
    fn a_user_cannot_have_any_number_of_requests_wait() {
        let slots = Slots::default();
        let taken = fill(&slots, 7, Kind::Work);
        let over = AtomicBool::new(false);
        let is_over = || over.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in taken.len()..PER_USER_MAX {
                scope.spawn(|| slots.enter(7, Kind::Work, &is_over).err());
            }
            while slots.users().get(&7).unwrap().in_hand() < PER_USER_MAX {
                std::thread::yield_now();
            }
            for kind in [Kind::Work, Kind::Query] {
                assert_eq!(slots.enter(7, kind, STAYS).err(), Some(NoSlot::Full));
            }
            assert!(slots.enter(8, Kind::Work, STAYS).is_ok());
            over.store(true, Ordering::SeqCst);
        });
        drop(taken);
        assert!(slots.users().is_empty());
    }
}
