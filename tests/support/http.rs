//! A small HTTP/1.1 client that keeps its connection, as browsers do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200, 304, 404 …
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The entity tag; every file has one.
    pub fn etag(&self) -> &str {
        self.header("etag").expect("an ETag")
    }

    /// The time of the last change, as the server writes it.
    pub fn last_modified(&self) -> &str {
        self.header("last-modified").expect("a Last-Modified")
    }

    /// The bytes as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A hang must end the test; a disk that others keep busy may stall for tens of seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection that is kept.
pub struct Http {
    stream: BufReader<Box<dyn Stream>>,
    host: String,
}

impl Http {
    /// Connects.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(Box::new(stream))
    }

    /// Connects to this port of this machine.
    pub fn connect_port(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(Box::new(stream))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Http {
            stream: BufReader::new(stream),
            host: "site".to_owned(),
        }
    }

    /// The same connection, asking for another host.
    pub fn for_host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    /// GET with headers.
    pub fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut response = self.begin(path, headers);
        self.finish(&mut response);
        response
    }

    /// HEAD with headers.
    pub fn head_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send("HEAD", path, headers);
        self.receive_head()
    }

    /// Sends a GET and takes the headers only, as a slow reader does: the body waits in the connection for `finish`.
    pub fn begin(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send("GET", path, headers);
        self.receive_head()
    }

    /// Takes the body of a response that was begun.
    pub fn finish(&mut self, response: &mut Response) {
        if response.status == 304 {
            return;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            return self.finish_chunked(response);
        }
        let length = response.header("content-length").expect("a length");
        response.body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut response.body).unwrap();
    }

    fn finish_chunked(&mut self, response: &mut Response) {
        loop {
            let length = usize::from_str_radix(&self.line(), 16).expect("a chunk's length");
            let start = response.body.len();
            response.body.resize(start + length, 0);
            self.stream.read_exact(&mut response.body[start..]).unwrap();
            assert_eq!(self.line(), "");
            if length == 0 {
                return;
            }
        }
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn receive_head(&mut self) -> Response {
        let status = self.line();
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {status:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_owned(), value.to_owned()));
        }
        Response {
            status,
            headers,
            body: Vec::new(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
