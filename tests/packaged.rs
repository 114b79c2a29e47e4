//! The package: what is in it, and the service it brings, under a systemd of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::*;

/// The .deb of the program under test, in a folder of its own.
fn package() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new()
        .prefix("deployfs-package-")
        .tempdir()
        .unwrap();
    let out = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package"))
        .arg(DEPLOYFS)
        .env("DEPLOYFS_PACKAGE_DIR", folder.path().join("out"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let deb = PathBuf::from(stdout(&out).trim_end());
    (folder, deb)
}

#[test]
fn the_package_has_the_program_a_manual_page_for_every_command_and_completions() {
    let (root, (_folder, deb)) = (tempfile::tempdir().unwrap(), package());
    let dir = text(root.path());
    sh(&format!("dpkg-deb -x {} {dir}", text(&deb)));
    let page = |name: &str| {
        let path = format!("{dir}/usr/share/man/man1/{name}.1.gz");
        sh(&format!("zcat {path} | man --warnings --local-file -"))
    };
    let all = page("deployfs");
    for command in commands() {
        let own = page(&format!("deployfs-{command}"));
        mentions(&own, &["SYNOPSIS", "DESCRIPTION", "Example"]);
        mentions(&all, &[&format!("deployfs-{command}(1)")]);
        for shell in [
            "bash-completion/completions/deployfs",
            "zsh/vendor-completions/_deployfs",
            "fish/vendor_completions.d/deployfs.fish",
        ] {
            let script = fs::read_to_string(root.path().join("usr/share").join(shell)).unwrap();
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
    sh(&format!(
        "bash -n {dir}/usr/share/bash-completion/completions/deployfs"
    ));
    let version = sh(&format!("{dir}/usr/bin/deployfs --version"));
    let field = sh(&format!("dpkg-deb -f {} Version", text(&deb)));
    assert_eq!(version, format!("deployfs {field}"));
    let helper = root.path().join("usr/sbin/mount.fuse.deployfs");
    assert_eq!(
        helper.canonicalize().unwrap(),
        root.path().join("usr/bin/deployfs").canonicalize().unwrap()
    );
}

/// What README.md has under this heading, as one shell session of somebody who may use sudo.
fn pasted(heading: &str) -> String {
    let sudo = "sudo() { if [ \"$1\" = -u ]; then shift; runuser -u \"$@\"; else \"$@\"; fi; }\n";
    let block = crate::readme::block(heading, "sh");
    let block = block
        .replace("scripts/package ", ": ")
        .replace(
            "apt install ./target/package/deployfs_*.deb",
            "dpkg -i /host/deployfs_*.deb",
        )
        .replace("apt install nginx", ":")
        .replace("-u deployfs ", "-u deployfs -- ");
    format!("{sudo}{block}")
}

/// None where systemd cannot be booted; [`the_unit_is_one_that_systemd_understands`] holds everywhere.
fn machine() -> Option<Machine> {
    need_fuse();
    if let Some(why) = Machine::missing() {
        println!("skipped: no systemd can be booted here: {why}");
        return None;
    }
    let machine = Machine::boot();
    let (_folder, deb) = package();
    machine.bring(&deb);
    let seen = machine.run(&pasted("On a server"));
    assert!(seen.ends_with("<h1>it works</h1>"), "{seen}");
    Some(machine)
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("deployfs@site.service");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deployfs@.service");
    let text = fs::read_to_string(source).unwrap();
    let verdict = |text: &str| {
        fs::write(&unit, text.replace("/usr/bin/deployfs", DEPLOYFS)).unwrap();
        let out = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .output()
            .unwrap();
        format!("{}{}", stdout(&out), stderr(&out))
    };
    assert_eq!(verdict(&text), "");
    mentions(&verdict(&format!("{text}Nonsense=1\n")), &["Nonsense"]);
}

/// What the web server answers to this host.
fn get(machine: &Machine, host: &str, path: &str) -> String {
    machine.run(&format!(
        "curl -sS -H 'Host: {host}' http://127.0.0.1{path}"
    ))
}

#[test]
fn the_service_runs_under_systemd_as_its_own_user_beside_nginx_and_serves_a_member_of_its_group() {
    let Some(machine) = machine() else { return };
    machine.run("systemd-analyze verify deployfs@site.service 2>&1");
    // Read with the member's rights, and taken over whoever owns what is in it.
    machine.run(
        "adduser --quiet --disabled-password --gecos '' alice
         adduser --quiet alice deployfs
         runuser -u alice -- mkdir -p /home/alice/build/assets
         runuser -u alice -- bash -c 'echo one > ~alice/build/index.html; umask 077; echo body > ~alice/build/assets/a.css'
         chmod 700 /home/alice",
    );
    let alice = |script: &str| {
        machine.run(&format!(
            "runuser -u alice -- bash -euc 'cd /srv/site; {script}'"
        ))
    };
    let one = alice("deployfs deploy ~alice/build --activate");
    assert_eq!(get(&machine, "example.com", "/"), "one");
    let two = alice(
        "cp -r ~alice/build/. \"$(deployfs create v2)\"; echo two > staging/v2/index.html; mkdir -m 700 staging/v2/own
         chmod 644 staging/v2/assets/a.css; echo x > staging/v2/own/x; deployfs activate \"$(deployfs seal v2)\"",
    );
    assert_eq!(get(&machine, "example.com", "/"), "two");
    assert_eq!(
        get(&machine, &format!("{one}.preview.example.com"), "/"),
        "one"
    );
    assert_eq!(get(&machine, "example.com", "/assets/a.css"), "body");
    assert_eq!(
        alice("ls -A /srv/store/staging 2>&1 | wc -l; deployfs list --json | grep -c deploy_id"),
        "1\n3"
    );

    // A member reads through the daemon only what is the member's to read.
    machine.run("mkdir -m 700 /root/secret; echo secret > /root/secret/key; chmod 755 /root; mkdir /srv/mixed; cp /root/secret/key /srv/mixed; chmod 600 /srv/mixed/key");
    for folder in ["/root/secret", "/srv/mixed"] {
        let out = machine.try_run(&format!(
            "runuser -u alice -- deployfs --store /srv/store deploy {folder}"
        ));
        mentions(&refusal(&out, 1), &["ermission denied"]);
    }

    let pid = machine.run("systemctl show --value -p MainPID deployfs@site");
    let status = machine.run(&format!("cat /proc/{pid}/status; id -u deployfs"));
    let (status, uid) = status.rsplit_once('\n').unwrap();
    mentions(
        status,
        &[
            &format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ],
    );
    // CHOWN, SETGID, SETUID, SYS_ADMIN.
    mentions(
        status,
        &["CapEff:\t00000000002000c1", "CapBnd:\t00000000002000c1"],
    );
    let namespaces = machine.run(&format!(
        "readlink /proc/{pid}/ns/mnt /proc/1/ns/mnt /proc/$(pgrep -f 'nginx: worker' | head -1)/ns/mnt | sort -u | wc -l"
    ));
    assert_eq!(
        namespaces, "1",
        "the mount is in everybody's mount namespace"
    );
    assert_eq!(
        machine.run("stat -c %U:%a /srv/store /srv/store/packs"),
        "deployfs:711\ndeployfs:700"
    );

    // The folder that was staged with mode 0700 is all there is to say.
    let out = machine.try_run("deployfs --store /srv/store doctor");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(stdout(&out).matches("WRONG").count(), 1, "{}", stdout(&out));
    mentions(
        &stdout(&out),
        &[
            "user www-data) may not read 'live/own'",
            "user deployfs, control group deployfs",
        ],
    );

    // A hook has the user's rights, and none of the daemon's.
    machine.run(
        "mkdir -p /srv/store/hooks
         printf '#!/bin/sh\\ngrep -E \"^(Uid|CapEff)\" /proc/self/status > /srv/store/hooks/ran\\n' > /srv/store/hooks/post-activate
         chmod 755 /srv/store/hooks/post-activate
         chown -R deployfs:deployfs /srv/store/hooks",
    );
    alice(&format!("deployfs rollback; deployfs activate {two}"));
    wait_up_to(90, "the hook", || {
        machine
            .try_run("test -s /srv/store/hooks/ran")
            .status
            .success()
    });
    mentions(
        &machine.run("cat /srv/store/hooks/ran"),
        &[uid, "CapEff:\t0000000000000000"],
    );

    machine.run("dpkg -i /host/deployfs_*.deb 2>&1");
    let after = machine.run("systemctl show --value -p MainPID deployfs@site");
    assert_eq!(after, pid, "an upgrade leaves running daemons alone");

    assert_a_mistake_is_found_before_the_daemon_is_stopped(&machine, &pid);

    // It is started again when it dies, over the dead mount, however often.
    let mut last = pid;
    for _ in 0..8 {
        machine.run(&format!("kill -9 {last}"));
        let restarted = || {
            let states = "systemctl show --value -p MainPID,SubState deployfs@site | paste -sd ' '";
            machine.run(states)
        };
        let mut now = String::new();
        wait_up_to(90, "a new daemon", || {
            now = restarted();
            now.contains("running") && !now.starts_with(&format!("{last} "))
        });
        last = now.split(' ').next().unwrap().to_owned();
    }
    assert_eq!(get(&machine, "example.com", "/"), "two");
    assert_eq!(alice("deployfs rollback"), one);
    assert_eq!(get(&machine, "example.com", "/"), "one");
    assert_ne!(one, two);

    assert_prune_runs_by_its_timer(&machine);
    machine.run("dpkg -P deployfs 2>&1");
    let links = machine.run("find /etc/systemd/system -xtype l -name '*deployfs*'");
    assert_eq!(links, "", "no link is left that leads nowhere");
    let left = machine.run(
        "findmnt -n /srv/site || true; ls /srv/store/history; command -v deployfs || echo gone",
    );
    assert_eq!(
        left, "/srv/store/history\ngone",
        "the mount goes with the package, the store stays"
    );
}

fn assert_a_mistake_is_found_before_the_daemon_is_stopped(machine: &Machine, pid: &str) {
    let conf = "/etc/deployfs/site.conf";
    machine.run(&format!("cp {conf} /tmp/conf"));
    for (mistake, words) in [
        ("s|^STORE=.*|STORE=/srv/stroe|", "/srv/stroe"),
        ("s|^MOUNTPOINT=.*|MOUNTPOINT=/srv/store|", "not empty"),
        ("s|--control-group .*|--control-group nobodys|", "nobodys"),
        ("s|--control-group|--control-gruop|", "--control-gruop"),
    ] {
        machine.run(&format!("sed -i '{mistake}' {conf}"));
        let reload = machine.try_run("systemctl reload deployfs@site");
        assert!(!reload.status.success(), "{mistake}");
        let check = machine.try_run(
            r#"eval "$(sed -n 's/^\([A-Z]*\)=\(.*\)/\1="\2"/p' /etc/deployfs/site.conf)"
            deployfs mount --check $OPTIONS $STORE $MOUNTPOINT"#,
        );
        assert!(!check.status.success(), "{mistake}");
        mentions(&stderr(&check), &[words]);
        machine.run(&format!("cp /tmp/conf {conf}"));
    }
    machine.run("systemctl reload deployfs@site");
    let now = machine.run("systemctl show --value -p MainPID deployfs@site");
    assert_eq!(now, pid, "the daemon has run all the time");
}

fn assert_prune_runs_by_its_timer(machine: &Machine) {
    machine.run(
        "systemd-analyze verify deployfs-prune@site.service deployfs-prune@site.timer 2>&1
         systemctl enable --now deployfs-prune@site.timer 2>&1",
    );
    let next =
        machine.run("systemctl show --value -p NextElapseUSecRealtime deployfs-prune@site.timer");
    assert!(!next.is_empty());
    let prune = || {
        machine.try_run("systemctl start deployfs-prune@site.service");
        machine.run("systemctl show --value -p ExecMainStatus deployfs-prune@site.service")
    };
    assert_eq!(prune(), "1", "nobody has said what to keep");
    machine.run("echo 'keep = 1' > /srv/store/retention.toml");
    assert_eq!(prune(), "0");
}

#[test]
fn mount_and_fstab_know_the_filesystem() {
    let Some(machine) = machine() else { return };
    machine.run(
        "systemctl disable --now deployfs@site 2>&1; mkdir /tmp/b; echo hello > /tmp/b/index.html",
    );
    machine.run("deployfs --store /srv/store deploy /tmp/b --activate");
    machine.run("mount -t fuse.deployfs /srv/store /srv/site -o uid=33,control_group=deployfs");
    assert_eq!(
        machine.run("cat /srv/site/live/index.html; stat -c %u /srv/site/live"),
        "hello\n33"
    );
    machine.run("umount /srv/site");
    wait_up_to(90, "the daemon's end", || {
        machine.try_run("pgrep -x deployfs").status.code() == Some(1)
    });

    machine.run("echo '/srv/store /srv/site fuse.deployfs nofail,noexec,_netdev,x-systemd.before=nginx.service,gid=33 0 0' >> /etc/fstab");
    machine.run("mount /srv/site");
    assert_eq!(
        machine.run("cat /srv/site/live/index.html; stat -c %g /srv/site/live"),
        "hello\n33"
    );
    let options = machine.run("findmnt -n -o OPTIONS /srv/site");
    assert!(options.contains("noexec"), "{options}");
    machine.run("deployfs umount /srv/site");
    machine.run("systemctl daemon-reload; systemctl start srv-site.mount");
    assert_eq!(
        machine.run("cat /srv/site/live/index.html; systemctl is-active srv-site.mount"),
        "hello\nactive"
    );
    machine.run("systemctl stop srv-site.mount");
    assert_eq!(machine.run("ls -A /srv/site"), "");

    let out = machine.try_run("mount -t fuse.deployfs /srv/store /srv/site -o compress=yes");
    assert!(!out.status.success());
    mentions(
        &stderr(&out),
        &["unknown option 'compress=yes'", "control_group"],
    );
    assert_eq!(machine.run("ls -A /srv/site"), "", "nothing is mounted");
}
