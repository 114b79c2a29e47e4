//! The hook `STORE/hooks/post-activate`: a program of the site's owner that runs after a flip, such as one that tells a CDN
//! what has changed. Whatever it does, the flip stands.

use std::fs;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{Deployfs, now};
use crate::model::history::Verb;
use crate::model::report::HookInfo;
use crate::model::{ChannelName, DeployId};

/// How long a hook may run, in seconds, unless the variable says otherwise.
const LIMIT: u64 = 60;
const LIMIT_VARIABLE: &str = "DEPLOYFS_HOOK_SECONDS";

/// What a hook is told.
#[derive(Debug, Clone)]
pub struct Flipped {
    /// `activate` or `rollback`.
    pub verb: Verb,
    /// What shows another deploy now.
    pub channel: ChannelName,
    /// Which.
    pub deploy: DeployId,
    /// What it showed before.
    pub before: Option<DeployId>,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub message: String,
}

/// Where hooks wait for their turn, and how the last one went.
#[derive(Default)]
pub struct Hooks {
    queue: OnceLock<Sender<Flipped>>,
    last: Mutex<Option<HookInfo>>,
}

impl Hooks {
    /// How the last run went; none: nothing has run.
    pub fn last_run(&self) -> Option<HookInfo> {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, Option<HookInfo>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deployfs {
    /// From now on hooks run one after the other on a thread of their own, and nobody waits for them.
    pub fn run_hooks_in_background(self: &Arc<Self>) -> io::Result<()> {
        let (queue, todo) = unbounded();
        let flow = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("hooks".into())
            .spawn(move || {
                for flipped in todo {
                    if let Some(flow) = flow.upgrade() {
                        flow.run_hook(&flipped);
                    }
                }
            })?;
        self.hooks.queue.set(queue).ok();
        Ok(())
    }

    /// Lets the hook know, here and now where no thread does so.
    pub(super) fn announce(&self, flipped: Flipped) {
        match self.hooks.queue.get() {
            // The thread ends before the queue only if it panicked; that is in the log.
            Some(queue) => drop(queue.send(flipped)),
            None => self.run_hook(&flipped),
        }
    }

    fn run_hook(&self, flipped: &Flipped) {
        let folder = self.path().join("hooks");
        let program = folder.join("post-activate");
        if let Err(error) = fs::symlink_metadata(&program)
            && matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        {
            return;
        }
        let outcome =
            check(&folder, &program).and_then(|()| self.start_and_wait(&program, flipped));
        match &outcome {
            Ok(()) => log::info!("hook after the activation of {}: done", flipped.deploy),
            Err(problem) => log::error!(
                "hook '{}' after the activation of {}: {problem}; the activation stands",
                program.display(),
                flipped.deploy
            ),
        }
        *self.hooks.last() = Some(HookInfo {
            time: now(),
            deploy_id: flipped.deploy,
            channel: flipped.channel.clone(),
            problem: outcome.err(),
        });
    }

    fn start_and_wait(&self, program: &Path, flipped: &Flipped) -> Result<(), String> {
        let paths = self
            .changed_paths(flipped)
            .map_err(|error| format!("what has changed cannot be told: {error}"))?;
        let input = memory_file(&paths).map_err(|error| format!("no input for it: {error}"))?;
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("DEPLOYFS_STORE", self.path())
            .env("DEPLOYFS_ID", flipped.deploy.to_string())
            .env(
                "DEPLOYFS_BEFORE_ID",
                flipped.before.map(|id| id.to_string()).unwrap_or_default(),
            )
            .env("DEPLOYFS_CHANNEL", flipped.channel.as_str())
            .env("DEPLOYFS_VERB", flipped.verb.as_str())
            .env("DEPLOYFS_ACTOR", &flipped.actor)
            .env("DEPLOYFS_MESSAGE", &flipped.message)
            .stdin(input)
            .stdout(
                io::stderr()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_or_else(|_| Stdio::null(), Stdio::from),
            )
            .process_group(0);
        // SAFETY: one system call that is safe between fork and exec; it touches no memory.
        unsafe { command.pre_exec(close_on_exec) };
        let child = command
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        wait_within(child, limit())
    }

    /// Each file or symlink that differs, with a NUL after it.
    fn changed_paths(&self, flipped: &Flipped) -> Result<Vec<u8>, super::DeployError> {
        let differences = self.differences(flipped.before, flipped.deploy)?;
        let files = differences.into_iter().filter(|one| !one.is_dir());
        Ok(files.flat_map(|one| [one.path, vec![0]].concat()).collect())
    }
}

/// Only root and this process's user may have made it: it runs with this process's rights.
fn check(folder: &Path, program: &Path) -> Result<(), String> {
    for path in [folder, program] {
        let what =
            fs::symlink_metadata(path).map_err(|error| format!("'{}': {error}", path.display()))?;
        let own = rustix::process::geteuid().as_raw();
        if what.uid() != 0 && what.uid() != own {
            return Err(refused(
                path,
                &format!("belongs to user {}: chown it to root", what.uid()),
            ));
        }
        if what.mode() & 0o022 != 0 {
            return Err(refused(path, "can be written by others: chmod go-w"));
        }
        if path == folder && !what.is_dir() {
            return Err(refused(path, "is not a folder"));
        }
        if path == program && (!what.is_file() || what.mode() & 0o111 == 0) {
            return Err(refused(path, "is not an executable file: chmod 755"));
        }
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> String {
    format!("hook not run: '{}' {why}", PathBuf::from(path).display())
}

/// A file that needs no disk, and no thread that fills a pipe.
fn memory_file(bytes: &[u8]) -> io::Result<fs::File> {
    let memory = rustix::fs::memfd_create("paths", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = fs::File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A hook that outlives the daemon must not hold its mount or its locks.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: integer arguments only. An older kernel refuses; what deployfs itself opens is closed on exec anyway.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Ok(())
}

fn limit() -> Duration {
    let set = std::env::var(LIMIT_VARIABLE).ok();
    Duration::from_secs(set.and_then(|text| text.parse().ok()).unwrap_or(LIMIT))
}

/// Waits for its end; after the limit it and what it has started are killed.
fn wait_within(mut child: Child, limit: Duration) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("it cannot be waited for: {error}");
    let pid = Pid::from_child(&child);
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(&error))?;
    let ended = ends_within(&handle, limit);
    if !ended {
        kill_process_group(pid, Signal::KILL).ok();
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    match (ended, status.success()) {
        (true, true) => Ok(()),
        (true, false) => Err(status.to_string()),
        (false, _) => Err(format!(
            "it still ran after {} seconds and was killed ({LIMIT_VARIABLE} sets another limit)",
            limit.as_secs()
        )),
    }
}

fn ends_within(handle: &impl AsFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&wait)) {
            Err(Errno::INTR) => {}
            answer => return answer.is_ok_and(|ready| ready > 0),
        }
    }
}
