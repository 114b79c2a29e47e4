//! Rows 7, 8 and 9: making a deploy, beside copying the folder and beside the programs that keep versions of folders.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Run;
use crate::bed::{copy, settle, time, time_command};
use crate::data::{Data, list};
use crate::limited::LimitedDisk;
use crate::machine::is_there;
use crate::report::{Limit, Pair, Row, pairs};
use crate::support::{DEPLOYFS, Site, text};

fn deployfs(site: &Site, args: &[&str]) -> f64 {
    let mut command = Command::new(DEPLOYFS);
    command.args(args).env("DEPLOYFS_STORE", &site.store);
    time_command(&mut command)
}

/// Copies a folder and makes the copy durable; seconds.
fn copy_durably(from: &Path, to: &Path) -> f64 {
    time(|| {
        copy(from, to);
        time_command(Command::new("sync").arg("-f").arg(to));
    })
}

/// Row 7.
pub fn seal(run: &mut Run) {
    let mut timings = Timings::default();
    let data = run.data();
    for round in 0..if run.quick { 2 } else { 9 } {
        // A new store each time: what it has already would be free. A daemon runs, as it does where people stage folders:
        // it removes the staged copy after the answer.
        let sites = [Site::new(), Site::new()];
        timings.measure(&data, &run.path(&format!("copy-{round}")), &sites);
    }
    timings.add_rows(run, "seal", "");
}

/// Bytes per second of a disk that one rents: twice what AWS gives a general purpose volume (gp3) unless more is paid for.
const RENTED: u64 = 250_000_000;

/// Row 7 once more, where the disk is not faster than both processors compress.
pub fn seal_on_a_rented_disk(run: &mut Run) {
    let mut timings = Timings::default();
    let data = run.data();
    let mebibytes = 1024 + (data.bytes >> 20) * 8;
    for _ in 0..5 {
        let disk = match LimitedDisk::new(mebibytes, RENTED) {
            Ok(disk) => disk,
            Err(why) => {
                return run.leave_out(format!("seal-rented: no disk can be limited: {why}"));
            }
        };
        let site = |name: &str| {
            let folder = disk.path().join(name);
            fs::create_dir(&folder).expect("a new folder");
            let site = Site::unmounted_on(&folder);
            site.mount(&[]);
            site
        };
        let sites = [site("staged"), site("direct")];
        timings.measure(&data, &disk.path().join("copy"), &sites);
    }
    timings.add_rows(run, "seal-rented", ", at 250 MB/s");
}

/// Seconds of publishing the two versions.
#[derive(Default)]
struct Timings {
    staged: [Vec<f64>; 2],
    direct: [Vec<f64>; 2],
    plain: [Vec<f64>; 2],
}

impl Timings {
    /// Publishes both versions, one after the other: to a plain folder, by staging in one store, and directly in another.
    fn measure(&mut self, data: &Data, plain: &Path, [staged, direct]: &[Site; 2]) {
        for (number, folder) in [&data.site, &data.next].into_iter().enumerate() {
            let copy = plain.with_extension(number.to_string());
            settle();
            self.plain[number].push(copy_durably(folder, &copy));
            let name = format!("v{number}");
            let staging = staged.ok(["create", &name]);
            settle();
            self.staged[number].push(time(|| {
                // Into the folder that is there.
                let from = folder.join(".");
                time_command(Command::new("cp").args(["-r", text(&from), &staging]));
                deployfs(staged, &["seal", &name]);
            }));
            settle();
            self.direct[number].push(deployfs(direct, &["deploy", text(folder)]));
        }
    }

    fn add_rows(&self, run: &mut Run, row: &'static str, place: &str) {
        let versions = ["first version", "next version, 1 % changed"];
        for (number, version) in versions.iter().enumerate() {
            let mut add = |ours: &[f64], what: &str, most: f64| {
                let both = ours.iter().copied().zip(self.plain[number].iter().copied());
                let measured: Vec<Pair> = both.collect();
                let what = format!("{what} / cp -r and syncfs, {version}{place}");
                run.add(Row::ratio(row, what, "s", &measured, Limit::AtMost(most)));
            };
            add(&self.staged[number], "cp -r and seal", 1.3);
            add(&self.direct[number], "deploy DIR", 0.9);
        }
    }
}

