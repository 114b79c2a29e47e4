//! Answering clients: a thread each, peers checked by what the kernel says of them, slots by user (slots.rs).

use std::fs;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::descriptor::WithDescriptor;
use super::lobby::Lobby;
use super::protocol::{ClientLine, REQUEST_MAX, ServerLine, VERSION, receive, send};
use super::slots::{Kind, NoSlot, PER_USER_MAX, Slots};
use super::spare::{self, Spare};
use crate::model::report::{Answer, Caller, Failure, FailureKind, Progress, Request};
use crate::users::name_of;

/// Clients that have not sent their request yet; with one more the oldest of the user with the most is sent away, so that clients
/// who say nothing hold up no other.
const WAITING_MAX: usize = 64;
/// How long a client may be silent before it has sent its request, and how long it may take for a line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before accepting is tried again, where it failed.
const LOOK: Duration = Duration::from_millis(100);

/// Carries out a request; with it may come a stream.
pub type Handler = dyn Fn(
        &Request,
        Option<OwnedFd>,
        &Caller,
        &(dyn Fn(Progress) + Sync),
        &AtomicBool,
    ) -> Result<Answer, Failure>
    + Send
    + Sync;

/// A listening control socket; removed when dropped.
pub struct Server {
    path: PathBuf,
}

struct Shared {
    handler: Box<Handler>,
    group: Option<u32>,
    waiting: Lobby,
    slots: Slots,
}

impl Server {
    /// Listens at `path`, in place of a socket left behind; the caller holds the store's lock, so nobody else listens there.
    /// Allowed are root, this process's user, and the members of `group`; the latter may not end the daemon.
    pub fn start(path: PathBuf, group: Option<u32>, handler: Box<Handler>) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&path)?;
        // Without a control group the group that the socket happens to have is nobody's invitation.
        let mode = match group {
            Some(group) => {
                chown(&path, None, Some(group))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let shared = Arc::new(Shared {
            handler,
            group,
            waiting: Lobby::new(WAITING_MAX),
            slots: Slots::default(),
        });
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &shared))?;
        Ok(Server { path })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("'{}' cannot be removed: {error}", self.path.display());
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut spare = Spare::new();
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => {
                spare.keep();
                Some(stream)
            }
            Err(error) if spare::is_needed(&error) => spare.accept(listener, &refuse),
            Err(error) => {
                log::warn!("control socket: {error}");
                None
            }
        };
        let Some(stream) = stream else {
            std::thread::sleep(LOOK);
            continue;
        };
        let user = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(peer) => peer.uid.as_raw(),
            Err(errno) => {
                log::warn!("control socket: a client cannot be identified: {errno}");
                continue;
            }
        };
        let stream = Arc::new(stream);
        if let Some(oldest) = shared.waiting.enter(user, &stream) {
            send_away(&oldest);
        }
        let (one, served) = (shared.clone(), stream.clone());
        let thread = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || {
                if let Err(error) = serve(&served, &one) {
                    log::debug!("control socket: {error}");
                }
                one.waiting.leave(&served);
            });
        if let Err(error) = thread {
            log::error!("control socket: no thread for a client: {error}");
            shared.waiting.leave(&stream);
            let why = format!("the daemon cannot start a thread for the request: {error}");
            // A client that has gone away needs no answer.
            send(&*stream, &ServerLine::Failure(failed(why))).ok();
        }
    }
}

/// Where there is no descriptor for it.
fn refuse(stream: &UnixStream) {
    let failure = failed(
        "the daemon has no file descriptor left: raise its limit (LimitNOFILE of its service, or prlimit)".into(),
    );
    log::error!("control socket: a client is refused: {failure}");
    // A client that has gone away needs no answer.
    send(stream, &ServerLine::Failure(failure)).ok();
}

fn send_away(stream: &UnixStream) {
    let why = format!("no request came, and more than {WAITING_MAX} other clients wait: try again");
    // Nothing has been sent to it yet, so there is room for this. It may be gone.
    send(stream, &ServerLine::Failure(failed(why))).ok();
    // Ends the thread that waits for its request.
    stream.shutdown(Shutdown::Both).ok();
}

fn serve(stream: &Arc<UnixStream>, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let caller = peer(stream)?;
    let admitted = admit(stream, &caller, shared);
    if !shared.waiting.leave(stream) {
        // It was sent away.
        return Ok(());
    }
    let last = match admitted {
        Ok((request, file)) => work_in_slot(stream, &request, file, &caller, shared),
        Err(failure) => ServerLine::Failure(failure),
    };
    send(&**stream, &last)
}

