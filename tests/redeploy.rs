//! Deploying a folder again reads only what has changed, and never misses a change.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::*;

/// A folder of 300 files that has lain there long enough to be remembered.
fn settled_folder(site: &Site) -> PathBuf {
    let folder = site.beside("build");
    for number in 0..300 {
        let path = format!("d{}/f{number}", number % 7);
        write_files(&folder, &[(&path, &format!("content of {number}"))]);
    }
    write_noise(&folder.join("large"), 1, 20 << 20);
    settle();
    folder
}

/// Waits until files that were just written are older than a tick of the clock that stamps them.
fn settle() {
    std::thread::sleep(Duration::from_millis(60));
}

/// The lines of a trace in which a regular file below the folder is opened.
fn opens<'a>(trace: &'a str, folder: &Path) -> impl Iterator<Item = &'a str> {
    let below = format!("<{}", folder.display());
    trace.lines().filter(move |line| {
        line.contains("openat2(") && line.contains(&below) && !line.contains("O_DIRECTORY")
    })
}

/// The regular files below the folder that a `deploy` opens.
fn files_opened(site: &Site, folder: &Path) -> (String, Vec<String>) {
    let trace = site.beside("trace");
    let id = sh(&format!(
        "strace -f -y -e trace=openat2 -o {} {DEPLOYFS} --store {} deploy {}",
        trace.display(),
        site.store.display(),
        folder.display()
    ));
    let trace = fs::read_to_string(trace).unwrap();
    let opened = opens(&trace, folder)
        .map(|line| line.split('"').nth(1).unwrap().to_owned())
        .collect();
    (id, opened)
}

#[test]
fn an_unchanged_folder_is_not_read_again_and_a_changed_file_is() {
    let site = Site::unmounted();
    let folder = settled_folder(&site);
    let (first, opened) = files_opened(&site, &folder);
    assert!(opened.len() >= 301, "{}", opened.len());
    assert_eq!(files_opened(&site, &folder), (first.clone(), vec![]));
    fs::write(folder.join("d3/f3"), "content of 4").unwrap();
    let (second, opened) = files_opened(&site, &folder);
    assert_eq!(opened, ["d3/f3"]);
    assert_ne!(second, first);
    site.mount(&[]);
    let deploy = site.path(&format!("deploys/{second}"));
    assert_eq!(contents(&deploy), contents(&folder));
    assert_eq!(
        fs::read_to_string(deploy.join("d3/f3")).unwrap(),
        "content of 4"
    );
}

#[test]
fn a_change_that_keeps_size_and_mtime_is_seen() {
    let site = Site::new();
    let folder = settled_folder(&site);
    let path = folder.join("d3/f3");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    site.deploy(&folder);
    fs::write(&path, "content OF 3").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_times(FileTimes::new().set_modified(before))
        .unwrap();
    drop(file);
    let id = site.deploy(&folder);
    let sealed = fs::read_to_string(site.path(&format!("deploys/{id}/d3/f3"))).unwrap();
    assert_eq!(sealed, "content OF 3");
}

#[test]
fn files_written_at_the_moment_of_the_deploy_are_never_taken_for_unchanged() {
    let site = Site::new();
    let folder = site.beside("build");
    // Same size, again and again, as fast as it goes: within one tick of the clock only the content differs.
    for number in 1000..1060 {
        write_files(&folder, &[("a", &number.to_string())]);
        let id = site.deploy(&folder);
        let sealed = fs::read_to_string(site.path(&format!("deploys/{id}/a"))).unwrap();
        assert_eq!(sealed, number.to_string());
    }
}

#[test]
fn renamed_replaced_and_swapped_files_are_told_apart() {
    let site = Site::new();
    let folder = settled_folder(&site);
    site.deploy(&folder);
    fs::rename(folder.join("d1/f1"), folder.join("d1/renamed")).unwrap();
    fs::rename(folder.join("d2/f2"), folder.join("swap")).unwrap();
    fs::rename(folder.join("d2/f9"), folder.join("d2/f2")).unwrap();
    fs::rename(folder.join("swap"), folder.join("d2/f9")).unwrap();
    fs::remove_file(folder.join("d4/f4")).unwrap();
    fs::hard_link(folder.join("d5/f5"), folder.join("d4/f4")).unwrap();
    let id = site.deploy(&folder);
    assert_eq!(
        contents(&site.path(&format!("deploys/{id}"))),
        contents(&folder)
    );
}

