//! `deployfs backup`

use std::path::{Path, PathBuf};

use super::call::cancel_on_interrupt;
use super::output::{json, line, size};
use super::progress::Bar;
use super::{Outcome, store_path};
use crate::deploy::Deployfs;

/// Copy the store to another folder, consistently, beside whatever goes on.
///
/// The first backup into DIR copies everything, later ones only what is new, each chunk verified. DIR is a store itself: to
/// restore, mount it. Until a backup has ended, DIR holds the state of the one before; one that was interrupted goes on from
/// where it was. Deploys that were removed from the store go from DIR once its new state is durable. Staging folders are not
/// copied. Run it as root or as the store's owner; DIR must belong to whoever runs it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  deployfs --store /srv/store backup /mnt/backup/site\n  \
                        deployfs --store /mnt/backup/site list\n  \
                        deployfs mount /mnt/backup/site /srv/site"
)]
pub struct Args {
    /// A folder outside the store: a backup of this store, empty, or absent
    dir: PathBuf,
    /// Read all that DIR has too, and copy anew what is damaged there
    #[arg(long)]
    check: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    let store = store_path::find(store)?;
    let cancel = cancel_on_interrupt()?;
    let bar = Bar::new("backing up", "chunks");
    let show = |state| bar.show(state);
    let done = Deployfs::backup(&store, &args.dir, args.check, &show, &cancel);
    bar.end();
    let report = done?;
    if args.json {
        return json(&report);
    }
    note!(
        "backup up to record {}: {} deploys, {} of them new; {} copied, {} freed",
        report.seq,
        report.deploys,
        report.new_deploys,
        size(report.bytes),
        size(report.freed_bytes)
    );
    if report.damaged > 0 {
        note!(
            "damaged in the backup: {} records, {} chunks copied anew",
            report.damaged,
            report.healed
        );
    }
    line(report.backup.display().to_string())
}
