//! Clients that have connected and not sent their request yet: a bounded number of them.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients without a request so far and their users, the one that waits longest first.
pub struct Lobby {
    max: usize,
    clients: Mutex<VecDeque<(u32, Arc<UnixStream>)>>,
}

impl Lobby {
    /// Room for `max` clients.
    pub fn new(max: usize) -> Self {
        Lobby {
            max,
            clients: Mutex::default(),
        }
    }

    /// Takes a client of this user in. Returns the client that has to leave for it: of the user with the most clients here, the
    /// one that waits longest.
    pub fn enter(&self, user: u32, client: &Arc<UnixStream>) -> Option<Arc<UnixStream>> {
        let mut clients = self.clients();
        clients.push_back((user, client.clone()));
        if clients.len() <= self.max {
            return None;
        }
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for (user, _) in clients.iter() {
            *counts.entry(*user).or_default() += 1;
        }
        let (greediest, _) = counts.into_iter().max_by_key(|&(_, count)| count)?;
        let at = clients.iter().position(|(user, _)| *user == greediest)?;
        clients.remove(at).map(|(_, client)| client)
    }

    /// Removes a client whose request has come, or that has gone; false if it had to leave before.
    pub fn leave(&self, client: &Arc<UnixStream>) -> bool {
        let mut clients = self.clients();
        let at = clients.iter().position(|(_, one)| Arc::ptr_eq(one, client));
        at.and_then(|at| clients.remove(at)).is_some()
    }

    fn clients(&self) -> MutexGuard<'_, VecDeque<(u32, Arc<UnixStream>)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Arc<UnixStream> {
        Arc::new(UnixStream::pair().unwrap().0)
    }

    #[test]
    fn the_one_that_waits_longest_goes_first_and_cannot_leave_again() {
        let (lobby, all) = (Lobby::new(2), [client(), client(), client()]);
        assert!(lobby.enter(1, &all[0]).is_none() && lobby.enter(1, &all[1]).is_none());
        let gone = lobby.enter(1, &all[2]).unwrap();
        assert!(Arc::ptr_eq(&gone, &all[0]));
        assert!(!lobby.leave(&all[0]));
        assert!(lobby.leave(&all[2]) && lobby.leave(&all[1]));
        assert!(!lobby.leave(&all[1]));
    }

    #[test]
    fn a_user_with_many_silent_clients_sends_none_of_another_user_away() {
        let (lobby, first) = (Lobby::new(8), client());
        assert!(lobby.enter(1, &first).is_none());
        let many: Vec<_> = (0..100).map(|_| client()).collect();
        for one in &many {
            let gone = lobby.enter(2, one);
            assert!(gone.is_none_or(|gone| !Arc::ptr_eq(&gone, &first)));
        }
        assert!(lobby.leave(&first));
    }
}
