//! P10: what a folder must not hold to become a deploy. Each refusal names the path and the remedy and leaves no trace.
//!
//! A name of more than 255 bytes cannot be made on the filesystems that tests run on; what refuses it is shown in
//! `model/name.rs`, and that a mount answers to it as ext4 does, in `immutable.rs`.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::*;

const PAGE: (&str, &str) = ("index.html", "a page");

#[test]
fn p10_special_files_are_refused_and_all_of_them_named() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE, ("sub/page.html", "x")]);
    let _socket = UnixListener::bind(dir.join("a-socket")).unwrap();
    sh(&format!(
        "cd {}; mkfifo sub/a-pipe; mknod a-char-device c 1 3; mknod sub/a-block-device b 7 0",
        dir.display()
    ));
    let said = site.refused_whole(1, ["seal", "v2"]);
    mentions(
        &said,
        &[
            text(&dir),
            "a-socket: it is a socket",
            "sub/a-pipe: it is a named pipe",
            "a-char-device: it is a device",
            "sub/a-block-device: it is a device",
            "remove it",
        ],
    );
    let special = [
        "a-socket",
        "sub/a-pipe",
        "a-char-device",
        "sub/a-block-device",
    ];
    for name in special {
        fs::remove_file(dir.join(name)).unwrap();
    }
    site.ok(["seal", "v2"]);
}

#[test]
fn p10_of_very_many_problems_the_first_are_named_and_the_others_counted() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE]);
    sh(&format!("cd {}; mkfifo pipe-{{100..149}}", dir.display()));
    let said = site.refused_whole(1, ["seal", "v2"]);
    assert_eq!(said.matches("it is a named pipe").count(), 20);
    mentions(&said, &["and 30 more"]);
}

