//! 503 while nothing is mounted, or the daemon of what is mounted is dead: neither a wrong page nor a 404 that crawlers believe.

use std::fs;

use super::*;

const LIVE: &str = "example.com";

fn pages(site: &Site, number: usize) -> String {
    site.seal(&[
        ("index.html", &format!("home {number}")),
        ("docs/index.html", &format!("docs {number}")),
        ("docs/deep.html", "deep"),
        ("404.html", "not here"),
        ("plain.js", "plain"),
        ("app.0123abcd.js", "hashed"),
        ("assets/app.js", &format!("asset {number}")),
    ])
}

/// Paths of which nothing is warm while only the home page was asked for.
const COLD: [&str; 9] = [
    "/docs/",
    "/docs/deep.html",
    "/plain.js",
    "/app.0123abcd.js",
    "/assets/app.js",
    "/assets/",
    "/404.html",
    "/a/route",
    "/gone.js",
];

/// Over a connection of its own: servers close it after an error.
fn assert_unavailable(server: &WebServer, host: &str, path: &str, state: &str) {
    let answer = server.connect(host).get(path);
    assert_eq!(answer.status, 503, "{state}, {host}{path}: {answer:?}");
    let caching = answer.header("cache-control").unwrap_or_default();
    assert!(!caching.contains("max-age"), "{state}, {path}: {caching}");
    assert!(answer.header("retry-after").is_some(), "{state}, {path}");
}

fn assert_503(start: impl FnOnce(&Site) -> WebServer) {
    let site = Site::new();
    let ids = [pages(&site, 0), pages(&site, 1)];
    site.activate(&ids[0]);
    site.ok(["channel", "set", "pr-17", &ids[1]]);
    let server = start(&site);
    let hosts = [
        LIVE.to_owned(),
        format!("{}.preview.example.com", ids[1]),
        "pr-17.preview.example.com".to_owned(),
    ];
    drop_caches();
    let kept = keep_caches();
    assert_eq!(server.connect(LIVE).get("/").text(), "home 0");
    // A folder that is known, and its pages are not; the same of a name that is not there.
    assert!(site.live("docs").is_dir());
    assert!(!site.live("known-as-missing.js").exists());
    site.signal_daemon(libc::SIGKILL);

    let home = server.connect(LIVE).get("/");
    let is_right = (home.status, home.text()) == (200, "home 0") || home.status == 503;
    assert!(is_right, "what is warm is right: {home:?}");
    let known = server.connect(LIVE).get("/known-as-missing.js").status;
    assert!([404, 503].contains(&known), "{known}");
    let known = server.connect(LIVE).get("/docs").status;
    assert!([301, 308, 503].contains(&known), "{known}");
    for host in &hosts {
        for path in COLD {
            assert_unavailable(&server, host, path, "dead");
        }
        if host != LIVE {
            assert_unavailable(&server, host, "/", "dead");
        }
    }
    drop(kept);

    site.umount();
    assert_eq!(fs::read_dir(&site.mnt).unwrap().count(), 0);
    for host in &hosts {
        for path in COLD.into_iter().chain(["/"]) {
            assert_unavailable(&server, host, path, "not mounted");
        }
    }

    site.mount(&[]);
    for (host, page) in hosts.iter().zip(["home 0", "home 1", "home 1"]) {
        let mut http = server.connect(host);
        for path in ["/", "/a/route"] {
            let answer = http.get(path);
            assert_eq!((answer.status, answer.text()), (200, page), "{host} {path}");
        }
        for path in ["/gone.js", "/known-as-missing.js"] {
            assert_eq!(http.get(path).status, 404, "{host} {path}");
        }
        assert_eq!(http.get("/docs/deep.html").text(), "deep", "{host}");
    }
    assert_flips(&site, &server, &ids);
}

#[test]
fn nginx_answers_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_503(nginx);
}

#[test]
fn apache_answers_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_503(apache);
}

