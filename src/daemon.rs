//! The daemon: opens the store, mounts the view, answers the control socket, until it is told to end or is unmounted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::client::Client;
use crate::control::protocol::socket_path;
use crate::control::server::Server;
use crate::deploy::{Deployfs, Holder};
use crate::metrics::{self, Place};
use crate::model::report::{Answer, ChannelInfo, Failure, FailureKind, Request, StatusReport};
use crate::view::lock_holders::lock_holders_on;
use crate::view::{MountOptions, MountedView, abort_mounts_of, mount};

/// How long the answer to a shutdown may take to reach its client.
const FAREWELL: Duration = Duration::from_millis(100);

/// What a daemon is told.
pub struct DaemonOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// Where to mount it, and how.
    pub mount: MountOptions,
    /// Whose members may use the control socket, besides root and the daemon's user.
    pub control_group: Option<u32>,
    /// Where metrics are given, if anywhere.
    pub metrics: Option<Place>,
    /// Whether to read the whole store regularly.
    pub scrub: Option<Scrubbing>,
}

/// Reading the whole store regularly.
pub struct Scrubbing {
    /// From the beginning of one to the beginning of the next.
    pub every: Duration,
    /// Bytes a second.
    pub rate: u64,
}

/// How often it is looked whether a scrub is due, or the daemon ends.
const SCRUB_LOOK: Duration = Duration::from_millis(500);

/// The thread that scrubs; ended when dropped.
struct Scrubber {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    fn start(flow: Arc<Deployfs>, scrubbing: Scrubbing) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let run = move || {
            while !seen.load(Ordering::Relaxed) {
                if is_due(&flow, scrubbing.every) {
                    let request = Request::Scrub {
                        rate: Some(scrubbing.rate),
                    };
                    let caller = crate::users::this_process();
                    if let Err(failure) = flow.run(&request, &caller, &|_| {}, &seen) {
                        log::warn!("scrub: {failure}");
                    }
                }
                std::thread::sleep(SCRUB_LOOK);
            }
        };
        Scrubber {
            over,
            thread: Some(std::thread::spawn(run)),
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has logged why, if it panicked.
            thread.join().ok();
        }
    }
}

fn is_due(flow: &Deployfs, every: Duration) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let last = Duration::from_secs(flow.last_scrub_began());
    // A clock that was set back must not put it off for ever.
    last > now || now - last >= every
}

/// How long a daemon that ends may take to do so by itself.
const ENDING_WAIT: Duration = Duration::from_millis(500);
/// How long a killed daemon may take to end, its mount aborted meanwhile.
const KILLED_WAIT: Duration = Duration::from_secs(5);
const KILLED_LOOK: Duration = Duration::from_millis(20);

/// Sees to it that a killed daemon ends. One that was killed while it waited for an answer from its own mount waits for ever: it
/// was to answer. So long it has the store and takes clients, and whoever reads the mount waits too.
pub fn end_killed(store: &Path) -> Result<(), Failure> {
    let killed = || {
        let holder = Deployfs::last_writer(store).filter(Holder::is_killed);
        holder.filter(|_| Deployfs::is_in_use(store))
    };
    let started = Instant::now();
    let mut is_told = false;
    while let Some(holder) = killed() {
        let (pid, device) = (holder.pid, holder.device);
        if started.elapsed() > KILLED_WAIT {
            return Err(failed(format!(
                "process {pid} has been killed, has not ended, and has '{}': {}",
                store.display(),
                what_ends_it(device)
            )));
        }
        std::thread::sleep(KILLED_LOOK);
        if started.elapsed() < ENDING_WAIT {
            continue;
        }
        if !is_told {
            log::warn!("process {pid} has been killed and has not ended: its mount is aborted");
            is_told = true;
        }
        abort_mounts_of(store, device);
    }
    Ok(())
}

/// What keeps a killed daemon from ending, and what ends that.
fn what_ends_it(device: Option<u64>) -> String {
    let holders = device.map(lock_holders_on).unwrap_or_default();
    match holders.found.first() {
        Some(holder) => format!("{}; as root: {}", holder.sentence(), holder.remedy()),
        None if holders.unseen > 0 => "run this as root to see who holds a folder of its mount; or, as root, 'umount -f MOUNTPOINT'".into(),
        None => "'umount -f MOUNTPOINT' as root ends it".into(),
    }
}

/// How long a mount waits for a store that another process has while no daemon answers, as every other command does.
const LOCKED_WAIT: Duration = Duration::from_secs(10);
const LOCKED_LOOK: Duration = Duration::from_millis(50);

