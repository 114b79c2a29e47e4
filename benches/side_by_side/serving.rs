//! Rows 1 and 2: warm serving by nginx with one worker, and the system calls below it.

use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Run;
use crate::bed::{Bed, c_paths, grown, keep_caches, read_all, time, time_command};
use crate::machine::is_there;
use crate::report::{Limit, Row, warm_pairs};
use crate::support::{Nginx, is_mounted, text, wait_for};

/// Connections that ask, each one request after the other.
const CONNECTIONS: usize = 16;
/// What the system-call loop reads of a file.
const READ: usize = 5 << 10;

/// A folder served by nginx, and wrk asking for its files in random order.
struct Served {
    _nginx: Nginx,
    url: String,
    script: PathBuf,
    seconds: u64,
    /// The worker, and the filesystem's daemon if there is one.
    serving: Vec<u32>,
}

/// What wrk saw, and the processor time a request of the worker and the filesystem's daemon.
struct Asked {
    per_second: f64,
    cpu_micros: f64,
}

impl Served {
    fn new(root: &Path, script: &Path, seconds: u64, daemon: Option<u32>) -> Self {
        let port = free_port();
        let listen = format!("listen 127.0.0.1:{port};");
        let nginx = Nginx::serve_by(root, 1, &listen);
        let url = format!("http://127.0.0.1:{port}");
        let serving = nginx.workers().into_iter().chain(daemon).collect();
        Served {
            _nginx: nginx,
            serving,
            url,
            script: script.to_owned(),
            seconds,
        }
    }

    fn ask(&self) -> Asked {
        let before = cpu_seconds(&self.serving);
        let out = Command::new("wrk")
            .args([
                "-t1",
                &format!("-c{CONNECTIONS}"),
                &format!("-d{}s", self.seconds),
            ])
            .args(["-s", text(&self.script), &self.url])
            .output()
            .expect("wrk runs");
        let said = String::from_utf8_lossy(&out.stdout);
        let number = |mark: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(mark));
            line.and_then(|line| line.trim().parse::<f64>().ok())
        };
        assert_eq!(number("failed:"), Some(0.0), "wrk on {}: {said}", self.url);
        let per_second = number("Requests/sec:").expect("a rate");
        let requests = number("requests:").expect("a count");
        Asked {
            per_second,
            cpu_micros: (cpu_seconds(&self.serving) - before) * 1e6 / requests,
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Of all threads of these processes.
fn cpu_seconds(pids: &[u32]) -> f64 {
    let threads = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten()
        .flatten();
    let nanos = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// Requests for these files, one after the other in an order of wrk's own.
fn write_script(path: &Path, files: &[PathBuf]) {
    let mut script = String::from("local paths = {\n");
    for file in files {
        writeln!(script, "{:?},", format!("/{}", file.display())).expect("a string grows");
    }
    script.push_str(
        "}\nlocal asked = {}\n\
         function init(args)\n  math.randomseed(5)\n\
           for i, path in ipairs(paths) do asked[i] = wrk.format(nil, path) end\nend\n\
         function request() return asked[math.random(#asked)] end\n\
         function done(summary)\n  local e = summary.errors\n\
           print('failed: ' .. (e.connect + e.read + e.write + e.status + e.timeout))\n\
           print('requests: ' .. summary.requests)\nend\n",
    );
    fs::write(path, script).expect("the script is written");
}

/// Another filesystem mounted for comparison; ended when dropped.
struct Other {
    process: Child,
    mountpoint: PathBuf,
}

impl Other {
    fn mount(command: &mut Command, mountpoint: &Path) -> Self {
        fs::create_dir(mountpoint).expect("a new mount point");
        let process = command
            .arg(mountpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        wait_for("the other mount", || is_mounted(mountpoint));
        Other {
            process,
            mountpoint: mountpoint.to_owned(),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if rustix::mount::unmount(&self.mountpoint, flags).is_ok() {
            self.process.wait().ok();
        }
    }
}

/// Row 1 through nginx.
pub fn nginx(run: &mut Run) {
    if !run.has(&["nginx", "wrk"]) {
        return;
    }
    let (count, seconds) = if run.quick { (3, 1) } else { (11, 4) };
    let bed = run.bed();
    let script = run.path("wrk.lua");
    write_script(&script, &bed.order);
    let (data, live) = (run.data(), bed.live());
    let daemon = bed.site.daemon_pid() as u32;
    let ours = Served::new(&live, &script, seconds, Some(daemon));
    let theirs = Served::new(&data.site, &script, seconds, None);
    let mut cpu = (Vec::new(), Vec::new());
    let _kept = keep_caches();
    let measured = warm_pairs(
        count,
        || {
            read_all(&live, &bed.order);
            read_all(&data.site, &bed.order);
        },
        || {
            let seen = ours.ask();
            cpu.0.push(seen.cpu_micros);
            seen.per_second
        },
        || {
            let seen = theirs.ask();
            cpu.1.push(seen.cpu_micros);
            seen.per_second
        },
    );
    let cpu: Vec<_> = cpu.0.into_iter().zip(cpu.1).collect();
    let what = "warm requests/s through nginx: live / ext4";
    run.add(
        Row::ratio("nginx", what, "1/s", &measured, Limit::AtLeast(0.9)).note(format!(
            "aim 0.95; {} files, {} MB",
            bed.order.len(),
            data.bytes / 1_000_000
        )),
    );
    let what = "processor time a request, nginx and daemon: live / ext4";
    run.add(Row::ratio("nginx", what, "µs", &cpu, Limit::None));
    run.add(upcalls(&bed));
}

/// What the kernel asks while every file is asked for once, over and over. A machine that reclaims cached pages by itself, or
/// lacks memory, asks for some again; so these are passes of less than a second, and their median counts.
fn upcalls(bed: &Bed) -> Row {
    let nginx = Nginx::serve_by(&bed.live(), 1, "");
    let mut http = nginx.connect();
    let mut kinds = Vec::new();
    let mut pass = || {
        let before = bed.site.upcalls();
        for file in &bed.order {
            let answer = http.get(&format!("/{}", file.display()));
            assert_eq!(answer.status, 200, "{}", file.display());
        }
        let after = bed.site.upcalls();
        kinds.extend(grown(&before, &after));
        (after["total"] - before["total"]) as f64 / bed.order.len() as f64
    };
    pass();
    let passes: Vec<f64> = (0..9).map(|_| pass()).collect();
    let what = "upcalls a warm request";
    Row::value("nginx", what, "", &passes, Limit::AtMost(0.0)).note(format!("seen: {kinds:?}"))
}

/// Row 1 below nginx: the system calls alone.
pub fn syscalls(run: &mut Run) {
    let count = if run.quick { 9 } else { 41 };
    let bed = run.bed();
    let data = run.data();
    let live = c_paths(&bed.live(), &bed.order);
    let plain = c_paths(&data.site, &bed.order);
    let _kept = keep_caches();
    let mut row = |what: &str, limit, call: &dyn Fn(&CString)| {
        let each = |paths: &[CString]| {
            let seconds = time(|| paths.iter().for_each(call));
            seconds * 1e6 / paths.len() as f64
        };
        let measured = warm_pairs(
            count,
            || {
                read_all(&bed.live(), &bed.order);
                read_all(&data.site, &bed.order);
            },
            || each(&live),
            || each(&plain),
        );
        run.add(Row::ratio(
            "syscalls",
            format!("{what}: live / ext4"),
            "µs",
            &measured,
            limit,
        ));
    };
    row("open, fstat, pread 5 KB, close", Limit::None, &|path| {
        open_and(path, |fd| {
            fstat(fd);
            pread(fd);
        });
    });
    row("stat", Limit::None, &stat);
    row("open, close", Limit::None, &|path| open_and(path, |_| {}));
    row("open, fstat × 8, close", Limit::None, &|path| {
        open_and(path, |fd| (0..8).for_each(|_| fstat(fd)));
    });
    row("open, pread 5 KB × 8, close", Limit::None, &|path| {
        open_and(path, |fd| (0..8).for_each(|_| pread(fd)));
    });
}

fn open_and(path: &CString, then: impl Fn(i32)) {
    // SAFETY: the path ends in NUL and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    assert!(fd >= 0, "{path:?} opens");
    then(fd);
    // SAFETY: the descriptor is ours and not used again.
    unsafe { libc::close(fd) };
}

fn fstat(fd: i32) {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one struct stat.
    assert_eq!(unsafe { libc::fstat(fd, stat.as_mut_ptr()) }, 0);
}

fn stat(path: &CString) {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: as above, and the path ends in NUL.
    assert_eq!(unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) }, 0);
}

fn pread(fd: i32) {
    let mut buffer = [0u8; READ];
    // SAFETY: the kernel writes at most the buffer's length.
    let count = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), READ, 0) };
    assert!(count >= 0);
}

