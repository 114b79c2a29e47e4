//! `deployfs export`

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use super::call::{More, call_more, unexpected};
use super::output::size;
use super::progress::Bar;
use super::{Error, Outcome};
use crate::model::report::{Answer, Request};

/// Write a deploy as one file that holds all of it, to standard output.
///
/// `deployfs import` takes it into another store, under the same id. What is written is whole only if the exit code is 0; an
/// import refuses anything else.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  deployfs export live > site.dpl\n  \
                        deployfs export live | ssh server deployfs --store /srv/store import - --activate")]
pub struct Args {
    /// The deploy: an id, a unique prefix of one, 'live' or 'previous'
    id: String,
}

pub fn run(args: &Args, store: Option<&Path>) -> Outcome {
    if io::stdout().is_terminal() {
        return Err(Error::Usage(
            "an export is no text: send it to a file (> site.dpl) or to another command".into(),
        ));
    }
    let request = Request::Export {
        target: args.id.clone(),
    };
    let pipe = io::pipe().map_err(|error| Error::failed(format!("no pipe: {error}")))?;
    let (mut read, write) = pipe;
    let (answer, copied) = std::thread::scope(|scope| {
        let copy = scope.spawn(move || io::copy(&mut read, &mut io::stdout().lock()));
        let bar = Bar::new("exporting", "chunks");
        let more = More {
            cancel: None,
            stream: Some(write.as_fd()),
        };
        let answer = call_more(store, &request, &|state| bar.show(state), &more);
        bar.end();
        drop(write);
        let copied = copy.join();
        (
            answer,
            copied.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    // Where the copy fails, so does the work, and only the first says why.
    if let Err(error) = copied {
        return match error.kind() {
            io::ErrorKind::BrokenPipe => Err(Error::Told),
            _ => Err(Error::failed(format!(
                "the export cannot be written: {error}"
            ))),
        };
    }
    match answer? {
        Answer::Exported(report) => {
            note!(
                "{}: {} files, {}; {} chunks, {}",
                report.deploy_id,
                report.files,
                size(report.bytes),
                report.chunks,
                size(report.unique_bytes)
            );
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