/// The open store. A command that has it ends, and so does a daemon that has unmounted; a daemon that answers is refused at once.
fn open_when_free(store: &Path) -> Result<Deployfs, Failure> {
    let started = Instant::now();
    loop {
        end_killed(store)?;
        let is_served = !matches!(Client::connect(store), Ok(None));
        if is_served || started.elapsed() > LOCKED_WAIT {
            return Deployfs::open(store);
        }
        if let Some(flow) = Deployfs::open_if_free(store)? {
            return Ok(flow);
        }
        std::thread::sleep(LOCKED_LOOK);
    }
}

/// Runs until SIGTERM, SIGINT, a shutdown request, or an unmount by somebody else. `ready` is called once requests are
/// answered.
pub fn run(options: DaemonOptions, ready: impl FnOnce()) -> Result<(), Failure> {
    keep_rights_to_itself();
    // Before anything is mounted: a signal from here on ends in a clean unmount.
    let signals = signals()?;
    let flow = Arc::new(open_when_free(&options.store)?);
    admit(&flow, options.control_group)?;
    let mounted = mount(options.mount, flow.clone(), &flow.shown())
        .map_err(|error| failed(error.to_string()))?;
    flow.note_device(mounted.device());
    flow.attach(mounted.view());
    flow.run_hooks_in_background()
        .map_err(|error| failed(format!("no thread for the hooks: {error}")))?;
    flow.close_channels_in_time()
        .map_err(|error| failed(format!("no thread for the ends of channels: {error}")))?;
    let mounted = Arc::new(mounted);
    let (stop, stopped) = unbounded();
    let state = Arc::new(State {
        flow: flow.clone(),
        mounted: Arc::downgrade(&mounted),
        since: now(),
    });
    let servers = serve(&options.store, options.control_group, &state, stop).and_then(|control| {
        let metrics = options.metrics.as_ref();
        Ok((
            control,
            metrics
                .map(|place| give_metrics(place, &state))
                .transpose()?,
        ))
    });
    let servers = match servers {
        Ok(servers) => servers,
        Err(failure) => {
            end(mounted);
            return Err(failure);
        }
    };
    let filler = flow.clone();
    std::thread::spawn(move || filler.warm_up());
    let scrubber = options
        .scrub
        .map(|scrubbing| Scrubber::start(flow.clone(), scrubbing));
    ready();
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("the service manager could not be told: {error}");
    }
    log::info!(
        "'{}' is mounted at '{}'",
        options.store.display(),
        mounted.mountpoint().display()
    );
    wait(&signals, &stopped, &mounted);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    drop(servers);
    drop(scrubber);
    flow.keep_suspects();
    end(mounted);
    flow.wind_down();
    Ok(())
}

/// Only who may use the control socket reaches the staging folders.
fn admit(flow: &Deployfs, group: Option<u32>) -> Result<(), Failure> {
    match (flow.admit_to_staging(group), group) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(_)) => Err(failed(format!(
            "the members of --control-group cannot be let into '{}': {error}; run the daemon as a member of that group",
            flow.path().join("staging").display()
        ))),
        (Err(error), None) => {
            log::warn!("the staging folders stay open to others: {error}");
            Ok(())
        }
    }
}

/// Said with each activation where it is so.
const UNSEEN_MOUNT: &str = "the mount is in a mount namespace of its own: web servers outside see an empty folder; 'deployfs doctor' says more";

/// What both servers ask.
struct State {
    flow: Arc<Deployfs>,
    mounted: Weak<MountedView>,
    /// Since when it is mounted.
    since: u64,
}

impl State {
    /// Adds the mount's half to a status.
    fn complete(&self, status: StatusReport) -> StatusReport {
        match self.mounted.upgrade() {
            Some(mounted) => with_mount(status, &self.flow, &mounted, self.since),
            None => status,
        }
    }
}

fn give_metrics(place: &Place, state: &Arc<State>) -> Result<metrics::Server, Failure> {
    let state = state.clone();
    let source = Box::new(move || metrics::text(&state.complete(state.flow.status())));
    let server = metrics::Server::start(place, source)
        .map_err(|error| failed(format!("metrics cannot be given at '{place}': {error}")))?;
    log::info!("metrics are given at '{}'", server.place());
    Ok(server)
}

/// What a service manager gives the daemon beyond its user's rights is not for the hooks that it starts.
fn keep_rights_to_itself() {
    if let Err(error) = rustix::thread::clear_ambient_capability_set() {
        log::warn!("hooks have all rights of the daemon: {error}");
    }
}