/// Row 2.
pub fn others(run: &mut Run) {
    if !run.has(&["nginx", "wrk"]) {
        return;
    }
    let (count, seconds) = if run.quick { (2, 1) } else { (5, 4) };
    let bed = run.bed();
    let data = run.data();
    let script = run.path("wrk.lua");
    write_script(&script, &bed.order);
    let daemon = bed.site.daemon_pid() as u32;
    let ours = Served::new(&bed.live(), &script, seconds, Some(daemon));
    let _kept = keep_caches();
    for other in ["bindfs", "squashfuse"] {
        let mountpoint = run.path(other);
        let mounted = match other {
            "bindfs" if is_there("bindfs") => Other::mount(
                Command::new("bindfs")
                    .args(["-f", "-r", "-o", "allow_other"])
                    .arg(&data.site),
                &mountpoint,
            ),
            "squashfuse" if is_there("squashfuse") && is_there("mksquashfs") => {
                let image = run.path("site.squashfs");
                time_command(
                    Command::new("mksquashfs")
                        .arg(&data.site)
                        .arg(&image)
                        .arg("-quiet"),
                );
                Other::mount(
                    Command::new("squashfuse")
                        .args(["-f", "-o", "allow_other"])
                        .arg(&image),
                    &mountpoint,
                )
            }
            missing => {
                run.leave_out(format!("others: {missing} is not installed"));
                continue;
            }
        };
        let theirs = Served::new(&mountpoint, &script, seconds, Some(mounted.process.id()));
        let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
        let measured = warm_pairs(
            count,
            || {
                read_all(&bed.live(), &bed.order);
                read_all(&mountpoint, &bed.order);
            },
            || {
                let seen = ours.ask();
                our_cpu.push(seen.cpu_micros);
                seen.per_second
            },
            || {
                let seen = theirs.ask();
                their_cpu.push(seen.cpu_micros);
                seen.per_second
            },
        );
        let what = format!("warm requests/s through nginx: live / {other}");
        run.add(Row::ratio(
            "others",
            what,
            "1/s",
            &measured,
            Limit::AtLeast(5.0),
        ));
        let cpu: Vec<_> = our_cpu.into_iter().zip(their_cpu).collect();
        let what = format!("processor time a request, nginx and daemon: live / {other}");
        run.add(Row::ratio("others", what, "µs", &cpu, Limit::None));
        drop(theirs);
        drop(mounted);
    }
}
