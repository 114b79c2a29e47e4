//! A small HTTP/1.1 client over a Unix socket that keeps its connection, as browsers do.

use std::io::{BufRead, BufReader, Read, Write};
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

    /// The bytes as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection that is kept.
pub struct Http {
    stream: BufReader<UnixStream>,
}

impl Http {
    /// Connects.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Http {
            stream: BufReader::new(stream),
        }
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    /// GET with headers.
    pub fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        self.receive()
    }

    fn receive(&mut self) -> Response {
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
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if status != 304 {
            let length = response.header("content-length").expect("a length");
            response.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut response.body).unwrap();
        }
        response
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