fn serve(
    store: &Path,
    group: Option<u32>,
    state: &Arc<State>,
    stop: Sender<()>,
) -> Result<Server, Failure> {
    let path = socket_path(store);
    let state = state.clone();
    let handler = Box::new(
        move |request: &Request,
              stream: Option<std::os::fd::OwnedFd>,
              caller: &crate::model::report::Caller,
              progress: &(dyn Fn(crate::model::report::Progress) + Sync),
              cancel: &std::sync::atomic::AtomicBool| {
            let State { flow, mounted, .. } = &*state;
            let answer = flow.run_with(request, stream, caller, progress, cancel)?;
            Ok(match (request, answer) {
                (Request::Shutdown, answer) => {
                    log::info!("{} asks to end", caller.name);
                    // The receiver lives as long as the daemon waits.
                    stop.send(()).ok();
                    answer
                }
                (_, Answer::Status(status)) => Answer::Status(Box::new(state.complete(*status))),
                (_, Answer::Sealed(mut sealed)) => {
                    if let Some(mounted) = mounted.upgrade().filter(|_| !sealed.dry_run) {
                        sealed.deploy_path = Some(mounted.deploy_path(sealed.deploy_id));
                    }
                    Answer::Sealed(sealed)
                }
                (_, Answer::Activated(mut report)) => {
                    let visible = mounted.upgrade().and_then(|mounted| mounted.is_visible());
                    if visible == Some(false) {
                        report.warnings.push(UNSEEN_MOUNT.into());
                    }
                    Answer::Activated(report)
                }
                (_, Answer::Channel(channel)) => {
                    Answer::Channel(with_path(channel, mounted.upgrade().as_deref()))
                }
                (_, Answer::Channels(channels)) => {
                    let mounted = mounted.upgrade();
                    let all = channels.into_iter();
                    Answer::Channels(all.map(|one| with_path(one, mounted.as_deref())).collect())
                }
                (_, answer) => answer,
            })
        },
    );
    Server::start(path.clone(), group, handler)
        .map_err(|error| failed(format!("cannot listen on '{}': {error}", path.display())))
}

fn with_path(channel: ChannelInfo, mounted: Option<&MountedView>) -> ChannelInfo {
    ChannelInfo {
        path: mounted.map(|mounted| mounted.channel_path(&channel.name)),
        ..channel
    }
}

/// The mount's half of `status`.
fn with_mount(
    mut status: StatusReport,
    flow: &Deployfs,
    mounted: &MountedView,
    since: u64,
) -> StatusReport {
    let counts = mounted.counts();
    status.mounted_since = Some(since);
    status.caches = flow.cache_counts();
    let nodes = mounted.nodes() as u64;
    status.caches.insert("nodes".into(), nodes);
    status.errors_total = mounted.errors_seen();
    status.mountpoint = Some(mounted.mountpoint());
    status.daemon_pid = Some(std::process::id());
    status.daemon_version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let channels = std::mem::take(&mut status.channels).into_iter();
    status.channels = channels.map(|one| with_path(one, Some(mounted))).collect();
    status.stuck = mounted.stuck();
    status.mount_visible = mounted.is_visible();
    status.mount_read_only = Some(mounted.is_readonly());
    if let Ok(serde_json::Value::Object(kinds)) = serde_json::to_value(&counts) {
        let number = |(kind, count): (String, serde_json::Value)| Some((kind, count.as_u64()?));
        status.upcalls = kinds.into_iter().filter_map(number).collect();
    }
    status.upcalls.insert("total".into(), counts.upcalls());
    status
        .errors
        .extend(mounted.read_errors().into_iter().map(|error| error.what));
    status
}

fn wait(signals: &Receiver<i32>, stopped: &Receiver<()>, mounted: &MountedView) {
    select! {
        recv(signals) -> signal => log::info!("signal {}: ending", signal.unwrap_or_default()),
        recv(stopped) -> _ => std::thread::sleep(FAREWELL),
        recv(mounted.ended()) -> _ => log::warn!("somebody has unmounted it: ending"),
    }
}

fn end(mounted: Arc<MountedView>) {
    // A status request may hold the view for a moment longer.
    let mut mounted = mounted;
    let view = loop {
        match Arc::try_unwrap(mounted) {
            Ok(view) => break view,
            Err(shared) => {
                mounted = shared;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    match view.unmount() {
        Ok(true) => log::info!("unmounted"),
        Ok(false) => log::warn!("unmounted while files in it were open: they can be read no more"),
        Err(error) => log::error!("{error}"),
    }
}

fn signals() -> Result<Receiver<i32>, Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| failed(format!("cannot wait for signals: {error}")))?;
    let (send, received) = bounded(1);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            // Full: the daemon is ending already.
            send.try_send(signal).ok();
        }
    });
    Ok(received)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

fn failed(message: String) -> Failure {
    Failure {
        kind: FailureKind::Failed,
        message,
    }
}
