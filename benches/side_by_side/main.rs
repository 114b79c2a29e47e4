//! deployfs side by side with what a user would use instead: a table, and JSON. `scripts/bench` runs it.

mod arena;
mod bed;
mod bounds;
mod cold;
mod collecting;
mod data;
mod flipping;
mod limited;
mod machine;
mod publishing;
mod report;
mod scale;
mod serving;
#[path = "../../tests/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the tests' kit has more than the benchmark needs"
)]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::Parser;

use bed::Bed;
use data::Data;
use machine::{Machine, is_there};
use report::{Report, Row};

/// Files of the made site.
const FILES: usize = 10_000;
/// And of a quick run's.
const QUICK_FILES: usize = 2_000;
/// When a quick run begins no more parts; each of them takes ten seconds at most.
const QUICK_SECONDS: u64 = 32;

/// deployfs side by side with what a user would use instead.
///
/// Each row is the median of pairs measured in turns, ours and theirs, with the quartiles of their ratios.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Args {
    /// Smaller data, fewer pairs and rows: ends within 50 seconds
    #[arg(long)]
    quick: bool,
    /// Run these rows only
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// List the rows and end
    #[arg(long)]
    list: bool,
    /// Measure this folder instead of made data; needs --next
    #[arg(long, value_name = "DIR", requires = "next")]
    site: Option<PathBuf>,
    /// The next version of it
    #[arg(long, value_name = "DIR", requires = "site")]
    next: Option<PathBuf>,
    /// Where to work: a folder on the disk to be measured [default: target]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to write the results
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    /// Work in this folder, which somebody else removes
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// One or more rows that are measured together.
struct Part {
    name: &'static str,
    about: &'static str,
    when: When,
    run: fn(&mut Run),
}

/// Which runs a part belongs to.
#[derive(PartialEq)]
enum When {
    /// All.
    Always,
    /// All but quick ones.
    Full,
    /// Only where it is asked for by name.
    Asked,
}

/// In the order of their worth: a quick run may not come to the last.
const PARTS: [Part; 20] = [
    Part {
        name: "nginx",
        about: "warm requests through nginx, beside the same files on ext4",
        when: When::Always,
        run: serving::nginx,
    },
    Part {
        name: "syscalls",
        about: "open, fstat, pread, close and stat alone",
        when: When::Always,
        run: serving::syscalls,
    },
    Part {
        name: "activate",
        about: "the activate command, beside one durable append",
        when: When::Always,
        run: flipping::activate,
    },
    Part {
        name: "flip",
        about: "the kernel's part of a flip",
        when: When::Always,
        run: flipping::kernel_part,
    },
    Part {
        name: "seal",
        about: "cp and seal, and deploy, beside a durable cp",
        when: When::Always,
        run: publishing::seal,
    },
    Part {
        name: "again",
        about: "deploying an unchanged folder again",
        when: When::Always,
        run: publishing::again,
    },
    Part {
        name: "touch",
        about: "the first touch of all files after a flip, and after a rollback",
        when: When::Always,
        run: flipping::first_touch,
    },
    Part {
        name: "latency",
        about: "requests while the site flips",
        when: When::Always,
        run: flipping::latency,
    },
    Part {
        name: "cold",
        about: "reading all files with nothing cached",
        when: When::Always,
        run: cold::files,
    },
    Part {
        name: "others",
        about: "warm requests through nginx, beside bindfs and squashfuse",
        when: When::Always,
        run: serving::others,
    },
    Part {
        name: "versions",
        about: "deploy beside ostree, restic, borg and casync",
        when: When::Always,
        run: publishing::keepers,
    },
    Part {
        name: "gc",
        about: "what a gc makes a seal wait for",
        when: When::Full,
        run: collecting::seals,
    },
    Part {
        name: "seal-rented",
        about: "row seal on a disk of 250 MB/s",
        when: When::Full,
        run: publishing::seal_on_a_rented_disk,
    },
    Part {
        name: "large",
        about: "reading a large file, cold and warm",
        when: When::Full,
        run: cold::large,
    },
    Part {
        name: "real",
        about: "what real sites take in the store",
        when: When::Full,
        run: publishing::real,
    },
    Part {
        name: "scale-files",
        about: "a deploy of a million files (takes minutes)",
        when: When::Asked,
        run: scale::files,
    },
    Part {
        name: "scale-deploys",
        about: "a thousand deploys that differ a little (takes minutes)",
        when: When::Asked,
        run: scale::deploys,
    },
    Part {
        name: "bounds-history",
        about: "memory and time with a million records (takes a minute)",
        when: When::Asked,
        run: bounds::history,
    },
    Part {
        name: "bounds-deploys",
        about: "memory and time with twenty thousand deploys (takes a minute)",
        when: When::Asked,
        run: bounds::deploys,
    },
    Part {
        name: "bounds-names",
        about: "memory of a seal of a million names (takes minutes)",
        when: When::Asked,
        run: bounds::names,
    },
];

