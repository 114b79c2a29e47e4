//! Where and when: kernel, cores, memory, disk, versions of what is compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// What is compared with, and how it tells its version.
const TOOLS: [(&str, &str); 9] = [
    ("nginx", "-v"),
    ("wrk", "-v"),
    ("bindfs", "--version"),
    ("squashfuse", "--help"),
    ("mksquashfs", "-version"),
    ("ostree", "--version"),
    ("restic", "version"),
    ("borg", "--version"),
    ("casync", "--version"),
];

/// The machine at the start of a run.
#[derive(Debug, Serialize)]
pub struct Machine {
    date: String,
    kernel: String,
    processor: String,
    cores: usize,
    memory_mib: u64,
    filesystem: String,
    deployfs: &'static str,
    load: String,
    /// Whether the kernel drops cached pages before memory is short (DAMON): then warm files are read again now and then.
    reclaims: bool,
    tools: Vec<String>,
}

impl Machine {
    /// Looks at this machine; `dir` is on the disk that is measured.
    pub fn look(dir: &Path) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mem = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let kib = field(&mem, "MemTotal").replace(" kB", "").parse();
        Machine {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            kernel: said("uname", &["-sr"]),
            processor: field(&cpu, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.map_or(0, |kib: u64| kib / 1024),
            filesystem: said("stat", &["-f", "-c", "%T", &dir.display().to_string()]),
            deployfs: env!("CARGO_PKG_VERSION"),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            reclaims: fs::read_to_string("/sys/module/damon_reclaim/parameters/enabled")
                .is_ok_and(|enabled| enabled.starts_with('Y')),
            tools: TOOLS
                .iter()
                .filter(|(tool, _)| is_there(tool))
                .map(|(tool, how)| version(tool, how))
                .collect(),
        }
    }

    /// What it is compared with.
    pub fn tools(&self) -> String {
        self.tools.join(", ")
    }

    /// One line for the head of the table.
    pub fn line(&self) -> String {
        format!(
            "deployfs {} on {}, {} cores ({}), {} MiB, {}, load {}; {}",
            self.deployfs,
            self.kernel,
            self.cores,
            self.processor,
            self.memory_mib,
            self.filesystem,
            self.load,
            self.date
        )
    }
}

/// Whether a command is installed.
pub fn is_there(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(command).exists())
}

fn version(tool: &str, how: &str) -> String {
    let text = said(tool, &[how]);
    let number = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = text.split_ascii_whitespace().find(number);
    let word = word.or(text.split_ascii_whitespace().nth(1)).unwrap_or("?");
    format!("{tool} {}", word.trim_matches(['\'', ',']))
}

/// What a command prints, on either output.
fn said(command: &str, args: &[&str]) -> String {
    match Command::new(command).args(args).output() {
        Ok(out) => {
            let text = [out.stdout, out.stderr].concat();
            String::from_utf8_lossy(&text).trim().to_owned()
        }
        Err(error) => format!("? ({error})"),
    }
}