/// Waits for one of the caller's slots, then carries the request out. Nothing is carried out for a client that has gone by then: it
/// may have been answered by now that nothing has changed, and its user may have done something else.
fn work_in_slot(
    stream: &UnixStream,
    request: &Request,
    file: Option<OwnedFd>,
    caller: &Caller,
    shared: &Shared,
) -> ServerLine {
    let is_gone = || has_hung_up(stream);
    let refused = |reason| match reason {
        NoSlot::Full => format!(
            "{} has {PER_USER_MAX} requests in hand, and no more are taken: wait for one of them to end",
            caller.name
        ),
        NoSlot::Gone => "interrupted: nothing was changed".into(),
    };
    let slot = match Kind::of(request) {
        Some(kind) => shared.slots.enter(caller.uid, kind, &is_gone).map(Some),
        None if is_gone() => Err(NoSlot::Gone),
        None => Ok(None),
    };
    match slot {
        Ok(_slot) => work(stream, request, file, caller, shared),
        Err(reason) => ServerLine::Failure(failed(refused(reason))),
    }
}

fn has_hung_up(stream: &UnixStream) -> bool {
    let at_once = Timespec::default();
    let polled = poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], Some(&at_once));
    polled.is_ok_and(|ready| ready > 0)
}

fn admit(
    stream: &UnixStream,
    caller: &Caller,
    shared: &Shared,
) -> Result<(Request, Option<OwnedFd>), Failure> {
    let own = rustix::process::geteuid().as_raw();
    let member = |group: u32| caller.gid == group || caller.groups.contains(&group);
    if caller.uid != 0 && caller.uid != own && !shared.group.is_some_and(member) {
        return Err(failed(format!(
            "user {} may not control this store: be root, the daemon's user, or in its --control-group",
            caller.name
        )));
    }
    let mut reader = BufReader::new(WithDescriptor::new(stream));
    match receive::<ClientLine>(&mut reader, REQUEST_MAX) {
        Ok(Some(line)) if line.v == VERSION => {
            check_rights(&line.request, caller)?;
            Ok((line.request, reader.into_inner().descriptor))
        }
        Ok(Some(line)) => Err(failed(format!(
            "the daemon speaks version {VERSION} of the control protocol, not {}: use the same deployfs for both",
            line.v
        ))),
        Ok(None) => Err(failed("no request came".into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(failed(format!(
            "no whole request came: nothing more was sent for {} seconds (a request is one line of at most {REQUEST_MAX} bytes)",
            PATIENCE.as_secs()
        ))),
        Err(error) => Err(failed(format!("the request cannot be understood: {error}"))),
    }
}

/// Members of the control group make what is served; whether anything is served is for root and the daemon's user.
fn check_rights(request: &Request, caller: &Caller) -> Result<(), Failure> {
    let own = rustix::process::geteuid().as_raw();
    match request {
        Request::Shutdown if caller.uid != 0 && caller.uid != own => Err(failed(format!(
            "{} may not unmount this, only root and the daemon's user {} may: sudo deployfs umount MOUNTPOINT",
            caller.name,
            name_of(own)
        ))),
        _ => Ok(()),
    }
}

fn work(
    stream: &UnixStream,
    request: &Request,
    file: Option<OwnedFd>,
    caller: &Caller,
    shared: &Shared,
) -> ServerLine {
    let cancel = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let progress = |state| {
        if send(stream, &ServerLine::Progress(state)).is_err() {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let result = std::thread::scope(|scope| {
        scope.spawn(|| watch_hang_up(stream, &done, &cancel));
        let handle = || (shared.handler)(request, file, caller, &progress, &cancel);
        let result = catch_unwind(AssertUnwindSafe(handle));
        done.store(true, Ordering::Release);
        // Wakes the watching thread at once; the answer does not wait for it. The request has been read to its end.
        stream.shutdown(Shutdown::Read).ok();
        result
    });
    match result {
        Ok(Ok(answer)) => ServerLine::Answer(Box::new(answer)),
        Ok(Err(failure)) => ServerLine::Failure(failure),
        Err(_) => ServerLine::Failure(Failure {
            kind: FailureKind::Unknown,
            message: "the daemon hit a bug while it worked on this (its log says where): 'deployfs log' shows whether the change was recorded".into(),
        }),
    }
}

/// A client that closes its connection has been interrupted. Our own end of reading, when the work is done, looks the same.
fn watch_hang_up(stream: &UnixStream, done: &AtomicBool, cancel: &AtomicBool) {
    let hung_up = loop {
        match poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], None) {
            Err(Errno::INTR) => {}
            answer => break answer.is_ok(),
        }
    };
    if hung_up && !done.load(Ordering::Acquire) {
        cancel.store(true, Ordering::Relaxed);
    }
}

/// Who is at the other end, as the kernel vouches for it.
fn peer(stream: &UnixStream) -> io::Result<Caller> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)?;
    let (uid, gid) = (credentials.uid.as_raw(), credentials.gid.as_raw());
    Ok(Caller {
        name: name_of(uid),
        uid,
        gid,
        groups: peer_groups(stream)?,
    })
}

fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // As many as Linux allows a process (NGROUPS_MAX).
    let mut groups = vec![0u32; 65_536];
    let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the pointer and `len` describe the vector, which outlives the call.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(len as usize / size_of::<u32>());
    Ok(groups)
}

fn failed(message: String) -> Failure {
    Failure {
        kind: FailureKind::Failed,
        message,
    }
}