#[test]
fn p10_a_file_or_folder_that_the_caller_may_not_read_is_refused_without_a_daemon() {
    let site = Site::without_a_store();
    let home = site.beside("home");
    let build = site.beside("build");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let store = home.join("store");
    write_files(
        &build,
        &[PAGE, ("secret.txt", "of root"), ("closed/x", "x")],
    );
    let deploy = || {
        let mut command = site.command(["--store", text(&store), "deploy", text(&build)]);
        nobody(&mut command).output().unwrap()
    };
    let made = nobody(&mut site.command(["init", text(&store)]))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let mode = |name: &str, mode| {
        fs::set_permissions(build.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("secret.txt", 0o600);
    mode("closed", 0o700);
    let out = deploy();
    assert_eq!((out.status.code(), stdout(&out)), (Some(1), String::new()));
    let said = stderr(&out);
    mentions(
        &said,
        &[
            "secret.txt: it cannot be read",
            "closed: it cannot be read",
            "make it readable",
        ],
    );
    assert!(!said.contains("index.html"), "{said}");
    mode("secret.txt", 0o644);
    mode("closed", 0o755);
    assert!(deploy().status.success());
}

#[test]
fn p10_a_daemon_of_root_reads_a_folder_with_the_rights_of_the_caller() {
    let site = Site::unmounted();
    site.mount(&["--control-group", &NOBODY.to_string()]);
    let build = site.beside("build");
    write_files(
        &build,
        &[PAGE, ("secret.txt", "of root"), ("closed/x", "x")],
    );
    let secret = build.join("secret.txt");
    let deploy = |dir: &Path| {
        nobody(&mut site.command(["deploy", text(dir)]))
            .output()
            .unwrap()
    };
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let before = site.state();
    let out = deploy(&build);
    assert_eq!((out.status.code(), stdout(&out)), (Some(1), String::new()));
    mentions(
        &stderr(&out),
        &["secret.txt: it cannot be read", "make it readable"],
    );

    fs::set_permissions(build.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let out = deploy(&build.join("closed"));
    assert_eq!((out.status.code(), stdout(&out)), (Some(1), String::new()));
    mentions(&stderr(&out), &["closed", "ermission denied"]);
    assert_eq!(site.state(), before);

    fs::remove_file(&secret).unwrap();
    fs::remove_dir_all(build.join("closed")).unwrap();
    let out = deploy(&build);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(site.json(["list"])[0]["sealed_by"], "nobody");
}

#[test]
fn p10_a_user_who_is_not_in_the_control_group_is_told_so() {
    let site = Site::live_with(&[PAGE]);
    let build = site.beside("build");
    write_files(&build, &[PAGE]);
    for args in [vec!["deploy", text(&build)], vec!["list"], vec!["rollback"]] {
        let out = nobody(&mut site.command(args)).output().unwrap();
        assert_eq!((out.status.code(), stdout(&out)), (Some(1), String::new()));
        mentions(&stderr(&out), &["control.sock", "--control-group"]);
    }
}

#[test]
fn p10_symlinks_that_lead_out_are_refused_also_through_other_symlinks() {
    let site = Site::live_with(&[PAGE]);
    let links = [
        ("absolute@", "/etc/passwd"),
        ("up@", "../../etc/passwd"),
        ("sub/up@", "../../x"),
        ("sub/back@", ".."),
        ("through@", "sub/back/../x"),
        ("hop@", "through"),
        ("into-absolute@", "absolute/x"),
    ];
    let inside = [
        PAGE,
        ("home@", "index.html"),
        ("sub/home@", "../index.html"),
        ("round@", "sub/../sub/back/index.html"),
        ("nowhere@", "not/there"),
        ("loop@", "loop"),
    ];
    let dir = site.stage("v2", &links);
    write_files(&dir, &inside);
    let said = site.refused_whole(1, ["seal", "v2"]);
    mentions(
        &said,
        &[
            "absolute path '/etc/passwd'",
            "leads out of the deploy ('../../x')",
            "--allow-external-symlinks",
        ],
    );
    let named = |path: &str| said.contains(&format!("\n  {path}: "));
    for path in [
        "absolute",
        "up",
        "sub/up",
        "through",
        "hop",
        "into-absolute",
    ] {
        assert!(named(path), "{path}: {said}");
    }
    for path in ["home", "sub/home", "round", "nowhere", "loop", "sub/back"] {
        assert!(!named(path), "{path}: {said}");
    }
    let staged = contents(&dir);
    let id = site.ok(["seal", "v2", "--allow-external-symlinks"]);
    assert_eq!(contents(&site.path(&format!("deploys/{id}"))), staged);
}

#[test]
fn p10_a_link_laid_over_a_deploy_is_followed_through_that_deploy() {
    let site = Site::live_with(&[PAGE, ("sub/deep/x", "x"), ("down@", "sub/deep")]);
    let fix = site.beside("fix");
    write_files(&fix, &[("out@", "down/../../../x")]);
    let said = site.refused_whole(1, ["deploy", "--from", "live", text(&fix)]);
    mentions(&said, &["out: it is a symlink that leads out", text(&fix)]);
    fs::remove_file(fix.join("out")).unwrap();
    symlink("down/../../x", fix.join("in")).unwrap();
    site.ok(["deploy", "--from", "live", text(&fix)]);
}

#[test]
fn p10_a_file_that_is_open_for_writing_is_refused_until_it_is_closed() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE, ("sub/upload.bin", "half")]);
    let open = |path| fs::OpenOptions::new().append(true).open(path).unwrap();
    let writer = open(dir.join("sub/upload.bin"));
    for args in [
        vec!["seal", "v2"],
        vec!["deploy", text(&dir)],
        vec!["deploy", "--dry-run", text(&dir)],
    ] {
        let said = site.refused_whole(1, args);
        mentions(
            &said,
            &[
                text(&dir),
                "sub/upload.bin: it is open for writing",
                "seal again",
            ],
        );
        assert!(!said.contains("index.html"), "{said}");
    }
    writer.write_all_at(b"whole", 0).unwrap_or_default();
    drop(writer);
    site.ok(["seal", "v2"]);
}

#[test]
fn p10_what_is_mounted_inside_the_folder_is_refused() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.beside("build");
    write_files(&dir, &[PAGE]);
    let mounted = Mounted::tmpfs(&dir.join("sub"));
    fs::write(mounted.0.join("x"), "x").unwrap();
    let said = site.refused_whole(1, ["deploy", text(&dir)]);
    mentions(
        &said,
        &[
            text(&dir),
            "sub: it is on another filesystem",
            "copy it into the folder",
        ],
    );
    drop(mounted);
    site.ok(["deploy", text(&dir)]);
}

