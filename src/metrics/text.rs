//! The metrics as text, in Prometheus' own form (text/plain; version=0.0.4). The README lists the names; they do not change.

use std::fmt::Write;

use crate::model::report::StatusReport;

/// The metrics of this moment.
pub fn text(status: &StatusReport) -> String {
    let mut page = Page::default();
    state(&mut page, status);
    amounts(&mut page, status);
    counters(&mut page, status);
    page.0
}

fn state(page: &mut Page, status: &StatusReport) {
    let mountpoint = status
        .mountpoint
        .as_ref()
        .map(|path| path.display().to_string());
    page.gauge("info", "What this is; always 1.");
    page.labelled(
        "info",
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("store", &status.store.display().to_string()),
            ("uuid", &status.uuid),
            ("mountpoint", &mountpoint.unwrap_or_default()),
        ],
        1,
    );
    page.gauge("live_info", "The deploy that is live; always 1.");
    if let Some(live) = status.live {
        page.labelled("live_info", &[("deploy_id", &live.to_string())], 1);
    }
    let mut one = |name: &str, help: &str, value: u64| {
        page.gauge(name, help);
        page.plain(name, value);
    };
    one(
        "live_since_seconds",
        "When it was made live, seconds since 1970; 0: nothing is.",
        status.live_since.unwrap_or(0),
    );
    one(
        "mounted_since_seconds",
        "When it was mounted, seconds since 1970.",
        status.mounted_since.unwrap_or(0),
    );
    one(
        "mount_read_only",
        "1 as it should be, 0 where somebody has remounted it read-write.",
        u64::from(status.mount_read_only.unwrap_or(true)),
    );
    one(
        "index_ready",
        "1 once the index can be asked.",
        u64::from(status.index == "ready"),
    );
    one(
        "locked",
        "1 while what is live is locked.",
        u64::from(status.lock.is_some()),
    );
    one(
        "hook_failed",
        "1 where the last run of post-activate failed.",
        u64::from(
            status
                .hook
                .as_ref()
                .is_some_and(|hook| hook.problem.is_some()),
        ),
    );
}

fn amounts(page: &mut Page, status: &StatusReport) {
    let mut one = |name: &str, help: &str, value: u64| {
        page.gauge(name, help);
        page.plain(name, value);
    };
    one(
        "live_files",
        "Files in the live deploy.",
        status.live_files.unwrap_or(0),
    );
    one(
        "live_bytes",
        "Bytes of those files.",
        status.live_bytes.unwrap_or(0),
    );
    one("deploys", "Deploys in the store.", status.deploys);
    one("files", "Files in all deploys together.", status.files);
    one(
        "logical_bytes",
        "What all deploys would take if each were a copy.",
        status.logical_bytes,
    );
    one("chunks", "Chunks in the packs.", status.chunks);
    one(
        "unique_bytes",
        "Their bytes before compression.",
        status.unique_bytes,
    );
    one("stored_bytes", "Bytes of the packs.", status.pack_bytes);
    one(
        "disk_free_bytes",
        "Bytes that are free on the store's disk.",
        status.disk_free_bytes.unwrap_or(0),
    );
    one(
        "staging_folders",
        "Folders in staging.",
        status.staging.len() as u64,
    );
    one(
        "kernel_names",
        "Files and folders that the kernel holds.",
        count(status, "nodes"),
    );
    page.gauge("cache_bytes", "Bytes that the daemon's caches take.");
    for cache in CACHES {
        let bytes = count(status, &format!("{cache}_bytes"));
        page.labelled("cache_bytes", &[("cache", cache)], bytes);
    }
}

fn counters(page: &mut Page, status: &StatusReport) {
    page.counter(
        "upcalls_total",
        "Calls of the kernel that a process waited for.",
    );
    let upcalls = status.upcalls.iter();
    for (kind, count) in upcalls.filter(|(kind, _)| !NO_UPCALLS.contains(&kind.as_str())) {
        page.labelled("upcalls_total", &[("kind", kind)], *count);
    }
    page.counter("flips_total", "How often live came to show another deploy.");
    page.plain(
        "flips_total",
        status.upcalls.get("flips").copied().unwrap_or(0),
    );
    for kind in ["hits", "misses"] {
        let name = format!("cache_{kind}_total");
        page.counter(&name, &format!("Look-ups in the daemon's caches: {kind}."));
        for cache in CACHES {
            let count = count(status, &format!("{cache}_{kind}"));
            page.labelled(&name, &[("cache", cache)], count);
        }
    }
    page.counter("read_errors_total", "Reads through the mount that failed.");
    page.plain("read_errors_total", status.errors_total);
    page.counter("records_total", "Records in the history.");
    for (verb, count) in &status.records {
        page.labelled("records_total", &[("verb", verb)], *count);
    }
}

const CACHES: [&str; 3] = ["trees", "lists", "chunks"];
/// What stands among the upcalls and is none: their sum, what no process waits for, flips.
const NO_UPCALLS: [&str; 3] = ["total", "forget", "flips"];

fn count(status: &StatusReport, name: &str) -> u64 {
    status.caches.get(name).copied().unwrap_or(0)
}

/// Lines of text; every name begins with `deployfs_`.
#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str) {
        self.head(name, help, "gauge");
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.head(name, help, "counter");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP deployfs_{name} {help}"));
        self.line(format_args!("# TYPE deployfs_{name} {kind}"));
    }

    fn plain(&mut self, name: &str, value: u64) {
        self.line(format_args!("deployfs_{name} {value}"));
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        self.line(format_args!(
            "deployfs_{name}{{{}}} {value}",
            labels.join(",")
        ));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("a string takes everything");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_type_before_it_and_labels_are_escaped() {
        let mut status = StatusReport {
            store: "/srv/a\"b\\c\nd".into(),
            live: Some("0123456789abcdef".parse().unwrap()),
            ..StatusReport::default()
        };
        status.records.insert("seal".into(), 3);
        status.upcalls.insert("lookup".into(), 5);
        status.upcalls.insert("total".into(), 5);
        let page = text(&status);
        assert!(page.contains(r#"store="/srv/a\"b\\c\nd""#), "{page}");
        assert!(page.contains("deployfs_upcalls_total{kind=\"lookup\"} 5\n"));
        assert!(!page.contains("kind=\"total\""));
        let mut typed = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                typed = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, typed, "{line}");
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<u64>().is_ok(), "{line}");
            }
        }
    }
}
