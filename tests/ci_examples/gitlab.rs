//! The example for GitLab CI.

use std::fs;

use super::expression::{evaluate, is_true};
use super::*;

const GITLAB: &str = include_str!("../../examples/ci/gitlab-ci.yml");

/// GitLab's scripts run so where the image has bash, and as `sh` elsewhere, whose pipes hide errors.
const SHELLS: [&[&str]; 2] = [&["bash", "-eo", "pipefail"], &["sh", "-e"]];

/// What became of a pipeline: the jobs that ran, and how the last one ended.
struct Pipeline {
    jobs: Vec<String>,
    last: Output,
    said: String,
}

/// The lines of a script; GitLab takes lists in it apart.
fn lines(script: &Yaml) -> Vec<String> {
    match script {
        Yaml::Array(parts) => parts.iter().flat_map(lines).collect(),
        other => vec![other.as_str().expect("a line of shell").to_owned()],
    }
}

fn pushed() -> Variables {
    [("CI_PIPELINE_SOURCE", "push"), ("CI_COMMIT_BRANCH", "main")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn merge_request(from: &str) -> Variables {
    [
        ("CI_PIPELINE_SOURCE", "merge_request_event"),
        ("CI_MERGE_REQUEST_IID", "17"),
        ("CI_MERGE_REQUEST_PROJECT_ID", "1"),
        ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", from),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Ci {
    /// Runs the pipeline as far as its jobs succeed; `between` is called before each job with its name.
    fn gitlab(&self, shell: &[&str], variables: &Variables, between: &dyn Fn(&str)) -> Pipeline {
        let example = load(GITLAB);
        let mut variables = variables.clone();
        variables.extend(self.variables(&example["variables"]));
        for (name, value) in [("CI_DEFAULT_BRANCH", "main"), ("CI_COMMIT_SHA", "1a2b3c")] {
            variables.insert(name.into(), value.into());
        }
        let artifacts = self.fresh("artifacts");
        let mut pipeline = Pipeline {
            jobs: Vec::new(),
            last: self.shell(&["true"], "", &artifacts, &artifacts, &Variables::new()),
            said: String::new(),
        };
        for stage in example["stages"].as_vec().unwrap() {
            for (name, job) in example.as_hash().unwrap() {
                let name = name.as_str().unwrap();
                if name.starts_with('.')
                    || job["stage"] != *stage
                    || !is_in_pipeline(job, &variables)
                {
                    continue;
                }
                between(name);
                pipeline.jobs.push(name.to_owned());
                let out = self.gitlab_job(shell, job, &mut variables);
                pipeline.said += &stdout(&out);
                pipeline.last = out;
                if !pipeline.last.status.success() {
                    return pipeline;
                }
            }
        }
        pipeline
    }

    fn gitlab_job(&self, shell: &[&str], job: &Yaml, variables: &mut Variables) -> Output {
        let (work, home) = (self.fresh("work"), self.fresh("home"));
        let artifacts = self.path("artifacts");
        sh(&format!(
            "cp -a {}/. {}/. {}",
            text(&self.path("repository")),
            text(&artifacts),
            text(&work)
        ));
        let mut of_job = variables.clone();
        // Variables with a scope: another key for each environment, and none without one.
        if let Some(environment) = job["environment"]["name"].as_str() {
            let may = if environment == "production" {
                "live"
            } else {
                "preview"
            };
            for (name, value) in [("DEPLOY_KEY", may), ("DEPLOY_HOST_KEYS", "host key")] {
                fs::write(home.join(name), value).unwrap();
                of_job.insert(name.into(), text(&home.join(name)).into());
            }
        }
        let out = self.shell(
            shell,
            &lines(&job["script"]).join("\n"),
            &work,
            &home,
            &of_job,
        );
        if out.status.success() {
            for path in job["artifacts"]["paths"].as_vec().into_iter().flatten() {
                let path = path.as_str().unwrap();
                fs::copy(work.join(path), artifacts.join(path)).unwrap();
            }
            if let Some(file) = job["artifacts"]["reports"]["dotenv"].as_str() {
                let text = fs::read_to_string(work.join(file)).unwrap();
                let pairs = text.lines().filter_map(|line| line.split_once('='));
                variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
        }
        out
    }
}

/// The first rule that holds; a job without rules is in no merge request's pipeline.
fn is_in_pipeline(job: &Yaml, variables: &Variables) -> bool {
    let value = |name: &str| {
        let name = name.strip_prefix('$').expect("a variable");
        variables.get(name).cloned().unwrap_or_default()
    };
    match job["rules"].as_vec() {
        Some(rules) => rules
            .iter()
            .any(|rule| is_true(&evaluate(rule["if"].as_str().unwrap(), &value))),
        None => variables["CI_PIPELINE_SOURCE"] != "merge_request_event",
    }
}

#[test]
fn the_gitlab_example_builds_copies_seals_and_goes_live_and_shows_merge_requests() {
    for (is_restricted, shell) in [(false, SHELLS[0]), (true, SHELLS[1])] {
        let ci = Ci::new(is_restricted);
        let pipeline = ci.gitlab(shell, &pushed(), &|_| ());
        assert!(pipeline.last.status.success(), "{}", stderr(&pipeline.last));
        assert_eq!(pipeline.jobs, ["before", "build", "live"]);
        let one = address(&pipeline.said, "preview.example.com");
        mentions(&pipeline.said, &["3 new and 0 changed files"]);
        assert_eq!(
            (ci.live(), ci.site.read("index.html")),
            (one.clone(), "first".into())
        );
        assert_eq!(ci.site.read(".well-known/x y"), "hidden");

        ci.change(&[("index.html", "second"), ("dir/more.html", "more")]);
        let pipeline = ci.gitlab(shell, &merge_request("1"), &|_| ());
        assert!(pipeline.last.status.success(), "{}", stderr(&pipeline.last));
        assert_eq!(pipeline.jobs, ["build", "preview"]);
        let shown = ci.site.path("channels/mr-17/dir/more.html");
        assert_eq!(fs::read_to_string(shown).unwrap(), "more");
        let dotenv = fs::read_to_string(ci.path("work/deploy.env")).unwrap();
        assert_eq!(dotenv, "PREVIEW_URL=https://mr-17.preview.example.com/\n");
        assert_eq!(ci.live(), one);
    }
}

#[test]
fn on_gitlab_a_slow_build_does_not_overwrite_a_newer_release_and_half_an_archive_is_never_sent() {
    for shell in SHELLS {
        let ci = Ci::new(true);
        let newer = ci.site.seal(&[("index.html", "newer")]);
        let faster = |job: &str| {
            if job == "build" {
                ci.site.activate(&newer);
            }
        };
        let pipeline = ci.gitlab(shell, &pushed(), &faster);
        assert_eq!(
            pipeline.last.status.code(),
            Some(3),
            "{}",
            stderr(&pipeline.last)
        );
        mentions(&stderr(&pipeline.last), &[&newer, "is live, not"]);
        assert_eq!(ci.live(), newer);

        let before = ci.deploys();
        ci.change(&[("index.html", "third")]);
        ci.program("tar", HALF_A_TAR);
        let pipeline = ci.gitlab(shell, &pushed(), &|_| ());
        assert_eq!(pipeline.last.status.code(), Some(2));
        assert_eq!(pipeline.jobs, ["before", "build"]);
        assert_eq!((ci.live(), ci.deploys()), (newer, before));
    }
}

#[test]
fn on_gitlab_a_fork_s_merge_request_is_built_only_and_code_of_others_runs_without_a_key() {
    let ci = Ci::new(true);
    let pipeline = ci.gitlab(SHELLS[0], &merge_request("2"), &|_| ());
    assert!(pipeline.last.status.success());
    assert_eq!(pipeline.jobs, ["build"]);
    assert_eq!(ci.deploys(), 0);
    // A branch that is not the default one has no pipeline of its own besides its merge request's.
    let mut branch = pushed();
    branch.insert("CI_COMMIT_BRANCH".into(), "feature".into());
    assert_eq!(ci.gitlab(SHELLS[0], &branch, &|_| ()).jobs, [""; 0]);
    let example = load(GITLAB);
    assert!(example["build"]["environment"].is_badvalue());
    assert_eq!(
        example["live"]["resource_group"].as_str(),
        Some("production")
    );
}
