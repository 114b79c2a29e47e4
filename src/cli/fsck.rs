//! `deployfs fsck`

use std::path::Path;

use super::call::call_shown;
use super::output::{json, line};
use super::progress::Bar;
use super::verify::print;
use super::{Error, Outcome, store_path};
use crate::deploy::Deployfs;
use crate::model::report::{RepairReport, Request};

/// Check the store: its files, every tree, that every chunk is there.
///
/// Exits with 1 and names every problem. Changes nothing, unless it is told to repair: then it brings back what can be brought
/// back from what is there, never removes good data, and keeps what it replaces in STORE/damaged. What it cannot mend it names;
/// the same content sealed again brings a lost chunk back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs fsck --read-data\n  \
                        deployfs umount /srv/site && deployfs --store /srv/store fsck --repair")]
pub struct Args {
    /// Read and hash every chunk too
    #[arg(long)]
    read_data: bool,
    /// Mend what can be mended; the store must not be mounted. Reads every chunk
    #[arg(long)]
    repair: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    if args.repair {
        let report = Deployfs::repair(&store_path::find(store)?)?;
        return print_repair(&report, args.json);
    }
    print(
        call_shown(
            store,
            &Request::Fsck {
                read_data: args.read_data,
            },
            Bar::new("checking", "chunks"),
        )?,
        args.json,
    )
}

fn print_repair(report: &RepairReport, as_json: bool) -> Outcome {
    if as_json {
        json(report)?;
    } else {
        for what in &report.mended {
            line(format!("mended  {what}"))?;
        }
        for what in &report.left {
            line(format!("left    {what}"))?;
        }
        note!(
            "{} things mended, {} left",
            report.mended.len(),
            report.left.len()
        );
    }
    match report.left.is_empty() {
        true => Ok(()),
        false => Err(Error::Told),
    }
}
