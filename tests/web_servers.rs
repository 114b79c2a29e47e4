//! The configurations in packaging/web, each run by its real server as an ordinary user, and flipped under.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::support::*;

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
    WebServer::start(site, "nginx.conf", |dir, port, ours| {
        let ours = ours.replace("listen 80;", &format!("listen 127.0.0.1:{port};"));
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
    WebServer::start(site, "apache.conf", |dir, port, ours| {
        let modules: String = [
            "mpm_event",
            "authz_core",
            "dir",
            "mime",
            "headers",
            "vhost_alias",
        ]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
        let ours = ours.replace("*:80", &format!("127.0.0.1:{port}"));
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
    WebServer::start(site, "Caddyfile", |dir, port, ours| {
        let ours = ours
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
        command
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
    ])
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
                while !over.load(Ordering::SeqCst) {
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
