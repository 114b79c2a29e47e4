//! `scrub`: reads all packs, slowly and behind everything else, so that damage is found while another copy of the content exists.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::error::DeployError;
use super::ingest::Watch;
use super::{Deployfs, now};
use crate::model::report::{Progress, ScrubReport};
use crate::sync::{MutexGuard, thread};

/// How often progress is told and the rate is kept to.
const STEP: Duration = Duration::from_millis(50);
/// Problems told at most.
const PROBLEMS_MAX: usize = 100;
/// When the last complete scrub began, in the store's cache.
const LAST: &str = "scrub";

impl Deployfs {
    /// Reads every record of every pack, at most `rate` bytes a second.
    pub(super) fn scrub(
        &self,
        rate: Option<u64>,
        watch: &Watch<'_>,
    ) -> Result<ScrubReport, DeployError> {
        step_back();
        let began = now();
        let started = Instant::now();
        let mut told = Instant::now();
        let mut report = ScrubReport {
            began,
            ..ScrubReport::default()
        };
        *self.scrub_slot() = Some(report.clone());
        let read = self.store.scrub(&mut |stored, problem| {
            report.chunks += 1;
            report.bytes += stored;
            if let Some(problem) = problem {
                log::error!("scrub: {problem}");
                if report.problems.len() < PROBLEMS_MAX {
                    report.problems.push(problem);
                }
            }
            let due =
                rate.map(|rate| Duration::from_secs_f64(report.bytes as f64 / rate.max(1) as f64));
            while due.is_some_and(|due| started.elapsed() < due) && watch.check().is_ok() {
                thread::sleep(STEP);
            }
            if told.elapsed() >= STEP {
                told = Instant::now();
                (watch.progress)(Progress {
                    bytes: report.bytes,
                    files: report.chunks,
                    ..Progress::default()
                });
                *self.scrub_slot() = Some(report.clone());
            }
            watch.check().is_ok()
        });
        report.complete = read.is_ok() && watch.check().is_ok();
        report.ended = Some(now());
        if report.complete && self.store.check_writable().is_ok() {
            self.store.keep_cached(LAST, began.to_string().as_bytes());
        }
        log::info!(
            "scrub: {} records, {} bytes, {} problems{}",
            report.chunks,
            report.bytes,
            report.problems.len(),
            if report.complete { "" } else { "; interrupted" }
        );
        if report.complete && report.problems.is_empty() {
            self.forget_if_whole(watch)?;
        }
        self.store.keep_suspects();
        *self.scrub_slot() = Some(report.clone());
        read?;
        watch.check()?;
        Ok(report)
    }

    /// Looks for the chunks of every deploy, where some are suspect. If all are there, those that are not are nobody's.
    fn forget_if_whole(&self, watch: &Watch<'_>) -> Result<(), DeployError> {
        if self.store.has_suspects() {
            let ids = self
                .store
                .with_ledger(|ledger| ledger.deploys().keys().copied().collect());
            let found = self.check(ids, false, false, watch)?;
            if found.problems.is_empty() {
                self.forget_unneeded_suspects();
            }
        }
        Ok(())
    }

    /// Forgets the suspects that are stored nowhere, once the chunks of every deploy have been found: a reader missed them as its
    /// deploy was removed.
    pub(super) fn forget_unneeded_suspects(&self) {
        self.store.forget_lost_suspects(|_| true);
        self.store.keep_suspects();
    }

    /// When the last complete scrub began; 0: never.
    pub fn last_scrub_began(&self) -> u64 {
        let text = self.store.cached(LAST);
        let second = std::str::from_utf8(&text).ok();
        second.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(super) fn last_scrub(&self) -> Option<ScrubReport> {
        self.scrub_slot().clone()
    }

    fn scrub_slot(&self) -> MutexGuard<'_, Option<ScrubReport>> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This thread, which does nothing else afterwards, gives way to all others on processor and disk.
fn step_back() {
    const WHO_THREAD: libc::c_int = 1;
    const IDLE_CLASS: libc::c_int = 3 << 13;
    // SAFETY: integer arguments only; 0 means the calling thread in both calls.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(libc::SYS_ioprio_set, WHO_THREAD, 0, IDLE_CLASS);
    }
}
