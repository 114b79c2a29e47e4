//! The examples for CI do what they say: their jobs are run as GitHub and GitLab would run them, each in a checkout and a home of
//! its own, against a real mount. Only the way to the server is short: `ssh` runs the command here, with and without the forced
//! command that restricts a key.

mod expression;
mod github;
mod gitlab;
mod restricted_key;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::*;

/// Takes the options, the host and the command as ssh does; the key says what its owner may do.
const SSH: &str = r#"while :; do case $1 in -l | -p | -i | -o) shift 2 ;; -*) shift ;; *) break ;; esac; done
echo "$1" >> "$HOSTS"; shift
[ -s "$HOME/.ssh/known_hosts" ] && may=$(cat "$HOME/.ssh/id_ed25519") && [ "$may" ] || { echo "ssh: no key" >&2; exit 255; }
[ "$FORCED" ] || exec sh -c "$*"
SSH_ORIGINAL_COMMAND="$*" exec bash "$FORCED" --store "$STORE" --check 'grep -q . "$DEPLOYFS_ROOT/index.html" && ! grep -q bad "$DEPLOYFS_ROOT/index.html"' "$may""#;
/// Builds what the test has put beside it.
const NPM: &str = r#"[ "$1" != run ] || { rm -rf public; cp -r build public; }"#;

type Variables = BTreeMap<String, String>;

/// A site, and a repository that a CI builds.
struct Ci {
    site: Site,
    folder: PathBuf,
    is_restricted: bool,
}

impl Ci {
    fn new(is_restricted: bool) -> Self {
        let site = Site::new();
        let ci = Ci {
            folder: site.beside("ci"),
            site,
            is_restricted,
        };
        fs::create_dir_all(ci.path("bin")).unwrap();
        for (name, script) in [("ssh", SSH), ("npm", NPM), ("apt-get", "exit 0")] {
            ci.program(name, script);
        }
        std::os::unix::fs::symlink(DEPLOYFS, ci.path("bin/deployfs")).unwrap();
        restricted_key::write_forced_command(&ci.path("ssh-command"), &ci.path("bin"));
        ci.change(&[
            ("index.html", "first"),
            ("same.html", "same"),
            (".well-known/x y", "hidden"),
        ]);
        ci
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the next build gives.
    fn change(&self, files: &[(&str, &str)]) {
        let build = self.path("repository/build");
        fs::remove_dir_all(&build).ok();
        write_files(&build, files);
    }

    /// An empty folder of a job's own.
    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Runs a script in a job's folder, with these variables and no others.
    fn shell(
        &self,
        shell: &[&str],
        script: &str,
        at: &Path,
        home: &Path,
        variables: &Variables,
    ) -> Output {
        let file = self.path("script");
        fs::write(&file, script).unwrap();
        let path = format!(
            "{}:{}",
            text(&self.path("bin")),
            std::env::var("PATH").unwrap()
        );
        let forced = match self.is_restricted {
            true => text(&self.path("ssh-command")).to_owned(),
            false => String::new(),
        };
        Command::new(shell[0])
            .args(&shell[1..])
            .arg(file)
            .env_clear()
            .env("HOME", home)
            .env("PATH", path)
            .env("FORCED", forced)
            .env("STORE", &self.site.store)
            .env("HOSTS", self.path("hosts"))
            .envs(variables)
            .current_dir(at)
            .output()
            .unwrap()
    }

    /// The example's variables, with this test's store.
    fn variables(&self, example: &Yaml) -> Variables {
        let mut all = strings(example);
        let real = all["DEPLOYFS"].replace("/srv/store", text(&self.site.store));
        assert_ne!(all["DEPLOYFS"], real);
        all.insert("DEPLOYFS".into(), real);
        all
    }

    fn live(&self) -> String {
        self.site.json(["status"])["live"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    fn deploys(&self) -> usize {
        self.site.json(["list"]).as_array().unwrap().len()
    }
}

fn load(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).expect("valid YAML");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn strings(table: &Yaml) -> Variables {
    let pairs = table.as_hash().into_iter().flatten();
    pairs
        .map(|(key, value)| {
            (
                key.as_str().unwrap().to_owned(),
                value.as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

/// The address that a script printed, and the deploy in it.
fn address(said: &str, zone: &str) -> String {
    let at = said
        .split("https://")
        .skip(1)
        .filter_map(|rest| rest.split_once(&format!(".{zone}/")));
    at.map(|(name, _)| name.to_owned())
        .next()
        .expect("an address")
}

/// A tar that cannot read a file: the archive is complete without it.
const HALF_A_TAR: &str =
    r#"/usr/bin/tar "$@"; echo 'tar: secret: Cannot open: Permission denied' >&2; exit 2"#;
