//! Carrying out a request: by the daemon where one answers, else here, under the store's lock, with the same code.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::progress::{Bar, Wait};
use super::{Error, store_path};
use crate::control::client::Client;
use crate::control::protocol::socket_path;
use crate::daemon::end_killed;
use crate::deploy::Deployfs;
use crate::model::limits;
use crate::model::report::{Answer, Failure, FailureKind, Progress, Request};
use crate::users::{group_name, this_process};

/// How long a store may be locked while no daemon answers: one may be starting, or another command may be running.
const LOCKED_WAIT: Duration = Duration::from_secs(10);
const LOCKED_LOOK: Duration = Duration::from_millis(50);

/// Carries out `request` on the store that the command line means.
pub fn call(store: Option<&Path>, request: &Request) -> Result<Answer, Error> {
    call_more(store, request, &|_| {}, &More::default())
}

/// The same, with a bar that shows how far it has come.
pub fn call_shown(store: Option<&Path>, request: &Request, bar: Bar) -> Result<Answer, Error> {
    let answer = call_more(store, request, &|state| bar.show(state), &More::default());
    bar.end();
    answer
}

/// What some requests need besides.
#[derive(Default)]
pub struct More<'a> {
    /// Ends the work early once it is set, for a caller that has something to clean up after itself. Without it a signal ends
    /// this process while a daemon works, which stops that too.
    pub cancel: Option<&'a Arc<AtomicBool>>,
    /// The pipe that an export is written to, the file that an import is read from.
    pub stream: Option<BorrowedFd<'a>>,
}

/// The same, telling progress now and then, and with more.
pub fn call_more(
    store: Option<&Path>,
    request: &Request,
    progress: &(dyn Fn(Progress) + Sync),
    more: &More<'_>,
) -> Result<Answer, Error> {
    // Before it is sent: a daemon refuses a longer line without reading it.
    limits::check(request).map_err(|error| Error::failed(error.to_string()))?;
    let store = store_path::find(store)?;
    let started = Instant::now();
    let mut wait = Wait::new("waiting for whoever has the store");
    loop {
        end_killed(&store)?;
        let client = Client::connect(&store);
        if let Some(client) = client.map_err(|refusal| not_a_member(&store, refusal))? {
            let ask = || client.call_with(request, more.stream, progress);
            return Ok(match more.cancel {
                Some(cancel) => ask_until(&client, cancel, ask)?,
                None => ask()?,
            });
        }
        if let Some(refusal) = without_daemon(&store) {
            return Err(refusal);
        }
        // Opening a store reads its whole history.
        if let Request::Log(wanted) = request
            && let Some(entries) = Deployfs::log_of(&store, wanted)?
        {
            return Ok(Answer::Log(entries));
        }
        let flow = if request.reads_only() {
            // Reading needs no lock: a command that only looks works beside another, and on a read-only disk.
            Deployfs::open_read_only(&store).map(Some)
        } else if started.elapsed() < LOCKED_WAIT {
            Deployfs::open_if_free(&store)
        } else {
            Deployfs::open(&store).map(Some)
        };
        // Whether somebody has it is known from the try itself: asked afterwards, that one may have gone.
        match flow? {
            Some(flow) => {
                let cancel = more.cancel.cloned().map_or_else(cancel_on_interrupt, Ok)?;
                let stream = more.stream.map(|stream| stream.try_clone_to_owned());
                let stream = stream.transpose().map_err(|error| {
                    Error::failed(format!("a file cannot be opened twice: {error}"))
                })?;
                return Ok(flow.run_with(request, stream, &this_process(), progress, &cancel)?);
            }
            None => {
                wait.tick();
                std::thread::sleep(LOCKED_LOOK);
            }
        }
    }
}

/// What a user can do whom the daemon's socket refuses.
fn not_a_member(store: &Path, refusal: Failure) -> Error {
    let socket = socket_path(store).metadata();
    let group = socket.ok().filter(|socket| socket.mode() & 0o060 == 0o060);
    match group.and_then(|socket| group_name(socket.gid())) {
        Some(group) => {
            let user = this_process().name;
            Error::failed(format!(
                "{user} may not deploy to '{}': sudo adduser {user} {group}, then log in again",
                store.display()
            ))
        }
        None => refusal.into(),
    }
}

/// No daemon answers, and this user may not open the store without one.
fn without_daemon(store: &Path) -> Option<Error> {
    let format = std::fs::File::open(store.join("format"));
    let is_closed = format.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    is_closed.then(|| {
        Error::failed(format!(
            "no daemon is running for '{0}', and only root and its owner may use it without: start it ('systemctl start deployfs@NAME', \
             or 'deployfs mount {0} MOUNTPOINT')",
            store.display()
        ))
    })
}

fn ask_until(
    client: &Client,
    cancel: &AtomicBool,
    ask: impl FnOnce() -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Acquire) && !cancel.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOCKED_LOOK);
            }
            if !done.load(Ordering::Acquire) {
                client.hang_up();
            }
        });
        let answer = ask();
        done.store(true, Ordering::Release);
        watch.thread().unpark();
        answer
    })
}

/// Ctrl-C, SIGTERM and a lost connection ask for an orderly end; a second signal ends at once.
pub fn cancel_on_interrupt() -> Result<Arc<AtomicBool>, Error> {
    let cancel = Arc::new(AtomicBool::new(false));
    let lost = (!ignores_hang_ups()).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(lost) {
        signal_hook::flag::register_conditional_shutdown(signal, 130, cancel.clone())
            .and_then(|_| signal_hook::flag::register(signal, cancel.clone()))
            .map_err(|error| Error::failed(format!("cannot listen for Ctrl-C: {error}")))?;
    }
    Ok(cancel)
}

/// True under nohup(1), which is to go on when its terminal has gone.
fn ignores_hang_ups() -> bool {
    // SAFETY: an all-zero sigaction is a valid one to be written over.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and what is read goes to a live struct.
    let answer = unsafe { libc::sigaction(SIGHUP, std::ptr::null(), &mut now) };
    answer == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// The answer has another shape than the request asks for.
pub fn unexpected(answer: &Answer) -> Error {
    Error::Failure(Failure {
        kind: FailureKind::Unknown,
        message: format!(
            "the daemon answered something else: {answer:?}; use the same deployfs for both; 'deployfs log' shows what was recorded"
        ),
    })
}
