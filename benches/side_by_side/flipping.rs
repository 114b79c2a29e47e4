//! Rows 3, 5 and 6: what a flip costs the visitors, the first to touch what is new, and the one who flips.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use deployfs::model::report::{ActivateRequest, Answer, Request};

use crate::Run;
use crate::bed::{Bed, keep_caches, read_all, settle, stat_all, time, time_command};
use crate::data::{Random, write};
use crate::report::{Limit, Row, Spread, pairs, warm_pairs};
use crate::support::{DEPLOYFS, Http, Nginx, Site, text};

/// Row 3.
pub fn first_touch(run: &mut Run) {
    let count = if run.quick { 2 } else { 7 };
    let data = run.data();
    let bed = run.bed();
    let unchanged: Vec<PathBuf> = data
        .files
        .iter()
        .filter(|file| !data.changed.contains(file))
        .cloned()
        .collect();
    let patch = run.path("patch");
    let next = Cell::new(0);
    // Deploys that no visitor has seen yet, 1 % other than the live one.
    let unseen = || {
        next.set(next.get() + 1);
        fs::remove_dir_all(&patch).ok();
        data.patch(&patch, next.get()).expect("a patch");
        bed.site.ok(["deploy", text(&patch), "--from", &bed.first])
    };
    let live = bed.live();
    let _kept = keep_caches();
    let mut reads = Vec::new();
    let (mut rollbacks, mut lookups, mut warms) = (Vec::new(), Vec::new(), Vec::new());
    let measured = warm_pairs(
        count,
        || {
            bed.site.flip(&bed.first);
            read_all(&live, &bed.order);
            read_all(&data.site, &bed.order);
        },
        || {
            bed.site.flip(&unseen());
            settle();
            let seconds = read_all(&live, &bed.order);
            let upcalls = bed.site.upcalls_during(|| {
                bed.site.flip(&bed.first);
                read_all(&live, &bed.order);
            });
            rollbacks.push(upcalls as f64);
            bed.site.flip(&unseen());
            let before = bed.site.upcalls()["read"];
            read_all(&live, &unchanged);
            reads.push((bed.site.upcalls()["read"] - before) as f64);
            seconds
        },
        || {
            // The lookups alone, on another deploy that nobody has seen.
            bed.site.flip(&unseen());
            let lookup = stat_all(&live, &bed.order);
            lookups.push(lookup * 1e6 / bed.order.len() as f64);
            bed.site.flip(&bed.first);
            let warm = read_all(&data.site, &bed.order);
            warms.push(warm);
            1.5 * warm + lookup
        },
    );
    let what =
        "first touch of all files after a flip, 1 % changed / 1.5 × ext4 warm and the lookups";
    run.add(
        Row::ratio("touch", what, "s", &measured, Limit::AtMost(1.0)).note(format!(
            "ext4 warm {:.3} s, a lookup {:.1} µs",
            Spread::of(warms).median,
            Spread::of(lookups).median
        )),
    );
    let what = "reads of unchanged files after that flip";
    run.add(Row::value("touch", what, "", &reads, Limit::AtMost(0.0)));
    let what = "upcalls of reading all files after the rollback";
    run.add(Row::value(
        "touch",
        what,
        "",
        &rollbacks,
        Limit::AtMost(10.0),
    ));
    bed.site.flip(&bed.first);
}

/// Row 5.
pub fn latency(run: &mut Run) {
    if !run.has(&["nginx"]) {
        return;
    }
    let (count, flips) = if run.quick { (2, 10) } else { (5, 100) };
    let bed = run.bed();
    let _kept = keep_caches();
    let nginx = Nginx::serve_by(&bed.live(), 1, "");
    for id in [&bed.second, &bed.first] {
        bed.site.flip(id);
        read_all(&bed.live(), &bed.order);
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let measured = pairs(
        count,
        || {
            let seen = latencies(&bed, &nginx, flips, true);
            with.extend(seen.iter().copied());
            quantile(seen, 0.999)
        },
        || {
            let seen = latencies(&bed, &nginx, flips, false);
            without.extend(seen.iter().copied());
            quantile(seen, 0.999)
        },
    );
    let what = format!("p99.9 of requests during {flips} flips, one each 100 ms / without flips");
    let each = |seen: &Vec<f64>| {
        let at = |part| quantile(seen.clone(), part);
        format!(
            "p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0} µs",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    };
    let note = format!("with: {}; without: {}", each(&with), each(&without));
    run.add(Row::ratio("latency", what, "µs", &measured, Limit::AtMost(2.0)).note(note));
    bed.site.flip(&bed.first);
}

/// Microseconds of each request while so many tenths of a second pass.
fn latencies(bed: &Bed, nginx: &Nginx, tenths: u32, flip: bool) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut http: Http = nginx.connect();
            let mut random = Random::new(11);
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let path = format!("/{}", bed.order[random.below(bed.order.len())].display());
                let started = Instant::now();
                let answer = http.get(&path);
                seen.push(started.elapsed().as_secs_f64() * 1e6);
                assert!(
                    matches!(answer.status, 200 | 404),
                    "{path}: {}",
                    answer.status
                );
            }
            seen
        });
        let started = Instant::now();
        for tick in 1..=tenths {
            if flip {
                bed.site.flip(if tick % 2 == 1 {
                    &bed.second
                } else {
                    &bed.first
                });
            }
            let due = started + Duration::from_millis(100) * tick;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        asking.join().expect("requests are answered")
    })
}

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).ceil() as usize]
}

