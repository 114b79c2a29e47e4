//! P2: nothing in the mount can be changed by anybody, and every refusal is the one that a read-only ext4 gives.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use calls::{CALLS, Call, Outcome, PAIR_CALLS, PairCall};
use rustix::io::Errno;

use crate::support::*;

/// Calls that ext4 does not know on every kernel (before Linux 5.17): refused here all the same.
const LATER_ON_EXT4: &[&str] = &["ioctl FS_IOC_SETFSLABEL"];
/// Calls that may succeed, since they only open a file that exists for reading.
const HARMLESS: &[&str] = &["open O_RDONLY|O_CREAT"];
/// Calls that a writable superblock lets through to the file; a write to it is refused then.
const ONLY_OPEN: &[&str] = &[
    "open O_WRONLY",
    "open O_RDWR",
    "open O_WRONLY|O_APPEND",
    "open O_WRONLY|O_NOFOLLOW",
    "open O_WRONLY|O_DIRECT",
    "open O_WRONLY|O_CREAT",
    "open O_RDONLY|O_CREAT",
    "open O_RDWR of /proc/thread-self/fd/N",
    "open_by_handle_at O_RDWR",
];
/// Calls on a symlink itself, never on what it leads to.
const OF_A_LINK: &[&str] = &[
    "open O_RDWR|O_CREAT|O_EXCL",
    "mkdir",
    "mknod fifo",
    "symlink",
    "unlink",
    "rmdir",
    "fchmodat2 AT_SYMLINK_NOFOLLOW",
    "lchown",
    "utimensat AT_SYMLINK_NOFOLLOW now",
    "utimensat AT_SYMLINK_NOFOLLOW",
    "lsetxattr user.",
    "lsetxattr trusted.",
    "lremovexattr trusted.",
];

/// What stands in the deploy: each kind of entry, in its root and below.
const THERE: &[&str] = &[
    "page.html",
    "css",
    "css/site.css",
    "empty",
    "empty-file",
    "big.bin",
    "tool",
    "private",
    "home",
    "styles",
    "styles/site.css",
    "nowhere",
];
const NOT_THERE: &[&str] = &["new", "css/new", "styles/new", "page.html/new", "no/such"];

/// A mounted site, and a read-only ext4 with the same in it.
struct Twins {
    site: Site,
    disk: Disk,
    id: String,
    /// A folder on another filesystem that everybody may write.
    outside: PathBuf,
    before: [BTreeMap<Vec<u8>, Fact>; 2],
}

