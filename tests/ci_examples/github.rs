//! The example for GitHub Actions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::expression::{evaluate, is_true};
use super::*;

const GITHUB: &str = include_str!("../../examples/ci/github-actions.yml");

/// What became of a workflow's jobs.
#[derive(Debug, Default)]
struct Run {
    /// `success`, `failure` or `skipped`, by job.
    results: BTreeMap<String, String>,
    said: String,
    /// What the step that failed said, and its exit code.
    failure: Option<(String, Option<i32>)>,
}

/// The values of expressions: contexts of the run, outputs of jobs and steps.
type Contexts = BTreeMap<String, String>;

/// Puts values in the place of `${{ … }}`.
fn filled(text: &str, contexts: &Contexts) -> String {
    let mut parts = text.split("${{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once("}}").expect("the end of an expression");
        out += &evaluate(inner, &|name| {
            contexts.get(name).cloned().unwrap_or_default()
        });
        out += rest;
    }
    out
}

fn event(name: &str, reference: &str, is_fork: bool) -> Contexts {
    let head = if is_fork { "somebody/site" } else { "us/site" };
    [
        ("github.event_name", name),
        ("github.ref_name", reference),
        ("github.repository", "us/site"),
        ("github.event.pull_request.head.repo.full_name", head),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Ci {
    /// Runs the workflow; `between` is called before each job with its name.
    fn github(&self, contexts: &Contexts, between: &dyn Fn(&str)) -> Run {
        let example = load(GITHUB);
        let mut contexts = contexts.clone();
        let is_fork = contexts["github.event.pull_request.head.repo.full_name"] != "us/site";
        let mut run = Run::default();
        self.fresh("artifacts");
        for (name, job) in example["jobs"].as_hash().unwrap() {
            let name = name.as_str().unwrap();
            between(name);
            let needs: Vec<&str> = match &job["needs"] {
                Yaml::Array(all) => all.iter().map(|job| job.as_str().unwrap()).collect(),
                one => one.as_str().into_iter().collect(),
            };
            let is_wanted = match job["if"].as_str() {
                // A condition without a function for the state is about jobs that succeeded only.
                Some(condition) => {
                    let holds = is_true(&evaluate(condition, &|name| {
                        contexts.get(name).cloned().unwrap_or_default()
                    }));
                    holds
                        && (condition.contains("cancelled()")
                            || needs.iter().all(|job| run.results[*job] == "success"))
                }
                None => needs.iter().all(|job| run.results[*job] == "success"),
            };
            let environment = job["environment"]
                .as_str()
                .map(|text| filled(text, &contexts));
            let key = match environment.as_deref() {
                _ if is_fork => "",
                Some("production") => "live",
                Some("preview") => "preview",
                _ => "",
            };
            contexts.insert("secrets.DEPLOY_KEY".into(), key.into());
            contexts.insert("secrets.DEPLOY_HOST_KEYS".into(), "host key".into());
            let result = match is_wanted {
                false => "skipped",
                true if self.github_job(&example, job, &mut contexts, &mut run) => "success",
                true => "failure",
            };
            for (output, value) in strings(&job["outputs"]) {
                let value = filled(&value, &contexts);
                contexts.insert(format!("needs.{name}.outputs.{output}"), value);
            }
            contexts.insert(format!("needs.{name}.result"), result.into());
            run.results.insert(name.into(), result.into());
        }
        run
    }

    fn github_job(
        &self,
        example: &Yaml,
        job: &Yaml,
        contexts: &mut Contexts,
        run: &mut Run,
    ) -> bool {
        let (work, home) = (self.fresh("work"), self.fresh("home"));
        let mut variables = self.variables(&example["env"]);
        for (name, value) in strings(&job["env"]) {
            variables.insert(name, filled(&value, contexts));
        }
        for (name, value) in [("GITHUB_SHA", "1a2b3c"), ("GITHUB_RUN_ID", "7")] {
            variables.insert(name.into(), value.into());
        }
        variables.insert(
            "GITHUB_REF_NAME".into(),
            contexts["github.ref_name"].clone(),
        );
        for name in ["ENV", "OUTPUT", "STEP_SUMMARY"] {
            let file = home.join(name);
            fs::write(&file, "").unwrap();
            variables.insert(format!("GITHUB_{name}"), text(&file).into());
        }
        for step in job["steps"].as_vec().unwrap() {
            let condition = step["if"].as_str().unwrap_or("'true'");
            if !is_true(&evaluate(condition, &|name| {
                contexts.get(name).cloned().unwrap_or_default()
            })) {
                continue;
            }
            let Some(script) = step["run"].as_str() else {
                self.github_action(step, &work);
                continue;
            };
            assert!(
                !script.contains("${{"),
                "what comes from outside belongs into the environment"
            );
            let mut of_step = variables.clone();
            for (name, value) in strings(&step["env"]) {
                of_step.insert(name, filled(&value, contexts));
            }
            // As GitHub's documentation has them, by what 'shell:' says.
            let shell = step["shell"]
                .as_str()
                .or(example["defaults"]["run"]["shell"].as_str());
            let shell: &[&str] = match shell {
                Some("bash") => &["bash", "--noprofile", "--norc", "-eo", "pipefail"],
                None => &["bash", "-e"],
                Some(other) => panic!("{other}"),
            };
            let out = self.shell(shell, script, &work, &home, &of_step);
            run.said += &stdout(&out);
            if !out.status.success() {
                run.failure = Some((stderr(&out), out.status.code()));
                return false;
            }
            let pairs = |file: &Path| -> Vec<(String, String)> {
                let text = fs::read_to_string(file).unwrap();
                let lines = text.lines().filter_map(|line| line.split_once('='));
                lines
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect()
            };
            variables.extend(pairs(&home.join("ENV")));
            if let Some(id) = step["id"].as_str() {
                let outputs = pairs(&home.join("OUTPUT"));
                contexts.extend(
                    outputs
                        .into_iter()
                        .map(|(name, value)| (format!("steps.{id}.outputs.{name}"), value)),
                );
            }
        }
        true
    }

    fn github_action(&self, step: &Yaml, work: &Path) {
        let artifact = || {
            self.path("artifacts")
                .join(step["with"]["name"].as_str().unwrap())
        };
        let action = step["uses"]
            .as_str()
            .expect("a step runs or uses something");
        match action.split_once('@').unwrap().0 {
            "actions/checkout" => {
                sh(&format!(
                    "cp -a {}/. {}",
                    text(&self.path("repository")),
                    text(work)
                ));
            }
            "actions/setup-node" => {}
            "actions/upload-artifact" => {
                let path = work.join(step["with"]["path"].as_str().unwrap());
                let name = path.file_name().unwrap().to_owned();
                fs::create_dir_all(artifact()).unwrap();
                fs::copy(path, artifact().join(name)).unwrap();
            }
            "actions/download-artifact" => {
                sh(&format!("cp -a {}/. {}", text(&artifact()), text(work)));
            }
            other => panic!("{other}"),
        }
    }
}

fn results(run: &Run) -> Vec<(&str, &str)> {
    run.results
        .iter()
        .map(|(job, result)| (&**job, &**result))
        .collect()
}

#[test]
fn the_github_example_builds_copies_seals_and_goes_live_with_a_free_key_and_a_restricted_one() {
    for is_restricted in [false, true] {
        let ci = Ci::new(is_restricted);
        let run = ci.github(&event("push", "main", false), &|_| ());
        assert_eq!(run.failure, None);
        let one = address(&run.said, "preview.example.com");
        mentions(&run.said, &["3 new and 0 changed files"]);
        assert_eq!(
            (ci.live(), ci.site.read("index.html")),
            (one.clone(), "first".into())
        );
        assert_eq!(ci.site.read(".well-known/x y"), "hidden");
        let meta = json!({ "git_sha": "1a2b3c", "run": "7" });
        assert_eq!(ci.site.json(["show", "live"])["meta"], meta);
        let hosts = fs::read_to_string(ci.path("hosts")).unwrap();
        assert!(
            hosts.lines().all(|host| host == "deploy@www.example.com"),
            "{hosts}"
        );

        // A pull request is shown and does not go live.
        ci.change(&[
            ("index.html", "second"),
            ("same.html", "same"),
            (".well-known/x y", "hidden"),
        ]);
        let run = ci.github(&event("pull_request", "17/merge", false), &|_| ());
        assert_eq!(run.failure, None);
        assert_eq!(
            results(&run),
            [
                ("before", "skipped"),
                ("build", "success"),
                ("deploy", "success")
            ]
        );
        mentions(
            &run.said,
            &[
                "0 new and 1 changed files",
                "https://pr-17.preview.example.com/",
            ],
        );
        assert_eq!(
            fs::read_to_string(ci.site.path("channels/pr-17/index.html")).unwrap(),
            "second"
        );
        assert_eq!(ci.live(), one);

        // A build without a front page, or one that the server's check refuses, stays where it is, and the run is red.
        ci.change(&[("index.html", "")]);
        let run = ci.github(&event("push", "main", false), &|_| ());
        assert_eq!(
            results(&run),
            [
                ("before", "success"),
                ("build", "failure"),
                ("deploy", "skipped")
            ]
        );
        if is_restricted {
            ci.change(&[("index.html", "bad")]);
            let run = ci.github(&event("push", "main", false), &|_| ());
            let (said, code) = run.failure.unwrap();
            assert_eq!(code, Some(3), "{said}");
            mentions(&said, &["the check of"]);
        }
        assert_eq!(ci.live(), one);
    }
}

#[test]
fn on_github_a_slow_build_does_not_overwrite_a_newer_release_and_half_an_archive_is_never_sent() {
    let ci = Ci::new(true);
    let newer = ci.site.seal(&[("index.html", "newer")]);
    let faster = |job: &str| {
        if job == "build" {
            ci.site.activate(&newer);
        }
    };
    let run = ci.github(&event("push", "main", false), &faster);
    let (said, code) = run.failure.unwrap();
    assert_eq!(code, Some(3), "{said}");
    mentions(&said, &[&newer, "is live, not"]);
    assert_eq!(ci.live(), newer);

    let before = ci.deploys();
    ci.change(&[("index.html", "third")]);
    ci.program("tar", HALF_A_TAR);
    let run = ci.github(&event("push", "main", false), &|_| ());
    assert_eq!(run.failure.unwrap().1, Some(2));
    assert_eq!((ci.live(), ci.deploys()), (newer, before));
}

#[test]
fn on_github_a_fork_s_pull_request_is_green_without_secrets_and_code_of_others_runs_without_a_key()
{
    let ci = Ci::new(true);
    let run = ci.github(&event("pull_request", "18/merge", true), &|_| ());
    assert_eq!(run.failure, None);
    assert_eq!(
        results(&run),
        [
            ("before", "skipped"),
            ("build", "success"),
            ("deploy", "skipped")
        ]
    );
    assert_eq!(ci.deploys(), 0);

    let example = load(GITHUB);
    assert!(example["concurrency"]["group"].as_str().is_some());
    for (name, job) in example["jobs"].as_hash().unwrap() {
        let job_text = format!("{job:?}");
        let runs_code_of_others = job_text.contains("npm ");
        assert_eq!(runs_code_of_others, name.as_str() == Some("build"));
        assert!(
            !(runs_code_of_others
                && (job_text.contains("secrets") || job_text.contains("environment")))
        );
        assert_eq!(runs_code_of_others, job_text.contains("actions/setup-node"));
    }
}