/// Row 9.
pub fn again(run: &mut Run) {
    let count = if run.quick { 2 } else { 7 };
    let data = run.data();
    let folder = run.path("again");
    copy(&data.site, &folder);
    settle();
    let mut few = Vec::new();
    let mut same = Vec::new();
    for round in 0..count {
        let site = Site::new();
        settle();
        let first = deployfs(&site, &["deploy", text(&folder)]);
        settle();
        same.push((deployfs(&site, &["deploy", text(&folder)]), first));
        data.patch(&folder, 100 + round).expect("a patch");
        settle();
        few.push((deployfs(&site, &["deploy", text(&folder)]), first));
    }
    let what = "deploy DIR again, nothing changed / the first time";
    run.add(Row::ratio("again", what, "s", &same, Limit::AtMost(0.1)));
    let what = "deploy DIR again, 1 % changed in place / the first time";
    run.add(Row::ratio("again", what, "s", &few, Limit::AtMost(0.1)));
}

/// A program that keeps versions of folders.
struct Keeper {
    name: &'static str,
    limit: f64,
    /// The shell command that makes its store in `$S`.
    init: &'static str,
    /// The shell command that keeps `$D` as version `$V`.
    keep: &'static str,
}

const KEEPERS: [Keeper; 4] = [
    Keeper {
        name: "ostree",
        limit: 0.5,
        init: "ostree --repo=$S init --mode=bare",
        keep: "ostree --repo=$S commit -b site -s $V --tree=dir=$D",
    },
    Keeper {
        name: "restic",
        limit: 0.5,
        init: "restic -r $S init",
        keep: "restic -r $S backup --quiet $D",
    },
    Keeper {
        name: "borg",
        limit: 0.6,
        init: "borg init -e none $S",
        keep: "cd $D && borg create $S::$V .",
    },
    Keeper {
        name: "casync",
        limit: 0.4,
        init: "mkdir $S",
        keep: "casync make --store=$S/store $S/$V.caidx $D",
    },
];

impl Keeper {
    fn run(&self, command: &str, store: &Path, version: &str, folder: &Path) -> f64 {
        let home = store.with_extension("home");
        time_command(
            Command::new("sh")
                .args(["-c", command])
                .env("S", store)
                .env("V", version)
                .env("D", folder)
                .env("HOME", &home)
                .env("RESTIC_PASSWORD", "bench")
                .env("RESTIC_CACHE_DIR", home.join("restic"))
                .env("BORG_BASE_DIR", &home)
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
        )
    }
}

/// Two versions kept: seconds and bytes on disk of each.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    seconds: [f64; 2],
    bytes: [u64; 2],
}

impl Kept {
    fn of(store: &Path, versions: [&Path; 2], mut keep: impl FnMut(&str, &Path) -> f64) -> Self {
        let mut kept = Kept::default();
        for (number, folder) in versions.iter().enumerate() {
            settle();
            let before = disk_bytes(store);
            kept.seconds[number] = keep(&format!("v{number}"), folder);
            settle();
            kept.bytes[number] = disk_bytes(store) - before;
        }
        kept
    }

    fn total(&self) -> f64 {
        (self.bytes[0] + self.bytes[1]) as f64 / 1e6
    }
}

/// What a folder takes on the disk, blocks of folders and files together.
fn disk_bytes(dir: &Path) -> u64 {
    let own = fs::symlink_metadata(dir).map_or(0, |meta| meta.blocks() * 512);
    let Ok(entries) = fs::read_dir(dir) else {
        return own;
    };
    // What vanishes meanwhile takes nothing.
    own + entries
        .flatten()
        .map(|entry| disk_bytes(&entry.path()))
        .sum::<u64>()
}

fn keep_ours(versions: [&Path; 2]) -> Kept {
    let site = Site::new();
    Kept::of(&site.store, versions, |_, folder| {
        deployfs(&site, &["deploy", text(folder)])
    })
}

fn keep_theirs(store: &Path, keeper: &Keeper, versions: [&Path; 2]) -> Kept {
    fs::create_dir(store.with_extension("home")).expect("a new folder");
    keeper.run(keeper.init, store, "", versions[0]);
    Kept::of(store, versions, |version, folder| {
        keeper.run(keeper.keep, store, version, folder)
    })
}