/// Row 6, the kernel's part.
pub fn kernel_part(run: &mut Run) {
    let sizes: &[usize] = if run.quick {
        &[500, 5_000]
    } else {
        &[500, 5_000, 50_000, 200_000]
    };
    let flips = if run.quick { 20 } else { 60 };
    let mut medians = Vec::new();
    for &files in sizes {
        let folder = run.path(&format!("hot-{files}"));
        let names: Vec<PathBuf> = (0..files)
            .map(|number| PathBuf::from(format!("{:03}/{number:06}", number / 500)))
            .collect();
        for name in &names {
            write(&folder.join(name), text(name).as_bytes()).expect("a small file");
        }
        let _kept = keep_caches();
        let site = Site::new();
        let first = site.deploy(&folder);
        let patch = run.path(&format!("other-{files}"));
        write(&patch.join("000/other"), b"other").expect("a small file");
        let second = site.ok(["deploy", text(&patch), "--from", &first]);
        for id in [&second, &first] {
            site.flip(id);
            stat_all(&site.path("live"), &names);
        }
        settle();
        let mut upcalls = 0;
        let micros: Vec<f64> = (0..flips)
            .map(|round| {
                let id = if round % 2 == 0 { &second } else { &first };
                let micros = flip_micros(&site, id);
                upcalls += site.upcalls_during(|| {
                    stat_all(&site.path("live"), &names[..names.len().min(1_000)]);
                });
                micros
            })
            .collect();
        let what = format!("the kernel's part of a flip, {files} hot files");
        let row = Row::value("flip", what, "µs", &micros, Limit::AtMost(300.0));
        medians.push(row.ours);
        run.add(row.note(format!(
            "{upcalls} upcalls of 1,000 stats after each of {flips} flips"
        )));
    }
    let flat = medians[medians.len() - 1] / medians[0];
    run.add(Row::value(
        "flip",
        "most hot files / fewest",
        "×",
        &[flat],
        Limit::AtMost(2.0),
    ));
}

fn flip_micros(site: &Site, id: &str) -> f64 {
    let request = Request::Activate(ActivateRequest {
        target: Some(id.to_owned()),
        ..ActivateRequest::default()
    });
    match site.ask(&request) {
        Answer::Activated(report) => report.flip_micros.expect("it is mounted") as f64,
        other => panic!("{other:?}"),
    }
}

/// Row 6, the whole command.
pub fn activate(run: &mut Run) {
    let count = if run.quick { 15 } else { 61 };
    let bed = run.bed();
    let path = run.path("raw");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .expect("a new file");
    settle();
    let mut round = 0;
    let measured = pairs(
        count,
        || {
            round += 1;
            let id = if round % 2 == 1 {
                &bed.second
            } else {
                &bed.first
            };
            let mut command = Command::new(DEPLOYFS);
            command
                .args(["activate", id])
                .env("DEPLOYFS_STORE", &bed.site.store);
            time_command(&mut command) * 1e3
        },
        || {
            let seconds = time(|| {
                file.write_all(&[b'x'; 400]).expect("room for a line");
                file.sync_data().expect("the disk takes it");
            });
            seconds * 1e3
        },
    );
    let more = Spread::of(measured.iter().map(|(ours, theirs)| ours - theirs));
    let mut row = Row::ratio(
        "activate",
        "activate from the shell / append + fdatasync",
        "ms",
        &measured,
        Limit::None,
    );
    row.met = Some(more.median <= 5.0);
    run.add(row.note(format!(
        "limit: 5 ms more; it is {:.2} ({:.2}..{:.2}) ms more",
        more.median, more.low, more.high
    )));
    let empty: Vec<f64> = (0..count)
        .map(|_| time_command(Command::new(DEPLOYFS).arg("--version")) * 1e3)
        .collect();
    run.add(Row::value(
        "activate",
        "starting the program alone",
        "ms",
        &empty,
        Limit::None,
    ));
    bed.site.flip(&bed.first);
}