#[test]
fn p10_a_path_longer_than_programs_can_open_is_refused() {
    let site = Site::live_with(&[PAGE]);
    let dir = site.stage("v2", &[PAGE]);
    let name = "d".repeat(250);
    sh(&format!(
        "cd {}; for i in {{1..20}}; do mkdir {name}; cd {name}; done; echo x > file",
        dir.display()
    ));
    let said = site.refused(1, ["seal", "v2"]);
    mentions(&said, &[text(&dir), "longer than the 4095 bytes"]);
    assert!(dir.join(&name).is_dir(), "the folder is back");
    assert_eq!(site.json(["list"]).as_array().unwrap().len(), 1);
    // A name of 255 bytes is as good as any.
    fs::remove_dir_all(dir.join(&name)).unwrap();
    fs::write(dir.join("e".repeat(255)), "x").unwrap();
    site.ok(["seal", "v2"]);
}

#[test]
fn p10_a_folder_that_is_not_there_or_empty_is_refused() {
    let site = Site::live_with(&[PAGE]);
    site.ok(["create", "other"]);
    let said = site.refused_whole(1, ["seal", "v9"]);
    mentions(
        &said,
        &["no staging folder 'v9'", "deployfs create v9", "other"],
    );
    mentions(
        &site.refused_whole(1, ["abort", "v9"]),
        &["no staging folder 'v9'"],
    );
    let dir = site.stage("v2", &[]);
    let said = site.refused_whole(1, ["seal", "v2"]);
    mentions(&said, &[text(&dir), "is empty", "--allow-empty"]);
    let id = site.ok(["seal", "v2", "--allow-empty"]);
    assert_eq!(
        fs::read_dir(site.path(&format!("deploys/{id}")))
            .unwrap()
            .count(),
        0
    );

    let gone = site.beside("gone");
    mentions(
        &site.refused_whole(1, ["deploy", text(&gone)]),
        &[text(&gone)],
    );
    let file = site.beside("file");
    fs::write(&file, "x").unwrap();
    mentions(
        &site.refused_whole(1, ["deploy", text(&file)]),
        &[text(&file), "is a file, not a folder", "deploy --tar"],
    );
    let empty = site.beside("empty");
    fs::create_dir(&empty).unwrap();
    mentions(
        &site.refused_whole(1, ["deploy", text(&empty)]),
        &[text(&empty), "--allow-empty"],
    );
}

#[test]
fn p10_a_staging_folder_of_a_taken_name_is_refused() {
    let site = Site::live_with(&[PAGE]);
    site.stage("v2", &[PAGE]);
    let said = site.refused_whole(1, ["create", "v2"]);
    mentions(
        &said,
        &[
            "'v2' exists already",
            "seal it, abort it, or give another name",
        ],
    );
}

#[test]
fn p10_a_staging_folder_that_is_a_symlink_is_refused() {
    let site = Site::live_with(&[PAGE]);
    let elsewhere = site.beside("elsewhere");
    write_files(&elsewhere, &[PAGE]);
    symlink(&elsewhere, site.staging("v2")).unwrap();
    mentions(
        &site.refused_whole(1, ["seal", "v2"]),
        &["no staging folder 'v2'"],
    );
    mentions(
        &site.refused_whole(1, ["abort", "v2"]),
        &["no staging folder 'v2'"],
    );
    assert!(elsewhere.join("index.html").exists());
}

#[test]
fn p10_an_overlay_of_what_is_not_there_is_refused() {
    let site = Site::live_with(&[PAGE, ("sub/x", "x")]);
    let fix = site.beside("fix");
    write_files(&fix, &[("sub/y", "y")]);
    for path in [
        "gone.html",
        "sub/gone",
        "index.html/x",
        "../index.html",
        "/",
    ] {
        let said = site.refused_whole(
            1,
            ["deploy", text(&fix), "--from", "live", "--delete", path],
        );
        mentions(&said, &["--delete", path, "no such path"]);
    }
    let said = site.refused_whole(1, ["deploy", text(&fix), "--from", "ffffffffffffffff"]);
    mentions(&said, &["'ffffffffffffffff'", "deployfs list"]);
}