#[test]
fn caddy_answers_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_503(caddy);
}

fn assert_warm_requests_cost_no_call(start: impl FnOnce(&Site) -> WebServer) {
    let site = Site::new();
    let id = pages(&site, 0);
    site.activate(&id);
    site.ok(["channel", "set", "pr-17", &id]);
    let server = start(&site);
    let kept = keep_caches();
    let mut all = [LIVE, "pr-17.preview.example.com"].map(|host| server.connect(host));
    let mut ask = || {
        for http in &mut all {
            for path in COLD.into_iter().chain(["/"]) {
                // Caddy asks whether the daemon lives before it says that a folder has no index.
                if path != "/assets/" {
                    http.get(path);
                }
            }
        }
    };
    // Two workers, each with a connection of its own.
    ask();
    let calls = site.upcalls_during(|| (0..20).for_each(|_| ask()));
    drop(kept);
    assert_eq!(calls, 0, "pages, routes and missing files alike");
}

#[test]
fn p9_warm_pages_routes_and_missing_files_cost_no_call_behind_nginx() {
    assert_warm_requests_cost_no_call(nginx);
}

#[test]
fn p9_warm_pages_routes_and_missing_files_cost_no_call_behind_apache() {
    assert_warm_requests_cost_no_call(apache);
}

#[test]
fn p9_warm_pages_routes_and_missing_files_cost_no_call_behind_caddy() {
    assert_warm_requests_cost_no_call(caddy);
}

fn assert_php_503(start: impl FnOnce(&Site, &dyn Fn(&str) -> String) -> WebServer) {
    let site = Site::new();
    let script = "<?php echo 'ran';";
    let id = site.seal(&[("index.php", script), ("cold.php", script)]);
    site.activate(&id);
    let folder = tempfile::tempdir().unwrap();
    sh(&format!("chmod 755 {}", folder.path().display()));
    let _php = PhpFpm::start(folder.path());
    let socket = folder.path().join("php.sock");
    let server = start(&site, &|ours| with_php(ours, text(&socket)));
    drop_caches();
    let kept = keep_caches();
    assert_eq!(server.connect(LIVE).get("/index.php").text(), "ran");
    assert_eq!(server.connect(LIVE).get("/gone.php").status, 404);
    site.signal_daemon(libc::SIGKILL);
    for path in ["/cold.php", "/gone-too.php"] {
        assert_unavailable(&server, LIVE, path, "dead");
    }
    drop(kept);
    site.umount();
    for path in ["/index.php", "/gone.php"] {
        assert_unavailable(&server, LIVE, path, "not mounted");
    }
    site.mount(&[]);
    assert_eq!(server.connect(LIVE).get("/cold.php").text(), "ran");
    assert_eq!(server.connect(LIVE).get("/gone.php").status, 404);
}

#[test]
fn php_behind_nginx_is_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_php_503(nginx_with);
}

#[test]
fn php_behind_apache_is_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_php_503(apache_with);
}

#[test]
fn php_behind_caddy_is_503_while_the_daemon_is_dead_and_while_nothing_is_mounted() {
    assert_php_503(caddy_with);
}

#[test]
fn the_name_alive_is_in_a_mount_as_long_as_its_daemon_lives() {
    let site = Site::live_with(&[("index.html", "home")]);
    let alive = site.path(".alive");
    assert_eq!(fs::read_to_string(&alive).unwrap(), "");
    let listed = fs::read_dir(&site.mnt).unwrap();
    let names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == ".alive"), "{names:?}");
    assert!(fs::write(&alive, "x").is_err() && fs::remove_file(&alive).is_err());
    let kept = keep_caches();
    assert_eq!(site.read("index.html"), "home");
    site.signal_daemon(libc::SIGKILL);
    assert!(site.live("index.html").exists(), "this is still warm");
    drop(kept);
    let error = fs::metadata(&alive).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    site.umount();
    assert!(!alive.exists());
}