#[test]
fn a_lost_or_damaged_memory_costs_time_only() {
    let site = Site::unmounted();
    let folder = settled_folder(&site);
    let id = site.deploy(&folder);
    let memory = site.store.join("cache/read-0");
    assert!(memory.exists());
    let bytes = fs::read(&memory).unwrap();
    fs::write(&memory, &bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(files_opened(&site, &folder).1.len(), 301);
    fs::remove_dir_all(site.store.join("cache")).unwrap();
    assert_eq!(site.deploy(&folder), id);
    site.mount(&[]);
    assert_eq!(site.deploy(&folder), id);
    assert!(memory.exists(), "it is made again");
}

#[test]
fn what_is_remembered_but_no_more_in_the_store_is_read_again() {
    let site = Site::unmounted();
    let folder = settled_folder(&site);
    let id = site.deploy(&folder);
    let damaged: Vec<PathBuf> = fs::read_dir(site.store.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for pack in &damaged {
        fs::remove_file(pack).unwrap();
    }
    assert_eq!(site.run(["fsck"]).status.code(), Some(1));
    let now = SystemTime::now();
    let added = folder.join("new");
    fs::write(&added, "new").unwrap();
    File::options()
        .write(true)
        .open(&added)
        .unwrap()
        .set_modified(now)
        .unwrap();
    let second = site.deploy(&folder);
    assert_ne!(second, id);
    let check = site.run(["verify", &second]);
    assert!(check.status.success(), "{}", stdout(&check));
}

/// A loop device whose image is written anew: what is mounted next has the same device number.
struct LoopImage {
    image: PathBuf,
    device: String,
}

impl LoopImage {
    fn new(site: &Site) -> Self {
        let image = site.beside("image");
        sh(&format!("truncate -s 8M {}", image.display()));
        LoopImage {
            device: sh(&format!("losetup -f --show {}", image.display())),
            image,
        }
    }

    /// Mounts an image of this folder that was made with fixed dates, ids and seeds.
    fn mount(&self, make: &str, folder: &Path, options: &str, at: &Path) -> Mounted {
        fs::create_dir_all(at).unwrap();
        let new = self.image.with_extension("new");
        fs::remove_file(&new).ok();
        sh(&format!(
            "export SOURCE_DATE_EPOCH=1600000000 E2FSPROGS_FAKE_TIME=1600000000
             folder={} new={}; {make}; truncate -s 8M $new
             dd if=$new of={} conv=notrunc status=none; blockdev --flushbufs {device}
             mount -o {options} {device} {}",
            folder.display(),
            new.display(),
            self.image.display(),
            at.display(),
            device = self.device
        ));
        Mounted(at.to_owned())
    }
}

impl Drop for LoopImage {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["-d", &self.device])
            .output();
    }
}

const SQUASHFS: &str = "mksquashfs $folder $new -quiet -no-progress -noappend";
/// mke2fs takes the ctimes of its files over from the folder; a build with fixed dates has fixed those too.
const EXT4: &str = "truncate -s 8M $new; mke2fs -q -b 4096 -t ext4 -d $folder -E root_owner=0:0,hash_seed=01234567-89ab-cdef-0123-456789abcdef \
    -U 01234567-89ab-cdef-0123-456789abcdef $new
    for file in / /index.html /sub /sub/page.html; do for field in ctime ctime_extra; do echo \"sif $file $field 0x5f5e1000\"; done; done |
    debugfs -w -f - $new > $new.said 2>&1";

