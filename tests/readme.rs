//! The README says what is so: its quick start and its nginx configuration are run as they stand there.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::*;

const README: &str = include_str!("../README.md");

/// The first block of this language after this heading.
pub fn block(heading: &str, language: &str) -> &'static str {
    let (_, section) = README
        .split_once(&format!("\n## {heading}\n"))
        .expect("the heading");
    let (_, rest) = section
        .split_once(&format!("\n```{language}\n"))
        .expect("the block");
    rest.split_once("\n```\n").expect("its end").0
}

/// Pastes a text into a shell, as root or as an ordinary user. In namespaces of its own, with Debian's usual rights on
/// /dev/fuse: whatever happens, no process and no mount outlives it.
fn paste(text: &str, user: Option<&str>, fuse_conf: &str) -> Output {
    let folder = tempfile::Builder::new()
        .prefix("deployfs-readme-")
        .tempdir()
        .unwrap();
    let dir = folder.path().display();
    let owner = user.unwrap_or("root");
    let script = format!(
        "chmod 755 {dir}; cd {dir}; mkdir home bin dev
         mount -t tmpfs -o mode=755 none dev
         mknod -m 666 dev/fuse c 10 229
         mount --bind dev/fuse /dev/fuse
         echo '{fuse_conf}' > fuse.conf
         mount --bind fuse.conf /etc/fuse.conf
         touch bin/deployfs
         mount --bind {DEPLOYFS} bin/deployfs
         chown {owner} home
         cd home
         exec setpriv --reuid={owner} env -u DEPLOYFS_STORE HOME={dir}/home PATH={dir}/bin:$PATH bash -eux"
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child"])
        .args(["bash", "-euc", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap()
}

/// The pages that the quick start shows, in this order.
fn assert_quick_start(out: &Output) {
    let (said, beside) = (stdout(out), stderr(out));
    assert!(out.status.success(), "{said}\n{beside}");
    let pages: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("<h1>"))
        .collect();
    let expected = ["one", "two", "one", "one"].map(|page| format!("<h1>{page}</h1>"));
    assert_eq!(pages, expected, "{said}\n{beside}");
    assert!(said.contains("M index.html"), "{said}");
    for verb in ["rollback", "activate", "seal", "init"] {
        assert!(said.contains(verb), "{said}");
    }
}

#[test]
fn the_quick_start_works_when_root_pastes_it() {
    need_fuse();
    assert_quick_start(&paste(block("Quick start", "sh"), None, ""));
}

#[test]
fn the_quick_start_works_when_a_user_pastes_it() {
    need_fuse();
    let quick_start = block("Quick start", "sh");
    assert_quick_start(&paste(quick_start, Some("nobody"), "user_allow_other"));

    // Where fuse.conf does not allow it, the message says what to do, and that works.
    let refused = paste(quick_start, Some("nobody"), "");
    assert!(!refused.status.success());
    let said = stderr(&refused);
    assert!(said.contains("--no-allow-other") && said.contains("user_allow_other"));
    let alone = quick_start.replace("deployfs mount ", "deployfs mount --no-allow-other ");
    assert_quick_start(&paste(&alone, Some("nobody"), ""));
}

#[test]
fn the_web_server_block_serves_the_live_site_and_every_deploy_under_its_host_name() {
    let site = Site::new();
    let one = site.seal(&[("index.html", "one")]);
    let two = site.seal(&[("index.html", "two")]);
    site.activate(&two);
    let folder = site.beside("listen");
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("sock");
    site.ok(["channel", "set", "preview", &one]);
    let servers = [block("On a server", "nginx"), block("Channels", "nginx")]
        .join("\n")
        .replace("/srv/site", text(&site.mnt))
        .replace("listen 80", &format!("listen unix:{}", socket.display()));
    assert!(!servers.contains("/srv") && servers.matches("listen unix:").count() == 3);
    // The kit's own server block ends before the README's begin; the last one takes the kit's closing brace.
    let unused = folder.join("unused");
    let directives = format!("}}\n{servers}\nserver {{ listen unix:{};", unused.display());
    let _nginx = Nginx::serve_with(&site.path("live"), &directives);

    wait_for("the README's sockets", || {
        UnixStream::connect(&socket).is_ok()
    });
    assert_eq!(Http::connect(&socket).get("/").text(), "two");
    for (id, page) in [(&one, "one"), (&two, "two")] {
        let host = format!("{id}.preview.example.com");
        let mut http = Http::connect(&socket).for_host(&host);
        assert_eq!(http.get("/").text(), page);
    }
    let nobody = Http::connect(&socket)
        .for_host("0123456789abcdef.preview.example.com")
        .get("/");
    assert_eq!(nobody.status, 404);
    let mut preview = Http::connect(&socket).for_host("preview.preview.example.com");
    assert_eq!(preview.get("/").text(), "one");
    site.ok(["channel", "set", "preview", &two]);
    assert_eq!(preview.get("/").text(), "two");
    site.activate(&one);
    assert_eq!(Http::connect(&socket).get("/").text(), "one");
}

/// Every block of this language in a page.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let parts = page.split(&fence).skip(1);
    parts
        .map(|part| part.split_once("\n```").expect("its end").0)
        .collect()
}

#[test]
fn what_the_pages_say_to_a_shell_is_a_script_and_names_commands_that_there_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages = vec![README.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        pages.push(fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let commands = commands();
    let mut seen = 0;
    for script in pages.iter().flat_map(|page| blocks(page, "sh")) {
        let out = Command::new("bash").args(["-nc", script]).output().unwrap();
        assert!(out.status.success(), "{script}\n{}", stderr(&out));
        // As a word of its own that begins a command.
        for line in script.lines().map(str::trim_start) {
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            let line = line.strip_prefix("-u deployfs ").unwrap_or(line);
            let Some(words) = line.strip_prefix("deployfs ") else {
                continue;
            };
            let mut words = words.split_whitespace();
            let command = match words.next() {
                Some("--store") => words.nth(1),
                word => word,
            };
            let command = command.unwrap_or_default().to_owned();
            assert!(commands.contains(&command), "'{command}' in: {line}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} commands");
}

#[test]
fn the_readme_names_every_command_and_variable_and_every_promise_has_a_test_of_its_number() {
    for command in commands() {
        assert!(
            README.contains(&format!("`deployfs {command}")),
            "{command}"
        );
    }
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        read_all(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut sources,
        );
    }
    for number in 1..=10 {
        assert!(README.contains(&format!("| P{number} |")));
        let test = format!("fn p{number}_");
        assert!(sources.contains(&test), "no test is named {test}…");
    }
    for variable in sources.split("\"DEPLOYFS_TEST_").skip(1) {
        let (variable, _) = variable.split_once('"').expect("its end");
        let named = README.contains(&format!("`DEPLOYFS_TEST_{variable}"));
        assert!(named || variable.is_empty(), "{variable}");
    }
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
