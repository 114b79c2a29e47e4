//! A real nginx with a configuration of its own, serving over a Unix socket.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::http::Http;
use super::site::{kill, wait_for};

/// A running nginx; ended when dropped.
pub struct Nginx {
    process: Child,
    folder: TempDir,
}

impl Nginx {
    /// Serves this folder, with two workers of an ordinary user.
    pub fn serve(root: &Path) -> Self {
        Self::serve_with(root, "")
    }

    /// The same, with more directives in the server block.
    pub fn serve_with(root: &Path, directives: &str) -> Self {
        Self::serve_by(root, 2, directives)
    }

    /// The same, by so many workers.
    pub fn serve_by(root: &Path, workers: usize, directives: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-nginx-")
            .tempdir()
            .unwrap();
        let dir = folder.path();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let (uid, gid) = (65_534, 65_534);
        chown(dir, Some(uid), Some(gid)).unwrap();
        let config = format!(
            "user nobody nogroup;\nworker_processes {workers};\ndaemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n  access_log off;\n  sendfile on;\n  keepalive_requests 2000000000;\n  default_type text/plain;\n\
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n\
             uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
             server {{\n  listen unix:{dir}/sock;\n  root {root};\n  {directives}\n }}\n}}\n",
            dir = dir.display(),
            root = root.display(),
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let process = Command::new("nginx")
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed (scripts/test does it)");
        let nginx = Nginx { process, folder };
        let socket = nginx.socket();
        wait_for("nginx", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
                && nginx.workers().len() == workers
                && nginx.workers().into_iter().all(has_given_up_root)
        });
        nginx
    }

    /// The process ids of its workers.
    pub fn workers(&self) -> Vec<u32> {
        let master = self.process.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
        let children = children.expect("the master runs");
        let pids = children.split_ascii_whitespace();
        pids.map(|pid| pid.parse().unwrap()).collect()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// A new connection to it.
    pub fn connect(&self) -> Http {
        Http::connect(&self.socket())
    }
}

/// A worker is born as root; what it may read as such says nothing.
fn has_given_up_root(worker: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| !ids.split_whitespace().any(|id| id == "0"))
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers; killed at once it would leave them behind.
        kill(self.process.id() as i32, libc::SIGTERM);
        let ended = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("error.log"));
            eprintln!(
                "nginx ended: {ended:?}; its log: {}",
                log.unwrap_or_default()
            );
        }
    }
}