/// Row 8, made data.
pub fn keepers(run: &mut Run) {
    let count = if run.quick { 1 } else { 5 };
    let data = run.data();
    let versions = [data.site.as_path(), data.next.as_path()];
    let mut added = Vec::new();
    for keeper in &KEEPERS {
        if !is_there(keeper.name) {
            run.leave_out(format!("versions: {} is not installed", keeper.name));
            continue;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        pairs(
            count,
            || {
                ours.push(keep_ours(versions));
                0.0
            },
            || {
                let store = run.path(&format!("{}-{}", keeper.name, theirs.len()));
                theirs.push(keep_theirs(&store, keeper, versions));
                0.0
            },
        );
        for (number, version) in ["first version", "next version, 1 % changed"]
            .iter()
            .enumerate()
        {
            let both = ours.iter().zip(&theirs);
            let seconds: Vec<Pair> = both
                .map(|(a, b)| (a.seconds[number], b.seconds[number]))
                .collect();
            let what = format!("deploy DIR / {}, {version}", keeper.name);
            run.add(Row::ratio(
                "versions",
                what,
                "s",
                &seconds,
                Limit::AtMost(keeper.limit),
            ));
        }
        let bytes = |kept: &Kept| kept.bytes[1] as f64 / 1e6;
        let both: Vec<Pair> = ours
            .iter()
            .map(bytes)
            .zip(theirs.iter().map(bytes))
            .collect();
        let what = format!("bytes added by the next version / {}", keeper.name);
        run.add(
            Row::ratio("versions", what, "MB", &both, Limit::AtMost(1.0)).note(format!(
                "the store with both: {:.1} MB, theirs {:.1}",
                ours[0].total(),
                theirs[0].total()
            )),
        );
        added.extend(
            ours.iter()
                .map(|kept| kept.bytes[1] as f64 * 100.0 / data.bytes as f64),
        );
    }
    if !added.is_empty() {
        let what = "bytes added by the next version, of the site's bytes";
        run.add(Row::value(
            "versions",
            what,
            "%",
            &added,
            Limit::AtMost(1.3),
        ));
    }
}

/// Real sites: both versions of Debian's documentation packages.
const PACKAGES: [&str; 3] = ["postgresql-doc-15", "python3.11-doc", "openjdk-17-doc"];

/// Row 8, real data.
pub fn real(run: &mut Run) {
    for package in PACKAGES {
        let [site, next] = match unpacked(package) {
            Ok(folders) => folders,
            Err(why) => {
                run.leave_out(format!("real: {package}: {why}"));
                continue;
            }
        };
        let data = Data::of(site, next).expect("the packages' files can be read");
        let versions = [data.site.as_path(), data.next.as_path()];
        // Read once, so that the first to be measured does not pay for the disk.
        list(&data.next).expect("the next version");
        let ours = keep_ours(versions);
        let about = format!(
            "{} files, {} MB, {} % changed",
            data.files.len(),
            data.bytes / 1_000_000,
            data.changed.len() * 100 / data.files.len()
        );
        for keeper in KEEPERS.iter().filter(|keeper| is_there(keeper.name)) {
            let store = run.path(&format!("{}-{package}", keeper.name));
            let theirs = keep_theirs(&store, keeper, versions);
            let limit = match keeper.name {
                "restic" => Limit::AtMost(0.5),
                "casync" => Limit::AtMost(1.0),
                _ => Limit::None,
            };
            let what = format!("stored size, both versions of {package} / {}", keeper.name);
            run.add(
                Row::ratio("real", what, "MB", &[(ours.total(), theirs.total())], limit).note(
                    format!(
                        "{about}; seconds first and next: {:.2} {:.2}, theirs {:.2} {:.2}",
                        ours.seconds[0], ours.seconds[1], theirs.seconds[0], theirs.seconds[1]
                    ),
                ),
            );
        }
    }
}

/// Both versions of a package's documentation, downloaded once.
fn unpacked(package: &str) -> Result<[PathBuf; 2], String> {
    let cache = crate::default_dir().join("bench-data");
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let madison = shell(&cache, &format!("apt-cache madison {package}"))?;
    let mut versions: Vec<&str> = madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .collect();
    versions.dedup();
    versions.reverse();
    let [before, .., now] = versions[..] else {
        return Err(format!(
            "the package sources have {} versions, not two",
            versions.len()
        ));
    };
    let unpack = |version: &str| -> Result<PathBuf, String> {
        let folder = cache.join(format!("{package}_{}", version.replace([':', '~'], "-")));
        let root = folder.join("usr/share/doc");
        if !root.is_dir() {
            let script = format!(
                "apt-get download -qq {package}={version} && mkdir -p {folder} && \
                 dpkg-deb -x {package}_*.deb {folder} && rm {package}_*.deb",
                folder = folder.display()
            );
            shell(&cache, &script)?;
            remove_links(&root).map_err(|error| error.to_string())?;
        }
        Ok(root)
    };
    Ok([unpack(before)?, unpack(now)?])
}

/// The packages link to other packages' files, which no deploy may.
fn remove_links(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            remove_links(&entry.path())?;
        } else if kind.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn shell(dir: &Path, command: &str) -> Result<String, String> {
    let out = Command::new("sh")
        .args(["-c", command])
        .current_dir(dir)
        .output();
    let out = out.map_err(|error| error.to_string())?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
    }
}
