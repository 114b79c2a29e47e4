//! Row 4: reading with nothing cached, and a large file cold and warm.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::Run;
use crate::bed::{Bed, copy, drop_caches, read_all, read_through, settle, time};
use crate::report::{Limit, Row, pairs};
use crate::support::{Site, noise, wait_for};

const MIB: usize = 1 << 20;

/// Mounted anew, the index open, nothing cached: as after a restart of the machine.
fn cool(site: &Site) {
    site.umount();
    site.mount(&[]);
    wait_for("the index", || site.json(["status"])["index"] == "ready");
    drop_caches();
}

/// All files, one after the other.
pub fn files(run: &mut Run) {
    let count = if run.quick { 2 } else { 7 };
    let data = run.data();
    // A bed of its own: it is mounted anew, others have handles.
    let bed = Bed::new(&data);
    // Written in one go like the packs, so that neither side has an old, scattered folder to read.
    let plain = run.path("plain");
    copy(&data.site, &plain);
    settle();
    for (what, order) in [
        ("in the order of their names", &data.files),
        ("in random order", &bed.order),
    ] {
        let mut reads = 0;
        let measured = pairs(
            count,
            || {
                cool(&bed.site);
                let seconds = read_all(&bed.live(), order);
                reads = bed.site.upcalls()["read"];
                seconds
            },
            || {
                drop_caches();
                read_all(&plain, order)
            },
        );
        let what = format!("cold read of all files {what}: live / ext4");
        run.add(
            Row::ratio("cold", what, "s", &measured, Limit::AtMost(1.5))
                .note(format!("{} files, {reads} reads", order.len())),
        );
    }
}

/// One large file that does not compress.
pub fn large(run: &mut Run) {
    let (count, mib) = if run.quick { (3, 128) } else { (5, 1024) };
    let plain = run.path("large");
    let path = plain.join("large.bin");
    std::fs::create_dir(&plain).expect("a new folder");
    write_noise(&path, mib);
    let site = Site::new();
    site.activate(&site.deploy(&plain));
    settle();
    let live = site.live("large.bin");
    let rate = |path: &Path| {
        let mut buffer = vec![0; MIB];
        let seconds = time(|| {
            let length = read_through(path, &mut buffer).expect("the large file");
            assert_eq!(length, (mib * MIB) as u64);
        });
        mib as f64 / seconds
    };
    let mut reads = 0;
    let cold = pairs(
        count,
        || {
            cool(&site);
            let rate = rate(&live);
            reads = site.upcalls()["read"];
            rate
        },
        || {
            drop_caches();
            rate(&path)
        },
    );
    let what = format!("{mib} MiB file, cold, sequential: live / ext4");
    run.add(
        Row::ratio("large", what, "MiB/s", &cold, Limit::AtLeast(0.8))
            .note(format!("{reads} reads")),
    );
    rate(&live);
    rate(&path);
    let warm = pairs(count, || rate(&live), || rate(&path));
    let what = format!("{mib} MiB file, warm, sequential: live / ext4");
    run.add(Row::ratio(
        "large",
        what,
        "MiB/s",
        &warm,
        Limit::AtLeast(0.95),
    ));
}

fn write_noise(path: &Path, mib: usize) {
    let mut file = File::create(path).expect("a new file");
    for number in 0..mib {
        file.write_all(&noise(number as u64, MIB))
            .expect("room for the large file");
    }
}
