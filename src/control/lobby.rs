//! Where clients are until their request has come: a bounded number of them.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients that have sent no request yet, the one that waits longest first.
pub struct Lobby {
    most: usize,
    clients: Mutex<VecDeque<Arc<UnixStream>>>,
}

impl Lobby {
    /// For so many clients.
    pub fn new(most: usize) -> Self {
        Lobby {
            most,
            clients: Mutex::default(),
        }
    }

    /// Lets a client in; the one that has to go for it.
    pub fn enter(&self, client: &Arc<UnixStream>) -> Option<Arc<UnixStream>> {
        let mut clients = self.clients();
        clients.push_back(client.clone());
        (clients.len() > self.most)
            .then(|| clients.pop_front())
            .flatten()
    }

    /// The client's request has come, or it has gone; false: it has had to go.
    pub fn leave(&self, client: &Arc<UnixStream>) -> bool {
        let mut clients = self.clients();
        let at = clients.iter().position(|one| Arc::ptr_eq(one, client));
        at.and_then(|at| clients.remove(at)).is_some()
    }

    fn clients(&self) -> MutexGuard<'_, VecDeque<Arc<UnixStream>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waits_longest_goes_first_and_cannot_leave_again() {
        let client = || Arc::new(UnixStream::pair().unwrap().0);
        let (lobby, all) = (Lobby::new(2), [client(), client(), client()]);
        assert!(lobby.enter(&all[0]).is_none() && lobby.enter(&all[1]).is_none());
        let gone = lobby.enter(&all[2]).unwrap();
        assert!(Arc::ptr_eq(&gone, &all[0]));
        assert!(!lobby.leave(&all[0]));
        assert!(lobby.leave(&all[2]) && lobby.leave(&all[1]));
        assert!(!lobby.leave(&all[1]));
    }
}
