//! The examples for CI do what they say: their shell steps are run as they stand there, against a real mount. Only the way to the
//! server is short: `ssh` runs the command here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::json;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::*;

const GITHUB: &str = include_str!("../examples/ci/github-actions.yml");
const GITLAB: &str = include_str!("../examples/ci/gitlab-ci.yml");

/// Takes the options, the host and the command as ssh does.
const SSH: &str = r#"while :; do case $1 in -l | -p | -i | -o) shift 2 ;; -*) shift ;; *) break ;; esac; done
echo "$1" >> "$HOME/hosts"; shift
exec sh -c "$*""#;
/// Builds what the test has put beside it.
const NPM: &str = r#"[ "$1" != run ] || { rm -rf public; cp -r build public; }"#;

type Variables = BTreeMap<String, String>;

/// A site, and a machine of the CI that has a checkout and a home.
struct Ci {
    site: Site,
    home: PathBuf,
    checkout: PathBuf,
}

impl Ci {
    fn new() -> Self {
        let site = Site::new();
        let ci = Ci {
            home: site.beside("home"),
            checkout: site.beside("checkout"),
            site,
        };
        fs::create_dir(&ci.checkout).unwrap();
        fs::create_dir_all(ci.home.join("bin")).unwrap();
        for (name, script) in [("ssh", SSH), ("npm", NPM), ("apt-get", "exit 0")] {
            let path = ci.home.join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(DEPLOYFS, ci.home.join("bin/deployfs")).unwrap();
        ci.change(&[("index.html", "first"), ("same.html", "same")]);
        ci
    }

    /// What the next build gives.
    fn change(&self, files: &[(&str, &str)]) {
        let build = self.checkout.join("build");
        fs::remove_dir_all(&build).ok();
        write_files(&build, files);
    }

    /// Runs a script as a CI's shell does, with these variables and no others.
    fn shell(&self, script: &str, variables: &Variables) -> Output {
        let path = format!(
            "{}/bin:{}",
            text(&self.home),
            std::env::var("PATH").unwrap()
        );
        Command::new("bash")
            .args(["-eo", "pipefail", "-c", script])
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", path)
            .envs(variables)
            .current_dir(&self.checkout)
            .output()
            .unwrap()
    }

    /// The example's variables, with this test's store.
    fn variables(&self, example: &Yaml, more: &[(&str, &str)]) -> Variables {
        let mut all = strings(example);
        let real = all["DEPLOYFS"].replace("/srv/store", text(&self.site.store));
        assert_ne!(all["DEPLOYFS"], real);
        all.insert("DEPLOYFS".into(), real);
        all.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        all
    }

    fn live(&self) -> String {
        self.site.json(["status"])["live"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    /// Runs the GitHub example for an event, as far as its steps succeed; what the steps said and how the last one ended.
    fn github(&self, event: &str, reference: &str) -> (String, Output) {
        let example = load(GITHUB);
        let job = &example["jobs"]["deploy"];
        let file = |name: &str| text(&self.home.join(name)).to_owned();
        let mut variables = self.variables(
            &example["env"],
            &[
                ("GITHUB_SHA", "1a2b3c"),
                ("GITHUB_RUN_ID", "7"),
                ("GITHUB_REF_NAME", reference),
                ("GITHUB_ENV", &file("env")),
                ("GITHUB_STEP_SUMMARY", &file("summary")),
            ],
        );
        let mut said = String::new();
        for step in job["steps"].as_vec().unwrap() {
            let wanted = format!("github.event_name == '{event}'");
            if step["if"]
                .as_str()
                .is_some_and(|condition| condition != wanted)
            {
                continue;
            }
            let Some(script) = step["run"].as_str() else {
                assert!(step["uses"].as_str().is_some());
                continue;
            };
            assert!(
                !script.contains("${{"),
                "what comes from outside belongs into the environment"
            );
            let mut of_step = variables.clone();
            of_step.extend(
                strings(&step["env"])
                    .into_keys()
                    .map(|name| (name, "a secret".into())),
            );
            let out = self.shell(script, &of_step);
            said += &stdout(&out);
            if !out.status.success() {
                return (said, out);
            }
            let set = fs::read_to_string(self.home.join("env")).unwrap_or_default();
            let set = set.lines().filter_map(|line| line.split_once('='));
            variables.extend(set.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        (said, self.shell("true", &variables))
    }

    /// Runs these jobs of the GitLab example; what the last one said.
    fn gitlab(&self, jobs: [&str; 2], number: &str) -> Output {
        let example = load(GITLAB);
        let key = self.home.join("key");
        fs::write(&key, "a secret").unwrap();
        let variables = self.variables(
            &example["variables"],
            &[
                ("DEPLOY_KEY", text(&key)),
                ("DEPLOY_HOST_KEYS", text(&key)),
                ("CI_JOB_ID", number),
                ("CI_COMMIT_SHA", "1a2b3c"),
                ("CI_MERGE_REQUEST_IID", "17"),
            ],
        );
        let outs = jobs.map(|job| {
            assert!(example[job]["script"].as_vec().is_some(), "{job}");
            self.shell(&lines(&example[job]["script"]).join("\n"), &variables)
        });
        assert!(outs[0].status.success(), "{}", stderr(&outs[0]));
        let [_, last] = outs;
        last
    }
}

fn load(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).expect("valid YAML");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn strings(table: &Yaml) -> Variables {
    let Some(table) = table.as_hash() else {
        return Variables::new();
    };
    let pairs = table
        .iter()
        .map(|(key, value)| (key.as_str().unwrap(), value.as_str().unwrap()));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The lines of a script; GitLab takes lists in it apart.
fn lines(script: &Yaml) -> Vec<String> {
    match script {
        Yaml::Array(parts) => parts.iter().flat_map(lines).collect(),
        other => vec![other.as_str().expect("a line of shell").to_owned()],
    }
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

#[test]
fn the_github_example_builds_copies_seals_checks_and_goes_live() {
    let ci = Ci::new();
    let (said, end) = ci.github("push", "main");
    assert!(end.status.success(), "{said}\n{}", stderr(&end));
    let one = address(&said, "preview.example.com");
    mentions(&said, &["2 new and 0 changed files"]);
    assert_eq!(
        (ci.live(), ci.site.read("index.html")),
        (one.clone(), "first".into())
    );
    assert_eq!(
        ci.site.json(["show", "live"])["meta"],
        json!({ "git_sha": "1a2b3c", "run": "7" })
    );
    let summary = fs::read_to_string(ci.home.join("summary")).unwrap();
    assert_eq!(address(&summary, "preview.example.com"), one);
    let hosts = fs::read_to_string(ci.home.join("hosts")).unwrap();
    assert!(
        hosts.lines().all(|host| host == "deploy@www.example.com"),
        "{hosts}"
    );
    let key = ci.home.join(".ssh/id_ed25519");
    assert_eq!(
        fs::metadata(key).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // A pull request is shown and does not go live.
    ci.change(&[("index.html", "second"), ("same.html", "same")]);
    let (said, end) = ci.github("pull_request", "17/merge");
    assert!(end.status.success(), "{said}\n{}", stderr(&end));
    mentions(
        &said,
        &[
            "0 new and 1 changed files",
            "https://pr-17.preview.example.com/",
        ],
    );
    let two = address(&said, "preview.example.com");
    assert_eq!(
        fs::read_to_string(ci.site.path("channels/pr-17/index.html")).unwrap(),
        "second"
    );
    assert_eq!(
        ci.site.json(["channel", "list"])[0]["deploy_id"],
        json!(two)
    );
    assert_eq!(ci.live(), one);

    // A build that fails the check stays where it is, and the job fails.
    ci.change(&[("index.html", ""), ("same.html", "same")]);
    let (said, end) = ci.github("push", "main");
    assert_eq!(end.status.code(), Some(3), "{said}");
    mentions(&stderr(&end), &["the check of"]);
    assert_eq!(ci.live(), one);
    assert_eq!(ci.site.json(["list"]).as_array().unwrap().len(), 3);
}

#[test]
fn the_gitlab_example_copies_into_staging_seals_checks_and_goes_live() {
    let ci = Ci::new();
    let end = ci.gitlab(["build", "live"], "1");
    assert!(end.status.success(), "{}", stderr(&end));
    let one = address(&stdout(&end), "preview.example.com");
    mentions(&stdout(&end), &["2 new and 0 changed files"]);
    assert_eq!(
        (ci.live(), ci.site.read("index.html")),
        (one.clone(), "first".into())
    );

    ci.change(&[("index.html", "second"), ("dir/more.html", "more")]);
    let end = ci.gitlab(["build", "preview"], "2");
    assert!(end.status.success(), "{}", stderr(&end));
    assert_eq!(
        fs::read_to_string(ci.site.path("channels/mr-17/dir/more.html")).unwrap(),
        "more"
    );
    let dotenv = fs::read_to_string(ci.checkout.join("deploy.env")).unwrap();
    assert_eq!(dotenv, "PREVIEW_URL=https://mr-17.preview.example.com/\n");
    assert_eq!(ci.live(), one);

    // What has gone live since the job looked is not overwritten.
    let faster = ci.site.seal(&[("index.html", "faster")]);
    let ssh = ci.home.join("bin/ssh");
    let before_sealing = format!(
        r#"case "$*" in *" seal "*) deployfs --store {} activate {faster} >&2 ;; esac"#,
        text(&ci.site.store)
    );
    fs::write(&ssh, format!("#!/bin/sh\n{before_sealing}\n{SSH}\n")).unwrap();
    let end = ci.gitlab(["build", "live"], "3");
    assert_eq!(end.status.code(), Some(3), "{}", stderr(&end));
    mentions(&stderr(&end), &[&faster, "is live, not"]);
    assert_eq!(ci.live(), faster);
    assert_eq!(ci.site.json(["status"])["staging"], json!([]));
}