impl Twins {
    fn new() -> Self {
        let site = Site::new();
        let build = site.beside("build");
        write_files(
            &build,
            &[
                ("page.html", "a page"),
                ("css/site.css", "body {}"),
                ("empty/", ""),
                ("empty-file", ""),
                ("tool", "#!/bin/sh"),
                ("private", "for the owner only"),
                ("home@", "page.html"),
                ("styles@", "css"),
                ("nowhere@", "gone.html"),
            ],
        );
        fs::write(build.join("big.bin"), noise(1, 3 << 20)).unwrap();
        for (name, mode) in [("tool", 0o755), ("private", 0o600)] {
            fs::set_permissions(build.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let id = site.deploy(&build);
        site.activate(&id);
        let outside = site.beside("outside");
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
        write_files(&outside, &[("file", "a file"), ("dir/", "")]);
        let disk = Disk::new(32);
        sh(&format!(
            "cp -a {}/. {}",
            site.mnt.display(),
            disk.path.display()
        ));
        disk.remount("ro");
        let before = [facts(&site.mnt), facts(&outside)];
        Twins {
            site,
            disk,
            id,
            outside,
            before,
        }
    }

    /// Paths in a deploy, there and not there.
    fn deploy_paths(&self) -> Vec<String> {
        let long = ["x".repeat(255), "x".repeat(256)];
        let names = THERE.iter().chain(NOT_THERE).map(|name| name.to_string());
        [".".to_owned()]
            .into_iter()
            .chain(names)
            .chain(long)
            .collect()
    }

    /// Paths from the root of either filesystem. Not `staging`: that leads out, to what may be written.
    fn all_paths(&self) -> Vec<String> {
        let mut paths = [".", "new", "live", "deploys", "deploys/new"]
            .map(String::from)
            .to_vec();
        for view in ["live".to_owned(), format!("deploys/{}", self.id)] {
            paths.push(view.clone());
            paths.extend(
                self.deploy_paths()
                    .iter()
                    .map(|path| format!("{view}/{path}")),
            );
        }
        paths
    }

    fn check_nothing_changed(&self) {
        assert_eq!(facts(&self.site.mnt), self.before[0]);
        assert_eq!(facts(&self.outside), self.before[1]);
        self.site.ok(["fsck", "--read-data"]);
    }
}

/// Runs calls on both filesystems and gathers what is not as it should be.
#[derive(Default)]
struct Comparison {
    wrong: Vec<String>,
    refusals: BTreeMap<String, usize>,
}

impl Comparison {
    fn compare(&mut self, name: &str, on: &str, ours: Outcome, ext4: Outcome) {
        if ours.is_ok() && !HARMLESS.contains(&name) {
            self.wrong.push(format!("{name} on '{on}' is allowed"));
        }
        let unknown_to_ext4 = LATER_ON_EXT4.contains(&name) && ext4 == Err(Errno::NOTTY);
        if ours != ext4 && !unknown_to_ext4 {
            self.wrong
                .push(format!("{name} on '{on}': {ours:?}, on ext4 {ext4:?}"));
        }
        if let Err(errno) = ours {
            *self.refusals.entry(format!("{errno:?}")).or_default() += 1;
        }
    }

    /// Every call on every path below both roots.
    fn run(&mut self, calls: &[Call], roots: [&Path; 2], paths: &[String]) {
        for (name, call) in calls {
            for path in paths {
                let [ours, ext4] = roots.map(|root| call(&root.join(path)));
                self.compare(name, path, ours, ext4);
            }
        }
    }

    /// Every call from every path to every path, and from and to a folder outside.
    fn run_pairs(
        &mut self,
        calls: &[PairCall],
        roots: [&Path; 2],
        paths: &[String],
        outside: &Path,
    ) {
        // Joining an absolute path leaves that path.
        let out = ["file", "dir", "new"].map(|name| text(&outside.join(name)).to_owned());
        for (name, call) in calls {
            let mut both = |from: &String, to: &String| {
                let [ours, ext4] = roots.map(|root| call(&root.join(from), &root.join(to)));
                self.compare(name, &format!("{from}' to '{to}"), ours, ext4);
            };
            for path in paths {
                paths.iter().chain(&out).for_each(|to| both(path, to));
                out.iter().for_each(|from| both(from, path));
            }
        }
    }

    fn check(&self, at_least: usize) {
        let wrong = &self.wrong;
        assert!(
            wrong.is_empty(),
            "{} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        let read_only = self
            .refusals
            .iter()
            .find(|(errno, _)| errno.contains("ReadOnly"));
        let count = read_only.map_or(0, |(_, count)| *count);
        assert!(count >= at_least, "{count} of {:?}", self.refusals);
    }
}

/// Both, as root and as another user.
fn compare_as_both_users(at_least: usize, work: impl Fn(&mut Comparison) + Sync) {
    let mut as_root = Comparison::default();
    work(&mut as_root);
    as_root.check(at_least);
    let mut as_other = Comparison::default();
    as_nobody(|| work(&mut as_other));
    as_other.check(at_least);
}

#[test]
fn p2_every_mutating_call_of_anybody_is_refused_as_on_a_read_only_ext4() {
    let twins = Twins::new();
    let roots = [&*twins.site.mnt, &*twins.disk.path];
    let paths = twins.all_paths();
    compare_as_both_users(3000, |comparison| {
        comparison.run(CALLS, roots, &paths);
        comparison.run_pairs(PAIR_CALLS, roots, &paths, &twins.outside);
    });
    twins.check_nothing_changed();
}

#[test]
fn p2_the_link_to_staging_cannot_be_changed() {
    let twins = Twins::new();
    let roots = [&*twins.site.mnt, &*twins.disk.path];
    let calls = CALLS.iter().filter(|(name, _)| OF_A_LINK.contains(name));
    let calls: Vec<Call> = calls.copied().collect();
    assert_eq!(calls.len(), OF_A_LINK.len());
    let paths = ["staging".to_owned()];
    compare_as_both_users(10, |comparison| {
        comparison.run(&calls, roots, &paths);
        comparison.run_pairs(&PAIR_CALLS[..5], roots, &paths, &twins.outside);
    });
    twins.check_nothing_changed();
}

#[test]
fn p2_a_retired_tree_and_a_bind_mount_are_as_immutable() {
    let twins = Twins::new();
    let handles =
        [&twins.site.mnt, &twins.disk.path].map(|root| fs::File::open(root.join("live")).unwrap());
    let bind = |name, root: &Path| Mounted::bind(&root.join("live"), &twins.site.beside(name));
    let binds = [
        bind("bind", &twins.site.mnt),
        bind("twin", &twins.disk.path),
    ];
    let next = twins.site.seal(&[("page.html", "the next page")]);
    twins.site.activate(&next);
    let paths = twins.deploy_paths();
    let retired = handles
        .each_ref()
        .map(|handle| PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())));
    for roots in [[&*retired[0], &*retired[1]], [&*binds[0].0, &*binds[1].0]] {
        compare_as_both_users(700, |comparison| {
            comparison.run(CALLS, roots, &paths);
            comparison.run_pairs(PAIR_CALLS, roots, &paths, &twins.outside);
        });
    }
    twins.site.activate(&twins.id);
    let same = |facts: BTreeMap<Vec<u8>, Fact>| {
        facts
            .into_iter()
            .filter(|(path, _)| path.starts_with(b"live/"))
    };
    assert!(same(facts(&twins.site.mnt)).eq(same(twins.before[0].clone())));
    twins.site.ok(["fsck", "--read-data"]);
}

#[test]
fn p2_a_private_mapping_is_written_to_without_changing_the_file() {
    let site = Site::live_with(&[("page.html", "a page")]);
    calls::write_private_mapping(&site.live("page.html"), b'!').unwrap();
    assert_eq!(site.read("page.html"), "a page");
}

#[test]
fn p2_a_superblock_remounted_writable_still_changes_nothing_and_is_reported() {
    let twins = Twins::new();
    let site = &twins.site;
    assert_eq!(site.json(["status"])["mount_read_only"], true);
    assert!(!site.ok(["status"]).contains("WARNING"));
    sh(&format!("mount -i -o remount,rw {}", site.mnt.display()));
    assert_eq!(site.json(["status"])["mount_read_only"], false);
    assert!(site.ok(["status"]).contains("WARNING"));

    let mut allowed = BTreeSet::new();
    let mut errnos = BTreeSet::new();
    for path in twins.all_paths() {
        for (name, call) in CALLS {
            match call(&site.path(&path)) {
                Ok(()) => allowed.extend([*name]),
                Err(errno) => errnos.extend([errno.raw_os_error()]),
            }
        }
    }
    assert_eq!(allowed, BTreeSet::from_iter(ONLY_OPEN.iter().copied()));
    assert!(errnos.contains(&libc::EROFS));
    let writes = |path: &str| fs::OpenOptions::new().write(true).open(site.path(path));
    for path in ["live/page.html", &format!("deploys/{}/big.bin", twins.id)] {
        use std::os::unix::fs::FileExt;
        let file = writes(path).unwrap();
        for (bytes, at) in [(&b"!"[..], 0), (&[b'!'; 8192][..], 0), (b"!", 1 << 20)] {
            let error = file.write_all_at(bytes, at).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path} at {at}");
        }
        assert_eq!(
            file.set_len(0).unwrap_err().raw_os_error(),
            Some(libc::EROFS)
        );
    }
    twins.check_nothing_changed();
    sh(&format!("mount -i -o remount,ro {}", site.mnt.display()));
    assert_eq!(site.json(["status"])["mount_read_only"], true);
}
