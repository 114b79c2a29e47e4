//! Many cheap clients on kept connections to nginx, with and without validators, while deploys flip: the rules of P1 and P7.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answers::{Asked, Held, Reply, Validators};
use super::load::Load;
use crate::support::timeline::{Client, Read};
use crate::support::*;

/// Clients, each with a connection and a thread.
const CLIENTS: usize = 4;
/// The most requests that a client sends before it takes their answers, as browsers pipeline them.
const AHEAD: usize = 16;
/// Violations are shown up to here, then counted.
const SHOWN: usize = 20;

/// How many requests, over how many flips.
pub struct Fire {
    pub requests: usize,
    pub flips: usize,
    pub seed: u64,
}

/// What all clients share.
struct Ground<'a> {
    load: Load<'a>,
    validators: Validators<'a>,
    deploys: &'a Numbered,
    requests: usize,
    /// Of which so many are sent from flip to flip.
    share: usize,
    sent: AtomicUsize,
    violations: AtomicUsize,
    met_a_flip: AtomicUsize,
    over: AtomicBool,
}

impl Fire {
    /// Runs it; how many answers broke a rule.
    pub fn run(&self, site: &Site, deploys: &Numbered) -> usize {
        let plan = (0..=self.flips).map(|flip| flip % deploys.count());
        let nginx = Nginx::serve(&site.live(""));
        let etags = learn(site, deploys, &mut nginx.connect());
        let ground = Ground {
            load: Load::new(site, deploys, plan.collect()),
            validators: Validators::new(deploys, etags),
            deploys,
            requests: self.requests,
            share: self.requests / (self.flips + 1),
            sent: AtomicUsize::new(0),
            violations: AtomicUsize::new(0),
            met_a_flip: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        ground.load.flip(0);
        let started = Instant::now();
        thread::scope(|scope| {
            let _over = Over(&ground.over);
            for client in 0..CLIENTS {
                let (ground, dice) = (&ground, Dice::new(self.seed + client as u64));
                let connection = Connection::new(&nginx.socket());
                scope.spawn(move || {
                    // A client that fails ends the flips as well.
                    let _over = Over(&ground.over);
                    ground.attack(connection, dice);
                });
            }
            ground.flip_all(self.flips);
            ground.over.store(true, Ordering::SeqCst);
        });
        let seconds = started.elapsed().as_secs_f64();
        let (sent, met) = (ground.sent.into_inner(), ground.met_a_flip.into_inner());
        let violations = ground.violations.into_inner();
        println!(
            "flip under fire: {sent} tried over {} flips, {:.0} a second, {met} of them met a flip, {violations} violations",
            self.flips,
            sent as f64 / seconds
        );
        assert!(met > 0, "no request met a flip");
        assert!(met < sent, "every request met a flip");
        violations
    }
}

/// Every page's validator, while nothing flips.
fn learn(site: &Site, deploys: &Numbered, http: &mut Http) -> Vec<[Vec<u8>; TELLING.len()]> {
    let of_deploy = |id: &String| {
        site.flip(id);
        TELLING.map(|path| http.get(&format!("/{path}")).etag().as_bytes().to_vec())
    };
    deploys.ids.iter().map(of_deploy).collect()
}

impl Ground<'_> {
    /// Makes a flip once all requests before it are sent.
    fn flip_all(&self, flips: usize) {
        for flip in 1..=flips {
            self.wait_for(flip * self.share);
            self.load.flip(flip);
        }
        self.wait_for(self.requests);
    }

    /// How many requests may be sent by now. Half of those between two flips are kept back while the first of them is under way,
    /// however slow the disk makes it: they meet no flip, and so may see one deploy only.
    fn allowed(&self) -> usize {
        let (answered, asked) = (self.load.answered(), self.load.asked());
        match asked {
            last if last + 1 == self.load.flips().len() && answered == last => self.requests,
            _ if answered == asked => (asked + 1) * self.share,
            _ => asked * self.share + self.share / 2,
        }
    }

