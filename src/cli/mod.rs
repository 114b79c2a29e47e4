//! The command line: one file a command. stdout carries only the answer, everything else goes to stderr.

#[macro_use]
mod terminal;

mod abort;
mod activate;
mod activating;
mod backup;
mod call;
mod channel;
mod completions;
mod create;
mod deploy;
mod diff;
mod doctor;
mod du;
mod export;
mod fsck;
mod gc;
mod import;
mod init;
mod list;
mod lock;
mod log;
mod logging;
mod man;
mod mount;
mod mount_helper;
mod output;
mod pin;
mod producer;
mod progress;
mod prune;
mod remove;
mod rollback;
mod scrub;
mod seal;
mod sealing;
mod show;
mod status;
mod store_path;
mod stream;
mod umount;
mod unlock;
mod unpacked;
mod unpin;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::model::report::{Failure, FailureKind};

/// Atomic, immutable web deploys on your own server.
///
/// A mounted store shows the live site in MOUNTPOINT/live and every sealed deploy in MOUNTPOINT/deploys/ID. Put a release
/// together in a staging folder (or any folder), seal it, activate it: visitors see the old site or the new one, never a
/// mix. Rolling back is the same step towards an older deploy.
#[derive(Debug, Parser)]
#[command(
    name = "deployfs",
    version,
    max_term_width = 100,
    after_help = "Example:\n  deployfs init /srv/store\n  deployfs mount /srv/store /srv/site\n  \
                  cd /srv/site\n  cp -r ~/build/. \"$(deployfs create v1)\"\n  \
                  deployfs activate \"$(deployfs seal v1 -m 'first version')\"\n  ls live\n\n\
                  Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 a precondition (--if-live, a lock, --check) \
                  did not hold; 4 recorded, but the mount could not be flipped; 5 not known whether it was carried out \
                  ('deployfs log' shows it)."
)]
struct Cli {
    /// The store [default: the store of the mount that the working directory is in]
    #[arg(long, global = true, value_name = "PATH", env = "DEPLOYFS_STORE")]
    store: Option<PathBuf>,
    /// Log more, -vv more still [default: what DEPLOYFS_LOG or RUST_LOG says, as in env_logger]
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How the log on stderr looks; json: one object a line
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        env = "DEPLOYFS_LOG_FORMAT"
    )]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Create(create::Args),
    Seal(seal::Args),
    Abort(abort::Args),
    Deploy(deploy::Args),
    #[command(visible_aliases = ["promote", "publish"])]
    Activate(activate::Args),
    Rollback(rollback::Args),
    Channel(channel::Args),
    Lock(lock::Args),
    Unlock(unlock::Args),
    Pin(pin::Args),
    Unpin(unpin::Args),
    #[command(name = "rm")]
    Remove(remove::Args),
    Prune(prune::Args),
    Gc(gc::Args),
    Du(du::Args),
    List(list::Args),
    Show(show::Args),
    Diff(diff::Args),
    Log(log::Args),
    Status(status::Args),
    Export(export::Args),
    Import(import::Args),
    Backup(backup::Args),
    Verify(verify::Args),
    Fsck(fsck::Args),
    Scrub(scrub::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The flow, the daemon or the store says no.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The call's words are off.
    #[error("{0}")]
    Usage(String),
    /// It was carried out, but the answer is bad news that has been printed already.
    #[error("")]
    Told,
}

impl Error {
    fn failed(message: impl Into<String>) -> Self {
        Error::Failure(Failure {
            kind: FailureKind::Failed,
            message: message.into(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Error::Failure(failure) => match failure.kind {
                FailureKind::Failed => 1,
                FailureKind::Precondition => 3,
                FailureKind::NotFlipped => 4,
                FailureKind::Unknown => 5,
            },
            Error::Usage(_) => 2,
            Error::Told => 1,
        }
    }
}

type Outcome = Result<(), Error>;

/// Runs the command that this process was started with.
pub fn run() -> ExitCode {
    ignore_broken_leases();
    let outcome = words().and_then(|given| match given {
        Some(given) => start(&given),
        None => Ok(()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                logging::last_words(&text);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// The words after the program's name; those of `mount` where mount(8) calls. None: nothing is to be done.
fn words() -> Result<Option<Vec<OsString>>, Error> {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let given: Vec<OsString> = words.collect();
    if mount_helper::is_meant(&name) {
        mount_helper::translate(&given)
    } else {
        Ok(Some(given))
    }
}

fn start(given: &[OsString]) -> Outcome {
    let cli = Cli::parse_from(std::iter::once("deployfs".into()).chain(given.iter().cloned()));
    logging::start(
        cli.log_format,
        cli.verbose,
        matches!(cli.command, Command::Mount(_)),
    );
    dispatch(cli, given)
}

fn dispatch(cli: Cli, given: &[OsString]) -> Outcome {
    let store = cli.store.as_deref();
    match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Mount(args) => mount::run(&args, given),
        Command::Umount(args) => umount::run(&args),
        Command::Create(args) => create::run(&args, store),
        Command::Seal(args) => seal::run(&args, store),
        Command::Abort(args) => abort::run(&args, store),
        Command::Deploy(args) => deploy::run(&args, store),
        Command::Activate(args) => activate::run(&args, store),
        Command::Rollback(args) => rollback::run(&args, store),
        Command::Channel(args) => channel::run(&args, store),
        Command::Lock(args) => lock::run(&args, store),
        Command::Unlock(args) => unlock::run(&args, store),
        Command::Pin(args) => pin::run(&args, store),
        Command::Unpin(args) => unpin::run(&args, store),
        Command::Remove(args) => remove::run(&args, store),
        Command::Prune(args) => prune::run(&args, store),
        Command::Du(args) => du::run(&args, store),
        Command::Gc(args) => gc::run(&args, store),
        Command::List(args) => list::run(&args, store),
        Command::Show(args) => show::run(&args, store),
        Command::Diff(args) => diff::run(&args, store),
        Command::Log(args) => log::run(&args, store),
        Command::Status(args) => status::run(&args, store),
        Command::Export(args) => export::run(&args, store),
        Command::Import(args) => import::run(&args, store),
        Command::Backup(args) => backup::run(&args, store),
        Command::Verify(args) => verify::run(&args, store),
        Command::Fsck(args) => fsck::run(&args, store),
        Command::Scrub(args) => scrub::run(&args, store),
        Command::Doctor(args) => doctor::run(&args, store),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// A broken read lease sends SIGIO, whose default ends the process.
fn ignore_broken_leases() {
    // SAFETY: SIG_IGN is a valid disposition, set before any thread exists.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        let cli = Cli::command();
        let below = cli
            .get_subcommands()
            .flat_map(clap::Command::get_subcommands);
        for command in cli.get_subcommands().chain(below) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example"),
                "{} has no example",
                command.get_name()
            );
            assert!(
                command.get_about().is_some(),
                "{} says nothing",
                command.get_name()
            );
        }
    }
}
