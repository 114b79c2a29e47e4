//! A server that answers `GET /metrics` and nothing else. Nothing that a client does makes it take more than a few threads,
//! some kilobytes and some seconds.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Place;

/// Clients served at once; any other is turned away.
const CLIENTS_MAX: usize = 8;
/// The longest request, in bytes.
const REQUEST_MAX: usize = 8 << 10;
/// How long one client may take, from its first byte to the last of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before accepting is tried again, where it failed.
const LOOK: Duration = Duration::from_millis(100);

/// Makes the page.
pub type Source = dyn Fn() -> String + Send + Sync;

/// A listening server. Its socket is removed when it is dropped.
pub struct Server {
    socket: Option<PathBuf>,
    place: Place,
}

/// Both kinds of connection.
trait Connection: Read + Write + Send {
    fn set_patience(&self, left: Duration) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn set_patience(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Connection for UnixStream {
    fn set_patience(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Server {
    /// Listens; `source` is asked on a thread of its own for each request.
    pub fn start(place: &Place, source: Box<Source>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            source,
            clients: AtomicUsize::new(0),
        });
        match place {
            Place::Port(address) => {
                let listener = TcpListener::bind(address)?;
                let place = Place::Port(listener.local_addr()?);
                listen(move || Ok(Box::new(listener.accept()?.0)), shared)?;
                Ok(Server {
                    socket: None,
                    place,
                })
            }
            Place::Socket(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
                listen(move || Ok(Box::new(listener.accept()?.0)), shared)?;
                Ok(Server {
                    socket: Some(path.clone()),
                    place: place.clone(),
                })
            }
        }
    }

    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(path) = &self.socket else { return };
        if let Err(error) = fs::remove_file(path) {
            log::warn!("'{}' cannot be removed: {error}", path.display());
        }
    }
}

/// A socket at which nobody listens any more goes; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("something else is there"));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::other("another program listens there"));
    }
    fs::remove_file(path)
}

struct Shared {
    source: Box<Source>,
    clients: AtomicUsize,
}

type Accept = dyn FnMut() -> io::Result<Box<dyn Connection>> + Send;

fn listen(
    accept: impl FnMut() -> io::Result<Box<dyn Connection>> + Send + 'static,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let mut accept: Box<Accept> = Box::new(accept);
    let serve = move || {
        loop {
            match accept() {
                Ok(client) => take(client, &shared),
                Err(error) => {
                    log::warn!("metrics: {error}");
                    std::thread::sleep(LOOK);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(serve)?;
    Ok(())
}

fn take(mut client: Box<dyn Connection>, shared: &Arc<Shared>) {
    if shared.clients.load(Ordering::Acquire) >= CLIENTS_MAX {
        // It gets what fits the socket's buffer, without waiting.
        let busy = client
            .set_patience(Duration::from_millis(1))
            .and_then(|()| {
                respond(
                    &mut *client,
                    "503 Service Unavailable",
                    "too many clients\n",
                )
            });
        return log::debug!("metrics: too many clients ({busy:?})");
    }
    shared.clients.fetch_add(1, Ordering::AcqRel);
    let one = shared.clone();
    let thread = std::thread::Builder::new()
        .name("metrics client".into())
        .spawn(move || {
            if let Err(error) = serve(client, &one) {
                log::debug!("metrics: {error}");
            }
            one.clients.fetch_sub(1, Ordering::AcqRel);
        });
    if let Err(error) = thread {
        log::warn!("metrics: no thread for a client: {error}");
        shared.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(client: Box<dyn Connection>, shared: &Shared) -> io::Result<()> {
    let mut client = Hasty {
        client,
        until: Instant::now() + PATIENCE,
    };
    let Some(line) = request_line(&mut client)? else {
        return respond(
            &mut client,
            "431 Request Header Fields Too Large",
            "too long\n",
        );
    };
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target
        .split(|&byte| byte == b'?')
        .next()
        .unwrap_or_default();
    match (method, path) {
        (b"GET", b"/metrics") => respond(&mut client, "200 OK", &(shared.source)()),
        (b"GET", _) => respond(&mut client, "404 Not Found", "ask for /metrics\n"),
        _ => respond(&mut client, "405 Method Not Allowed", "only GET\n"),
    }
}

/// The first line, once the whole head has come; none: it is too long.
fn request_line(client: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..count]);
        if head.len() > REQUEST_MAX {
            return Ok(None);
        }
        let is_whole = |end: &[u8]| head.windows(end.len()).any(|window| window == end);
        if is_whole(b"\r\n\r\n") || is_whole(b"\n\n") {
            let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
            return Ok(Some(line.trim_ascii_end().to_owned()));
        }
    }
}

fn respond(client: &mut (impl Write + ?Sized), status: &str, page: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(page.as_bytes())
}

/// A connection that ends at a moment, however slowly its other side goes.
struct Hasty {
    client: Box<dyn Connection>,
    until: Instant,
}

impl Hasty {
    fn hurry(&self) -> io::Result<()> {
        match self.until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => self.client.set_patience(left),
            Some(_) | None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Hasty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hurry()?;
        self.client.read(buffer)
    }
}

impl Write for Hasty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hurry()?;
        self.client.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.client.flush()
    }
}