/// A run: its folder, its data, and the rows so far.
pub struct Run {
    /// Whether it must end soon.
    pub quick: bool,
    folder: PathBuf,
    folders: Option<(PathBuf, PathBuf)>,
    data: Option<Rc<Data>>,
    bed: Option<Rc<Bed>>,
    rows: Vec<Row>,
    left_out: Vec<String>,
}

impl Run {
    /// A path for something to be made.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The site in two versions, made when first asked for.
    pub fn data(&mut self) -> Rc<Data> {
        if self.data.is_none() {
            let data = match &self.folders {
                Some((site, next)) => Data::of(site.clone(), next.clone()),
                None => {
                    let files = if self.quick { QUICK_FILES } else { FILES };
                    Data::make(&self.path("data"), files)
                }
            };
            self.data = Some(Rc::new(data.expect("the data can be made and read")));
            bed::settle();
        }
        self.data.clone().expect("just made")
    }

    /// The site sealed and live, made when first asked for.
    pub fn bed(&mut self) -> Rc<Bed> {
        if self.bed.is_none() {
            let data = self.data();
            self.bed = Some(Rc::new(Bed::new(&data)));
            bed::settle();
        }
        self.bed.clone().expect("just made")
    }

    /// A number of things of which a quick run has a tenth.
    pub fn scaled(&self, count: usize) -> usize {
        if self.quick { count / 10 } else { count }
    }

    /// Adds a row, and prints it.
    pub fn add(&mut self, row: Row) {
        report::print_row(&row);
        self.rows.push(row);
    }

    /// Remembers what was not measured, and why.
    pub fn leave_out(&mut self, what: String) {
        eprintln!("left out: {what}");
        self.left_out.push(what);
    }

    /// Whether these commands are installed; says what is left out where they are not.
    pub fn has(&mut self, commands: &[&str]) -> bool {
        for command in commands {
            if !is_there(command) {
                self.leave_out(format!("what needs {command}, which is not installed"));
                return false;
            }
        }
        true
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for part in &PARTS {
            println!("{:12} {}", part.name, part.about);
        }
        return ExitCode::SUCCESS;
    }
    for name in &args.only {
        if PARTS.iter().all(|part| part.name != name) {
            eprintln!("there is no row '{name}': --list names them");
            return ExitCode::from(2);
        }
    }
    if let Some(folder) = &args.folder {
        measure(&args, folder);
        return ExitCode::SUCCESS;
    }
    let dir = args.dir.clone().unwrap_or_else(default_dir);
    match arena::run_in(&dir) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cannot work in '{}': {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args, folder: &Path) {
    support::need_fuse();
    let machine = Machine::look(folder);
    println!("{}\n{}\n", machine.line(), machine.tools());
    let mut run = Run {
        quick: args.quick,
        folder: folder.to_owned(),
        folders: args.site.clone().zip(args.next.clone()),
        data: None,
        bed: None,
        rows: Vec::new(),
        left_out: Vec::new(),
    };
    report::print_head();
    let began = Instant::now();
    for part in &PARTS {
        let asked = args.only.iter().any(|name| name == part.name);
        let wanted = match part.when {
            When::Always => args.only.is_empty() || asked,
            When::Full => (args.only.is_empty() && !args.quick) || asked,
            When::Asked => asked,
        };
        let late = args.quick && !asked && began.elapsed().as_secs() >= QUICK_SECONDS;
        if wanted && !late {
            let started = Instant::now();
            (part.run)(&mut run);
            eprintln!(
                "    {}: {:.0} s",
                part.name,
                started.elapsed().as_secs_f64()
            );
        } else if args.only.is_empty() {
            let why = if wanted { ", no time left" } else { "" };
            run.left_out
                .push(format!("{} ({}{why})", part.name, part.about));
        }
    }
    if !run.left_out.is_empty() {
        println!("\nleft out: {}", run.left_out.join("; "));
    }
    let report = Report {
        arguments: std::env::args().skip(1).collect(),
        machine,
        rows: run.rows.split_off(0),
        left_out: run.left_out.split_off(0),
    };
    report.write(&args.json).expect("the results are written");
    eprintln!("results: {}", args.json.display());
}

/// The build folder: on a real disk, and never in version control.
pub fn default_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}