    /// Until so many requests are sent, or a client has failed.
    fn wait_for(&self, due: usize) {
        while self.sent.load(Ordering::Relaxed) < due && !self.over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// One client, until all requests are sent and all flips made.
    fn attack(&self, mut connection: Connection, mut dice: Dice) {
        let mut client = Client::default();
        let mut seen = 0;
        while !self.over.load(Ordering::SeqCst) {
            if self.sent.load(Ordering::Relaxed) >= self.allowed() {
                thread::sleep(Duration::from_micros(100));
                continue;
            }
            let ahead = 1 + dice.below(AHEAD);
            let asked: Vec<Asked> = (0..ahead).map(|_| self.choose(&mut dice, seen)).collect();
            let began = self.load.answered();
            connection.send(asked.iter().map(|asked| self.request(asked)));
            for asked in asked {
                let reply = connection.receive();
                let ended = self.load.asked();
                self.met_a_flip
                    .fetch_add(usize::from(began < ended), Ordering::Relaxed);
                match self.judge(&mut client, asked, &reply, began, ended) {
                    Ok(number) => seen = number,
                    Err(violation) => self.tell(&violation),
                }
            }
            self.sent.fetch_add(ahead, Ordering::Relaxed);
        }
    }

    fn judge(
        &self,
        client: &mut Client,
        asked: Asked,
        reply: &Reply,
        began: usize,
        ended: usize,
    ) -> Result<u32, String> {
        let shown = |what: String| {
            let (status, etag) = (reply.status, reply.etag.escape_ascii());
            format!("{what}: {asked:?} between flips {began} and {ended}, answered {status} {etag}")
        };
        let judged = self.validators.judge(asked, reply);
        let number = judged.map_err(|wrong| shown(format!("{wrong:?}")))?;
        let seen = vec![number];
        let read = Read { began, ended, seen };
        let checked = client.check(self.load.flips(), &read);
        checked.map_err(|violation| shown(format!("{violation:?}, deploy {number}")))?;
        Ok(number)
    }

    fn tell(&self, violation: &str) {
        if self.violations.fetch_add(1, Ordering::Relaxed) < SHOWN {
            println!("flip under fire: {violation}");
        }
    }

    /// Any path, by one who holds what was seen last, or anything else, or nothing.
    fn choose(&self, dice: &mut Dice, seen: u32) -> Asked {
        let column = match dice.below(64) {
            0 => 2,
            other => other % 2,
        };
        let number = match dice.below(4) {
            0 => dice.below(self.deploys.count()) as u32,
            _ => seen,
        };
        let held = match dice.below(4) {
            0 => Held::Nothing,
            1 => {
                let len = self.deploys.page(number, column).len();
                let first = dice.below(len);
                Held::Part(number, first, first + dice.below((len - first).min(2000)))
            }
            _ => Held::Whole(number),
        };
        Asked { column, held }
    }

    fn request(&self, asked: &Asked) -> Vec<u8> {
        let path = TELLING[asked.column].as_bytes();
        let mut request = [b"GET /", path, b" HTTP/1.1\r\nHost: site\r\n"].concat();
        let mut header = |name: &str, value: &[u8]| {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        match asked.held {
            Held::Nothing => {}
            Held::Whole(number) => {
                header("If-None-Match", self.validators.etag(number, asked.column));
            }
            Held::Part(number, first, last) => {
                header("If-Range", self.validators.etag(number, asked.column));
                header("Range", format!("bytes={first}-{last}").as_bytes());
            }
        }
        request.extend(b"\r\n");
        request
    }
}

/// Random choices, the same for the same seed.
struct Dice {
    seed: u64,
    bytes: std::vec::IntoIter<u8>,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Dice {
            seed,
            bytes: Vec::new().into_iter(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        if self.bytes.len() < 4 {
            self.seed = self.seed.wrapping_add(1 << 32);
            self.bytes = noise(self.seed, 1 << 16).into_iter();
        }
        let four = self.bytes.by_ref().take(4);
        four.fold(0, |number, byte| number << 8 | usize::from(byte)) % end
    }
}

/// A kept connection that costs as little as it can; [`Http`] is for all else.
struct Connection {
    stream: UnixStream,
    /// What has come, of which `taken` bytes are answered already.
    came: Vec<u8>,
    taken: usize,
}

impl Connection {
    fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection {
            stream,
            came: Vec::new(),
            taken: 0,
        }
    }

    fn send(&mut self, requests: impl Iterator<Item = Vec<u8>>) {
        let requests: Vec<u8> = requests.flatten().collect();
        self.stream.write_all(&requests).unwrap();
    }

    /// The next answer.
    fn receive(&mut self) -> Reply<'_> {
        self.came.drain(..self.taken);
        self.taken = 0;
        let head_len = self.need(|came| {
            let end = came.windows(4).position(|four| four == b"\r\n\r\n")?;
            Some(end + 4)
        });
        let status = std::str::from_utf8(&self.came[9..12]).unwrap();
        let status: u16 = status.parse().unwrap();
        let body_len = match status {
            304 => 0,
            _ => {
                let length = header(&self.came[..head_len], "content-length");
                let length = std::str::from_utf8(length).unwrap();
                length.parse::<usize>().expect("a length")
            }
        };
        self.taken = self.need(|came| Some(head_len + body_len).filter(|all| came.len() >= *all));
        let (head, body) = self.came[..self.taken].split_at(head_len);
        Reply {
            status,
            etag: header(head, "etag"),
            content_range: header(head, "content-range"),
            body,
        }
    }

    /// Reads until this finds what it needs.
    fn need(&mut self, find: impl Fn(&[u8]) -> Option<usize>) -> usize {
        loop {
            if let Some(found) = find(&self.came) {
                return found;
            }
            let mut more = [0; 1 << 16];
            let len = self.stream.read(&mut more).unwrap();
            assert_ne!(len, 0, "nginx has closed the connection");
            self.came.extend(&more[..len]);
        }
    }
}

/// A header's value; empty where there is none.
fn header<'a>(head: &'a [u8], name: &str) -> &'a [u8] {
    let lines = head.split(|byte| *byte == b'\n');
    let value = |line: &'a [u8]| {
        let (key, value) = line.split_at_checked(name.len())?;
        let is_it = key.eq_ignore_ascii_case(name.as_bytes());
        let value = value.strip_prefix(b": ")?;
        is_it.then(|| value.trim_ascii_end())
    };
    lines.into_iter().find_map(value).unwrap_or_default()
}
