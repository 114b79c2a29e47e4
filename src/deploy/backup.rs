//! `backup`: brings a folder to the state that a store has now, beside whatever goes on in the store.
//!
//! It runs in the process of whoever asks, with that one's rights on both folders. The daemon takes no part in it: its gc
//! finds the packs held.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::Deployfs;
use super::error::DeployError;
use super::ingest::{Ticker, Watch};
use crate::model::report::{BackupReport, Failure, Progress};
use crate::store::backup::{
    BackupError, Copied, Place, Snapshot, Target, copy_settings, is_gc_due,
};
use crate::store::{Hold, HostDisk, Store, StoreError};

impl Deployfs {
    /// Makes `dir` a copy of the store, or brings the one that is there up to date. `check`: all that is there is read too, and
    /// what is damaged is copied anew.
    pub fn backup(
        store: &Path,
        dir: &Path,
        check: bool,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<BackupReport, Failure> {
        let watch = Watch { progress, cancel };
        Ok(back_up(store, dir, check, &watch)?)
    }
}

fn back_up(
    store: &Path,
    dir: &Path,
    check: bool,
    watch: &Watch<'_>,
) -> Result<BackupReport, DeployError> {
    let dir = &apart(store, dir)?;
    let hold = Hold::share(store, &|| watch.check().is_ok())?;
    let hold = hold.ok_or(BackupError::Cancelled)?;
    let disk = HostDisk::new(store.to_owned(), false);
    let name = store.display().to_string();
    let (snapshot, source) = Snapshot::take(&disk, &name, &|| Store::open_read_only(store))?;
    let reopen = || {
        drop(hold);
        copy_settings(store, dir)?;
        Store::open(dir)
    };
    bring_up(
        &source,
        &snapshot,
        Place::on_host(dir)?,
        reopen,
        check,
        watch,
    )
}

/// Brings a target to this state. `reopen` opens it as the store that it has become.
pub(super) fn bring_up(
    source: &Store,
    snapshot: &Snapshot,
    place: Place<'_>,
    reopen: impl FnOnce() -> Result<Store, StoreError>,
    check: bool,
    watch: &Watch<'_>,
) -> Result<BackupReport, DeployError> {
    let target = Target::open(place, source, snapshot)?;
    let mut report = BackupReport {
        store: source.root().to_owned(),
        backup: target.root().to_owned(),
        uuid: source.uuid().to_owned(),
        seq: snapshot.last_seq(),
        live: snapshot.ledger.live(),
        deploys: snapshot.files.len() as u64,
        ..BackupReport::default()
    };
    let ticker = Ticker::new(watch);
    if check {
        report.damaged = target.check(&|bytes| ticker.tick(|| checked(bytes)).is_ok())?;
    }
    let goes_on = |copied: &Copied| ticker.tick(|| state(copied)).is_ok();
    let copied = target.copy(source, snapshot, &goes_on)?;
    report.new_deploys = copied.deploys;
    report.chunks = copied.chunks;
    report.bytes = copied.bytes;
    report.healed = copied.healed;
    target.publish(source, snapshot)?;
    // What only the state before needed goes now: the new one is durable.
    let flow = Deployfs::over(reopen()?);
    if is_gc_due(&flow.store) {
        report.freed_bytes = flow.gc(false, watch)?.freed_bytes;
        flow.store.gc_is_done();
    }
    flow.store.keep_suspects();
    flow.store.close_index();
    report.pack_bytes = flow.store.pack_bytes();
    Ok(report)
}

fn state(copied: &Copied) -> Progress {
    Progress {
        files: copied.chunks,
        bytes: copied.bytes,
        ..Progress::default()
    }
}

fn checked(bytes: u64) -> Progress {
    Progress {
        bytes,
        ..Progress::default()
    }
}

/// The target's folder, made if it is absent: with no path in common with the store, and this user's own.
fn apart(store: &Path, dir: &Path) -> Result<PathBuf, DeployError> {
    let refused = |what| DeployError::BackupFolder {
        dir: dir.to_owned(),
        what,
    };
    // Nothing may be made in the store.
    let there = dir.ancestors().find(|above| above.exists());
    let there = there.filter(|above| !above.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new("."));
    let there = there
        .canonicalize()
        .map_err(DeployError::io("use", there))?;
    if is_within(&there, store)? {
        return Err(refused(
            "it is the store, or lies in it: give a folder elsewhere, best on another disk",
        ));
    }
    fs::create_dir_all(dir).map_err(DeployError::io("create", dir))?;
    let dir = &dir.canonicalize().map_err(DeployError::io("use", dir))?;
    if is_within(store, dir)? {
        return Err(refused(
            "the store lies in it: give a folder elsewhere, best on another disk",
        ));
    }
    let metadata = fs::metadata(dir).map_err(DeployError::io("use", dir))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(
            "it belongs to another user: make the backup as that user, or give a folder of your own",
        ));
    }
    Ok(dir.clone())
}

/// True where the path is this folder or lies in it, by whatever name.
fn is_within(path: &Path, folder: &Path) -> Result<bool, DeployError> {
    let key = |path: &Path| {
        let metadata = fs::metadata(path).map_err(DeployError::io("use", path))?;
        Ok::<_, DeployError>((metadata.dev(), metadata.ino()))
    };
    let folder = key(folder)?;
    for above in path.ancestors() {
        if key(above)? == folder {
            return Ok(true);
        }
    }
    Ok(false)
}