/// Two folders that differ in nothing but the bytes of their files.
fn twins(site: &Site) -> [PathBuf; 2] {
    ["old", "new"].map(|word| {
        let folder = site.beside(word);
        write_files(&folder, &[("index.html", word), ("sub/page.html", word)]);
        sh(&format!(
            "find {} -exec touch -h -d @1500000000 {{}} +",
            folder.display()
        ));
        folder
    })
}

#[test]
fn images_with_the_same_dates_mounted_one_after_the_other_are_read_each_time() {
    for (make, options) in [(SQUASHFS, "ro"), (EXT4, "ro"), (EXT4, "rw")] {
        for mounted in [true, false] {
            let site = if mounted {
                Site::new()
            } else {
                Site::unmounted()
            };
            let disk = LoopImage::new(&site);
            let mut facts = Vec::new();
            for folder in twins(&site) {
                let at = disk.mount(make, &folder, options, &site.beside("build"));
                use std::os::unix::fs::MetadataExt;
                let meta = fs::metadata(at.0.join("index.html")).unwrap();
                facts.push((
                    meta.dev(),
                    meta.ino(),
                    meta.len(),
                    meta.mtime(),
                    meta.ctime(),
                ));
                let id = site.ok(["deploy", text(&at.0)]);
                assert_eq!(
                    id,
                    site.ok(["deploy", "--no-cache", text(&at.0)]),
                    "{make} {options}"
                );
                site.ok(["activate", &id]);
            }
            assert_eq!(
                facts[0], facts[1],
                "{make}: the images differ in nothing that stat tells"
            );
            let changed = site.json(["diff", "previous", "live"]);
            assert_eq!(changed.as_array().unwrap().len(), 2, "{changed}");
        }
    }
}

#[test]
fn an_overlay_over_such_images_is_read_each_time() {
    for make in [SQUASHFS, EXT4] {
        let site = Site::new();
        let disk = LoopImage::new(&site);
        let ids = twins(&site).map(|folder| {
            let lower = disk.mount(make, &folder, "ro", &site.beside("lower"));
            let upper = Mounted::tmpfs(&site.beside("upper"));
            let at = site.beside("merged");
            fs::create_dir_all(&at).unwrap();
            sh(&format!(
                "cd {}; mkdir up work; mount -t overlay overlay -o lowerdir={},upperdir=up,workdir=work {}",
                upper.0.display(),
                lower.0.display(),
                at.display()
            ));
            let merged = Mounted(at);
            let id = site.deploy(&merged.0);
            drop((merged, upper, lower));
            id
        });
        assert_ne!(ids[0], ids[1], "{make}");
    }
}

#[test]
fn no_cache_reads_every_file() {
    let site = Site::unmounted();
    let folder = settled_folder(&site);
    let id = site.deploy(&folder);
    assert_eq!(files_opened(&site, &folder).1, [""; 0]);
    let trace = site.beside("trace");
    let again = sh(&format!(
        "strace -f -y -e trace=openat2 -o {} {DEPLOYFS} --store {} deploy --no-cache {}",
        trace.display(),
        site.store.display(),
        folder.display()
    ));
    assert_eq!(again, id);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(opens(&trace, &folder).count() >= 301);
}

#[test]
fn an_image_mounted_again_is_another_superblock_and_loop_devices_and_memory_are_not_trusted() {
    use deployfs::deploy::superblock::{Superblock, sysfs_inode};
    let site = Site::without_a_store();
    let disk = LoopImage::new(&site);
    let [folder, _] = twins(&site);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let at = disk.mount(EXT4, &folder, "rw", &site.beside("build"));
        let dir = File::open(&at.0).unwrap();
        let stat = rustix::fs::fstat(&dir).unwrap();
        let device = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        let number = sysfs_inode("ext4", device).expect("sysfs shows what is mounted");
        assert_eq!(sysfs_inode("ext4", device), Some(number));
        assert!(!seen.contains(&number), "{number} in {seen:?}");
        seen.push(number);
        assert_eq!(Superblock::of(&dir), None);
    }
    for path in ["/proc", "/dev/shm"] {
        assert_eq!(Superblock::of(File::open(path).unwrap()), None);
    }
}
