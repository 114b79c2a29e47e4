//! Archives of the programs that people use: `deploy --tar` gives each the id of the folder that it was made from.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::*;

/// A build with what sites have: short names, so that the oldest formats hold them.
fn build(site: &Site) -> PathBuf {
    let dir = site.beside("build");
    write_files(
        &dir,
        &[
            ("index.html", "a page"),
            ("css/a b.css", "a{}"),
            ("empty", ""),
            ("a/b/c/d/[slug].html", "deep"),
            (".well-known/x", "hidden"),
        ],
    );
    symlink("../index.html", dir.join("css/home")).unwrap();
    symlink("a/b", dir.join("to-folder")).unwrap();
    fs::hard_link(dir.join("index.html"), dir.join("css/same.html")).unwrap();
    // Two names of one symlink.
    fs::hard_link(dir.join("css/home"), dir.join("css/home2")).unwrap();
    write_noise(&dir.join("large.bin"), 7, 700_001);
    fs::set_permissions(dir.join("large.bin"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    dir
}

/// The same with names that need extensions, and folders with nothing in them.
fn build_with_more(site: &Site) -> PathBuf {
    let dir = build(site);
    let long = "long-".repeat(30);
    write_files(
        &dir,
        &[
            (&format!("{long}/{long}/{long}.html"), "long"),
            ("ünï ❤.html", "letters"),
            ("nothing/", ""),
        ],
    );
    symlink(format!("{long}/{long}/{long}.html"), dir.join("long-link")).unwrap();
    fs::set_permissions(dir.join("nothing"), fs::Permissions::from_mode(0o2755)).unwrap();
    dir
}

/// Each command's archive has the id that the folder has.
fn assert_all_have_its_id(site: &Site, dir: &Path, commands: &[String]) {
    let id = site.deploy(dir);
    for command in commands {
        let command = command.replace("DIR", text(dir));
        let out = site.run(["deploy", "--tar-from", &command]);
        assert_eq!(stdout(&out).trim_end(), id, "{command}: {}", stderr(&out));
    }
    assert_eq!(site.json(["list"]).as_array().unwrap().len(), 1);
}

fn owned(commands: &[&str]) -> Vec<String> {
    commands
        .iter()
        .map(|command| (*command).to_owned())
        .collect()
}

#[test]
fn archives_of_gnu_tar_and_gzip_in_all_their_forms() {
    let site = Site::new();
    let dir = build(&site);
    let incremental = site.beside("snapshot");
    let mut commands: Vec<String> = ["v7", "oldgnu", "gnu", "ustar", "posix"]
        .iter()
        .map(|format| format!("tar --format={format} -C DIR -cf - ."))
        .collect();
    commands.extend(owned(&[
        "cd DIR && tar -cf - $(ls -A | grep -v ' ')",
        "tar -b 1 -C DIR -cf - .",
        "tar -b 2000 -C DIR -cf - .",
        "tar -C DIR -cf - . ./css ./css/same.html",
        "tar --transform 'flags=rh;s,^\\./,,' -C DIR -cf - .",
        "tar --transform 'flags=rh;s,^\\./,././/,' -C DIR -cf - .",
        "tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=posix --pax-option=exthdr.name=%d/x/%f,delete=atime -C DIR -cf - .",
        "tar --label 'a volume' -C DIR -cf - .",
        "tar -C DIR -cf - . && head -c 20000 /dev/zero",
        "tar -C DIR -czf - . && head -c 20000 /dev/zero",
        "tar -C DIR -cf - . | split -b 100000 --filter='gzip -c' -",
        "tar -C DIR -cf - . | zstd -qc --long && printf '\\120\\052\\115\\030\\004\\000\\000\\000skip'",
        "printf '\\120\\052\\115\\030\\004\\000\\000\\000skip'; tar -C DIR -cf - . | zstd -qc",
    ]));
    commands.push(format!("tar -g {} -C DIR -cf - .", text(&incremental)));
    assert_all_have_its_id(&site, &dir, &commands);
}

#[test]
fn archives_of_libarchive_busybox_cpio_and_perl() {
    let site = Site::new();
    let dir = build(&site);
    let mut commands: Vec<String> = ["v7", "ustar", "gnutar", "pax"]
        .iter()
        .map(|format| format!("bsdtar --format {format} -C DIR -cf - ."))
        .collect();
    commands.extend(owned(&[
        "bsdtar -C DIR -czf - .",
        "bsdtar -C DIR -cf - @$(tar -C DIR -cf DIR.copy.tar . && echo DIR.copy.tar)",
        "busybox tar -C DIR -cf - .",
        "busybox tar -C DIR -cf - . | busybox gzip",
        "cd DIR && find . | cpio --quiet -o -H ustar",
        "cd DIR && find . | cpio --quiet -o -H tar",
        "cd DIR && find . -depth | cpio --quiet -o -H ustar",
        "cd DIR && perl -MArchive::Tar -e 'my $t = Archive::Tar->new; $t->add_files(split /\\0/, `find . -print0`); $t->write(\\*STDOUT)'",
    ]));
    assert_all_have_its_id(&site, &dir, &commands);
}

#[test]
fn long_names_of_each_program() {
    let site = Site::new();
    let dir = build_with_more(&site);
    assert_all_have_its_id(
        &site,
        &dir,
        &owned(&[
            "tar --format=gnu -C DIR -cf - .",
            "tar --format=posix -C DIR -cf - .",
            "tar --format=oldgnu -C DIR -cf - .",
            "bsdtar --format pax -C DIR -cf - .",
            "bsdtar --format gnutar -C DIR -cf - .",
            "busybox tar -C DIR -cf - .",
        ]),
    );
}

#[test]
fn archives_of_python_in_each_format_and_with_every_name_for_the_folder_itself() {
    let site = Site::new();
    let dir = build_with_more(&site);
    let commands: Vec<String> = ["GNU_FORMAT", "PAX_FORMAT"]
        .iter()
        .flat_map(|format| ["''", "'.'", "'./'", "'/'"].map(|name| (format, name)))
        .map(|(format, name)| {
            format!(
                "python3 -c \"import tarfile, sys; t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format}); t.add('DIR', arcname={name}); t.close()\""
            )
        })
        .collect();
    assert_all_have_its_id(&site, &dir, &commands);
}

#[test]
fn archives_of_node() {
    let site = Site::new();
    let dir = build_with_more(&site);
    // What npm itself packs with; Debian's package has it elsewhere.
    let node = "NODE_PATH=/usr/lib/node_modules/npm/node_modules:/usr/share/nodejs node -e \
        \"require('tar').c({cwd: 'DIR', OPTIONS}, ['.']).pipe(process.stdout)\"";
    let commands: Vec<String> = ["portable: true", "gzip: true", "noPax: false, strict: true"]
        .iter()
        .map(|options| node.replace("OPTIONS", options))
        .collect();
    assert_all_have_its_id(&site, &dir, &commands);
}

#[test]
fn archives_of_git() {
    let site = Site::new();
    let dir = site.beside("repository");
    write_files(
        &dir,
        &[
            ("index.html", "a page"),
            ("css/a b.css", "a{}"),
            ("css/home@", "../index.html"),
        ],
    );
    let long = "long-".repeat(30);
    write_files(&dir, &[(&format!("{long}/{long}.html"), "long")]);
    fs::set_permissions(dir.join("index.html"), fs::Permissions::from_mode(0o755)).unwrap();
    let id = site.deploy(&dir);
    let dir = text(&dir);
    sh(&format!(
        "cd {dir} && git init -q . && git add -A && git -c user.name=n -c user.email=e -c commit.gpgsign=false commit -qm one"
    ));
    for format in ["tar", "tar.gz"] {
        let command = format!("git -C {dir} archive --format={format} HEAD");
        assert_eq!(site.ok(["deploy", "--tar-from", &command]), id, "{format}");
    }
}

#[test]
fn p10_what_a_writer_stores_with_holes_or_in_volumes_is_refused_by_name() {
    let site = Site::live_with(&[("index.html", "old")]);
    let dir = site.beside("build");
    write_files(&dir, &[("index.html", "new")]);
    write_holes(&dir.join("holes.bin"), 1 << 20);
    for command in [
        "tar --sparse --format=gnu -C DIR -cf - .",
        "tar --sparse --format=posix -C DIR -cf - .",
        "tar --sparse --format=posix --sparse-version=0.1 -C DIR -cf - .",
    ] {
        let command = command.replace("DIR", text(&dir));
        let said = site.refused_whole(1, ["deploy", "--tar-from", &command, "--activate"]);
        mentions(&said, &["holes.bin", "without --sparse"]);
    }
}
