//! The configurations in packaging/web, each run by its real server as an ordinary user, and flipped under.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::support::*;

mod unmounted;

/// A web server with one of our configurations; ended when dropped.
struct WebServer {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl WebServer {
    /// Starts it. `build` writes what surrounds our configuration and answers the command.
    fn start(site: &Site, config: &str, build: impl FnOnce(&Path, u16, &str) -> Command) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-web-")
            .tempdir()
            .unwrap();
        sh(&format!("chmod 777 {}", folder.path().display()));
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/web")
            .join(config);
        let ours = fs::read_to_string(path)
            .unwrap()
            .replace("/srv/site", text(&site.mnt));
        assert!(!ours.contains("/srv"));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = build(folder.path(), port, &ours)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the server is installed (scripts/test does it)");
        let mut server = WebServer {
            process,
            folder,
            port,
        };
        wait_for(config, || {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "{config}: {}", server.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn connect(&self, host: &str) -> Http {
        Http::connect_port(self.port).for_host(host)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        kill(self.process.id() as i32, libc::SIGTERM);
        self.process.wait().ok();
        if std::thread::panicking() {
            eprintln!("its log: {}", self.log());
        }
    }
}

fn nginx(site: &Site) -> WebServer {
    nginx_with(site, &str::to_owned)
}

/// The same with a changed configuration.
fn nginx_with(site: &Site, change: &dyn Fn(&str) -> String) -> WebServer {
    WebServer::start(site, "nginx.conf", |dir, port, ours| {
        let ours = change(ours).replace("listen 80;", &format!("listen 127.0.0.1:{port};"));
        let dir = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
            .concat();
        let all = format!(
            "user nobody nogroup;\nworker_processes 2;\ndaemon off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000;\n{temporary}\
             types {{ text/html html; text/javascript js; text/css css; }}\n{ours}\n}}\n"
        );
        let path = format!("{dir}/nginx.conf");
        fs::write(&path, all).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c", &path]);
        command
    })
}

fn apache(site: &Site) -> WebServer {
    apache_with(site, &str::to_owned)
}

fn apache_with(site: &Site, change: &dyn Fn(&str) -> String) -> WebServer {
    WebServer::start(site, "apache.conf", |dir, port, ours| {
        let modules: String = [
            "mpm_event",
            "authz_core",
            "dir",
            "mime",
            "headers",
            "rewrite",
            "vhost_alias",
            "proxy",
            "proxy_fcgi",
        ]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
        let ours = change(ours).replace("*:80", &format!("127.0.0.1:{port}"));
        let dir = dir.display();
        let all = format!(
            "{modules}ServerRoot {dir}\nServerName localhost\nListen 127.0.0.1:{port}\nUser nobody\nGroup nogroup\nPidFile {dir}/pid\n\
             ErrorLog {dir}/log\nDefaultRuntimeDir {dir}\nTypesConfig /dev/null\nAddType text/html html\nAddType text/javascript js\n\
             MaxKeepAliveRequests 0\n{ours}\n"
        );
        let path = format!("{dir}/apache.conf");
        fs::write(&path, all).unwrap();
        let mut command = Command::new("apache2");
        command.args(["-D", "FOREGROUND", "-f", &path]);
        command
    })
}

fn caddy(site: &Site) -> WebServer {
    caddy_with(site, &str::to_owned)
}

fn caddy_with(site: &Site, change: &dyn Fn(&str) -> String) -> WebServer {
    WebServer::start(site, "Caddyfile", |dir, port, ours| {
        let ours = change(ours)
            .replace("http://example.com", &format!("http://example.com:{port}"))
            .replace(
                "http://*.preview.example.com",
                &format!("http://*.preview.example.com:{port}"),
            );
        let path: PathBuf = dir.join("Caddyfile");
        fs::write(
            &path,
            format!("{{\n\tadmin off\n\tauto_https off\n}}\n{ours}"),
        )
        .unwrap();
        let mut command = Command::new("caddy");
        // The working directory of a service.
        command
            .current_dir("/")
            .args(["run", "--adapter", "caddyfile", "--config", text(&path)])
            .env("HOME", dir);
        nobody(&mut command);
        command
    })
}

const HASHED: &str = "public, max-age=31536000, immutable";

/// Deploy `number` of a single-page application with pages of its own.
fn build(site: &Site, number: usize) -> String {
    site.seal(&[
        ("index.html", &format!("home {number}")),
        ("about/index.html", &format!("about {number}")),
        ("404.html", "not here"),
        ("plain.js", "plain"),
        ("app.0123abcd.js", "hashed"),
        ("assets/app.js", &format!("asset {number}")),
        (".env", "secret"),
        (".git/config", "secret"),
        ("about/.htpasswd", "secret"),
        (".well-known/.hidden", "secret"),
        (".well-known/security.txt", "contact"),
        (".well-known/acme-challenge/token", "proof"),
    ])
}

/// Names with a dot at their start are kept from visitors, whatever a request writes for them; `.well-known` is not.
fn assert_it_hides_dotfiles(server: &WebServer, host: &str) {
    let mut http = server.connect(host);
    for path in [
        "/.env",
        "/%2eenv",
        "/.env?x",
        "/.git/config",
        "/.git/",
        "/.git",
        "/.git/gone",
        "/about/.htpasswd",
        "/about/%2ehtpasswd",
        "/about/../.env",
        "/.well-known/.hidden",
        "/.well-known/../.env",
        "//.env",
    ] {
        let answer = http.get(path);
        assert!(
            [400, 403, 404].contains(&answer.status),
            "{path}: {answer:?}"
        );
        assert!(!answer.text().contains("secret"), "{path}");
    }
    for (path, body) in [
        ("/.well-known/security.txt", "contact"),
        ("/.well-known/acme-challenge/token", "proof"),
    ] {
        let answer = http.get(path);
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
    }
}

fn assert_it_serves_and_follows(start: impl FnOnce(&Site) -> WebServer) {
    let site = Site::new();
    let ids = [build(&site, 0), build(&site, 1)];
    let server = start(&site);
    let mut http = server.connect("example.com");
    let early = http.get("/").status;
    assert!([403, 404].contains(&early), "nothing is live yet: {early}");
    site.activate(&ids[0]);

    for (path, body, caching) in [
        ("/", "home 0", "no-cache"),
        ("/about/", "about 0", "no-cache"),
        ("/a/route/of-the-application", "home 0", "no-cache"),
        ("/plain.js", "plain", "no-cache"),
        ("/app.0123abcd.js", "hashed", HASHED),
        ("/assets/app.js", "asset 0", HASHED),
    ] {
        let answer = http.get(path);
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
        assert_eq!(answer.header("cache-control"), Some(caching), "{path}");
        assert_eq!(answer.header("x-robots-tag"), None, "{path}");
        let again = http.get_with(path, &[("If-None-Match", answer.etag())]);
        assert_eq!(again.status, 304, "{path}");
    }
    for path in [
        "/assets/gone.js",
        "/assets/gone",
        "/gone.js",
        "/gone.89abcdef.js",
        "/about/gone.html",
    ] {
        let answer = http.get(path);
        assert_eq!((answer.status, answer.text()), (404, "not here"), "{path}");
        let caching = answer.header("cache-control").unwrap_or_default();
        assert!(!caching.contains("immutable"), "{path}: {caching}");
    }
    for (number, id) in ids.iter().enumerate() {
        let mut http = server.connect(&format!("{id}.preview.example.com"));
        let answer = http.get("/assets/app.js");
        assert_eq!(answer.text(), format!("asset {number}"));
        assert_eq!(answer.header("cache-control"), Some(HASHED));
        assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
        assert_eq!(http.get("/some/route").text(), format!("home {number}"));
        assert_eq!(http.get("/assets/gone.js").text(), "not here");
    }
    assert_it_hides_dotfiles(&server, "example.com");
    assert_it_hides_dotfiles(&server, &format!("{}.preview.example.com", ids[0]));
    let mut channel = server.connect("pr-17.preview.example.com");
    for (number, id) in ids.iter().enumerate() {
        site.ok(["channel", "set", "pr-17", id]);
        assert_eq!(channel.get("/").text(), format!("home {number}"));
        let answer = channel.get("/assets/app.js");
        assert_eq!(answer.text(), format!("asset {number}"));
        assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
    }
    for host in ["0123456789abcdef", "live"] {
        let mut nobody = server.connect(&format!("{host}.preview.example.com"));
        for path in ["/assets/app.js", "/plain.js"] {
            assert_eq!(nobody.get(path).status, 404, "{host} {path}");
        }
    }
    assert_flips(&site, &server, &ids);
}

/// What is asked for once `activate` has returned is the new deploy, and every answer is a whole one.
fn assert_flips(site: &Site, server: &WebServer, ids: &[String; 2]) {
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for path in ["/", "/assets/app.js"] {
            let (over, asked) = (&over, &asked);
            scope.spawn(move || {
                let mut http = server.connect("example.com");
                for number in 1u64.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    // nginx closes a connection after a thousand requests.
                    if number % 500 == 0 {
                        http = server.connect("example.com");
                    }
                    let answer = http.get(path);
                    let is_whole =
                        ["home 0", "home 1", "asset 0", "asset 1"].contains(&answer.text());
                    assert!(answer.status == 200 && is_whole, "{path}: {answer:?}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _over = Over(&over);
        let mut http = server.connect("example.com");
        for flip in 1..=100 {
            site.flip(&ids[flip % 2]);
            assert_eq!(http.get("/").text(), format!("home {}", flip % 2));
            assert_eq!(
                http.get("/assets/app.js").text(),
                format!("asset {}", flip % 2)
            );
        }
        wait_for("requests during the flips", || {
            asked.load(Ordering::SeqCst) > 100
        });
    });
}

#[test]
fn nginx_serves_the_live_site_and_each_deploy_and_channel_under_its_host_and_follows_flips() {
    assert_it_serves_and_follows(nginx);
}

#[test]
fn apache_serves_the_live_site_and_each_deploy_and_channel_under_its_host_and_follows_flips() {
    assert_it_serves_and_follows(apache);
}

#[test]
fn caddy_serves_the_live_site_and_each_deploy_and_channel_under_its_host_and_follows_flips() {
    assert_it_serves_and_follows(caddy);
}

/// No spelling of a host leads out of the mount; a written-out port changes nothing.
fn assert_no_host_leaves_the_mount(start: impl FnOnce(&Site) -> WebServer) {
    let site = Site::new();
    let id = build(&site, 0);
    site.activate(&id);
    site.ok(["channel", "set", "pr-17", &id]);
    let server = start(&site);
    for label in [
        "ABC",
        "a_b",
        "_",
        "",
        ".",
        "..",
        "a.b",
        "%2e%2e",
        "-",
        "*",
        "0123456789abcdef",
        "0123456789ABCDEF",
        "live",
        &id.to_uppercase(),
        &format!("{id}."),
        &format!(".{id}"),
    ] {
        for domain in [
            "preview.example.com",
            "preview.example.com:80",
            "preview.example.com.",
            "PREVIEW.example.com",
        ] {
            let host = format!("{label}.{domain}");
            let machine = fs::read_to_string("/etc/hostname").unwrap();
            for (path, secret) in [
                ("/etc/hostname", machine.as_str()),
                ("/etc/passwd", "root:"),
            ] {
                // A connection each: a server may close it after a host that is none.
                let answer = server.connect(&host).get(path);
                let text = answer.text();
                assert!(!text.contains(secret), "{host} {path}: {text}");
                let is_page = answer.status == 200 && text == "home 0";
                let is_refused = (400..500).contains(&answer.status);
                // Caddy's answer for a host of no site is an empty 200.
                let is_empty = answer.status == 200 && text.is_empty();
                assert!(
                    is_page || is_refused || is_empty,
                    "{host} {path}: {answer:?}"
                );
            }
        }
    }
    for label in [&id, "pr-17"] {
        for domain in ["preview.example.com:80", "Preview.Example.COM"] {
            let answer = server.connect(&format!("{label}.{domain}")).get("/");
            let seen = (answer.status, answer.text());
            assert_eq!(seen, (200, "home 0"), "{label}.{domain}");
        }
    }
}

#[test]
fn nginx_serves_nothing_outside_the_mount_whatever_the_host() {
    assert_no_host_leaves_the_mount(nginx);
}

#[test]
fn apache_serves_nothing_outside_the_mount_whatever_the_host() {
    assert_no_host_leaves_the_mount(apache);
}

#[test]
fn caddy_started_in_the_root_directory_serves_nothing_outside_the_mount_whatever_the_host() {
    assert_no_host_leaves_the_mount(caddy);
}

/// php-fpm as the comments in packaging/web say, listening on a socket in this folder; ended when dropped.
struct PhpFpm(Child);

impl PhpFpm {
    fn start(dir: &Path) -> Self {
        let config = format!(
            "[global]\nerror_log = {0}/php.log\n[www]\nuser = nobody\ngroup = nogroup\nlisten = {0}/php.sock\nlisten.mode = 0666\n\
             pm = static\npm.max_children = 2\nphp_admin_value[opcache.enable] = 1\nphp_admin_value[opcache.revalidate_freq] = 0\n",
            dir.display()
        );
        let path = dir.join("php-fpm.conf");
        fs::write(&path, config).unwrap();
        // Debian puts the version into the name.
        let programs = fs::read_dir("/usr/sbin").unwrap().flatten();
        let program = programs
            .map(|entry| entry.path())
            .find(|path| text(path).contains("/php-fpm"))
            .expect("php-fpm is installed (scripts/test does it)");
        let process = Command::new(program)
            .args(["--nodaemonize", "--fpm-config", text(&path)])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let php = PhpFpm(process);
        wait_for("php-fpm", || dir.join("php.sock").exists());
        php
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        kill(self.0.id() as i32, libc::SIGTERM);
        self.0.wait().ok();
    }
}

/// The configuration with its part for PHP, which is a comment below the one that explains it, and this socket.
fn with_php(ours: &str, socket: &str) -> String {
    let mut is_php = false;
    let mut all = String::new();
    for line in ours.lines() {
        let comment = line.trim_start().strip_prefix('#');
        is_php &= comment.is_some();
        match comment.filter(|text| is_php && !text.starts_with(" a2enmod")) {
            Some(code) => all += code,
            None => all += line,
        }
        all += "\n";
        is_php |= comment == Some("");
    }
    assert!(all.contains("/run/php/php-fpm.sock"), "{all}");
    all.replace("/run/php/php-fpm.sock", socket).replace(
        "include fastcgi_params",
        "include /etc/nginx/fastcgi_params",
    )
}

fn assert_php_follows(start: impl FnOnce(&Site, &dyn Fn(&str) -> String) -> WebServer) {
    let site = Site::new();
    let ids = [0, 1, 2].map(|number| {
        site.seal(&[
            (
                "index.php",
                &format!(
                    "<?php require __DIR__ . '/lib/version.php'; echo {number}, ' ', version(), ' ', \
                     (int) opcache_get_status()['opcache_enabled'];"
                ),
            ),
            (
                "lib/version.php",
                &format!("<?php function version() {{ return {number}; }}"),
            ),
        ])
    });
    let folder = tempfile::tempdir().unwrap();
    sh(&format!("chmod 755 {}", folder.path().display()));
    let _php = PhpFpm::start(folder.path());
    let socket = folder.path().join("php.sock");
    site.flip(&ids[0]);
    let server = start(&site, &|ours| with_php(ours, text(&socket)));
    let mut http = server.connect("example.com");
    let mut random = 1_usize;
    for _ in 0..60 {
        random = random * 7 % 11;
        site.flip(&ids[random % 3]);
        for _ in 0..3 {
            let answer = http.get("/index.php");
            assert_eq!(answer.text(), format!("{0} {0} 1", random % 3));
        }
    }
}

#[test]
fn php_behind_nginx_runs_what_is_live_from_the_first_request_after_each_flip() {
    assert_php_follows(nginx_with);
}

#[test]
fn php_behind_apache_runs_what_is_live_from_the_first_request_after_each_flip() {
    assert_php_follows(apache_with);
}

#[test]
fn php_behind_caddy_runs_what_is_live_from_the_first_request_after_each_flip() {
    assert_php_follows(caddy_with);
}
