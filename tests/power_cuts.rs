//! P4 on real filesystems: the power goes while deploys are sealed and activated.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::*;

/// A disk is full after some hundred deploys.
const CUTS_A_DISK: usize = 20;

#[test]
fn p4_power_cuts_on_ext4_and_xfs_lose_nothing_that_was_acknowledged() {
    if !Disk::can_be_made() {
        return println!(
            "skipped: there are no loop devices here, so no disk whose power can be cut"
        );
    }
    need_fuse();
    let cuts = count("DEPLOYFS_TEST_POWER_CUTS", 2);
    let seed: u64 = count("DEPLOYFS_TEST_SEED", std::process::id() as usize) as u64;
    println!("repeat with: DEPLOYFS_TEST_SEED={seed}");
    for kind in ["ext4", "xfs"] {
        for first in (0..cuts).step_by(CUTS_A_DISK) {
            let disk = match kind {
                "xfs" => Disk::xfs(),
                _ => Disk::new(320),
            };
            let site = Site::unmounted_on(&disk.path);
            let mut told = Told::default();
            for cut in first..cuts.min(first + CUTS_A_DISK) {
                let random = noise(seed + cut as u64, 8).try_into().unwrap();
                let after = Duration::from_millis(u64::from_le_bytes(random) % 400);
                let when = format!("{kind}, cut {cut} after {after:?}");
                if cut % 2 == 0 {
                    shut_down(&disk, &site, &mut told, cut, after);
                    told.check(&site, &when);
                } else {
                    copy(&disk, &site, &mut told, cut, after, &when);
                }
            }
        }
    }
    println!("power cuts: {} tried, 0 violations", 2 * cuts);
}

/// Work goes on for a while; then `end` is called, and no more is begun.
fn work(
    site: &Site,
    told: &mut Told,
    round: usize,
    after: Duration,
    end: impl FnOnce(&Mutex<Told>),
) {
    let stop = AtomicBool::new(false);
    let tells = Mutex::new(std::mem::take(told));
    std::thread::scope(|scope| {
        scope.spawn(|| deploy_until_it_fails(site, round, &stop, &tells));
        scope.spawn(|| remove_until_it_fails(site, round, &stop, &tells));
        std::thread::sleep(after);
        end(&tells);
        stop.store(true, Ordering::Relaxed);
    });
    *told = tells.into_inner().unwrap();
}

/// The filesystem stops, as it does when the power goes, under commands that work without a daemon.
///
/// An fdatasync that runs while ext4 is shut down can return success and have stored nothing (Linux 6.18: after 52 of 2,000 shutdowns a
/// bare append and fdatasync was gone that had been acknowledged in that moment, and none that had been before it). No power cut does
/// that, so what is acknowledged from the call on does not count.
fn shut_down(disk: &Disk, site: &Site, told: &mut Told, round: usize, after: Duration) {
    work(site, told, round, after, |told| {
        told.lock().unwrap().is_over = true;
        disk.cut_power();
    });
    disk.start_again();
}

/// The disk is copied in the middle of what the daemon does: the copy is what another machine finds.
fn copy(disk: &Disk, site: &Site, told: &mut Told, round: usize, after: Duration, when: &str) {
    site.mount(&[]);
    let pid = site.daemon_pid();
    let mut found = None;
    work(site, told, round, after, |tells| {
        kill(pid, libc::SIGSTOP);
        let told = tells.lock().unwrap().clone();
        found = disk.copy().map(|copy| (copy, told));
        kill(pid, libc::SIGCONT);
    });
    site.umount();
    let (copy, mut told_then) = found.expect("the disk is quiet while the daemon is stopped");
    let mut elsewhere = Site::without_a_store();
    elsewhere.store = copy.path.join("store");
    told_then.check(&elsewhere, when);
    told.check(site, when);
}
