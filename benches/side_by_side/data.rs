//! The data: a site as a build would make it, from a seed, and the next version of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Sizes are log-normal as on the web: half the files below this …
const MEDIAN: f64 = 8_000.0;
/// … with a long tail …
const SIGMA: f64 = 1.45;
/// … that ends here.
const LONGEST: f64 = 4_000_000.0;
/// Files in a folder.
pub const FOLDER: usize = 50;
/// One file in so many differs in the next version.
const CHANGED_ONE_IN: usize = 100;

/// A stream of numbers, the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Between 0 and 1, never 0.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON
    }

    /// Puts a list in another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (2..=list.len()).rev() {
            list.swap(end - 1, self.below(end));
        }
    }

    fn size(&mut self) -> usize {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        (MEDIAN * (SIGMA * normal).exp()).clamp(100.0, LONGEST) as usize
    }
}

/// Two versions of a site.
#[derive(Debug, Clone)]
pub struct Data {
    /// The first version.
    pub site: PathBuf,
    /// The next one.
    pub next: PathBuf,
    /// Relative paths of the first version's files, sorted.
    pub files: Vec<PathBuf>,
    /// Of those, the paths of what the next version has with other bytes or not at all.
    pub changed: Vec<PathBuf>,
    /// Bytes of the first version.
    pub bytes: u64,
}

impl Data {
    /// Makes both versions in `dir`.
    pub fn make(dir: &Path, files: usize) -> io::Result<Self> {
        let (site, next) = (dir.join("site"), dir.join("next"));
        let language = Language::new();
        for number in 0..files {
            let path = path_of(number);
            let bytes = content(number as u64, &language);
            write(&site.join(&path), &bytes)?;
            if number % CHANGED_ONE_IN == number / CHANGED_ONE_IN % CHANGED_ONE_IN {
                write(&next.join(&path), &changed(bytes, number as u64, &language))?;
            } else {
                write(&next.join(&path), &bytes)?;
            }
        }
        Self::of(site, next)
    }

    /// Two folders that are there.
    pub fn of(site: PathBuf, next: PathBuf) -> io::Result<Self> {
        let files = list(&site)?;
        let mut bytes = 0;
        let mut changed = Vec::new();
        for file in &files {
            let before = fs::read(site.join(file))?;
            bytes += before.len() as u64;
            if fs::read(next.join(file)).ok() != Some(before) {
                changed.push(file.clone());
            }
        }
        Ok(Data {
            site,
            next,
            files,
            changed,
            bytes,
        })
    }

    /// Writes other versions of the changed files, and only those, into `dir`: what a small deploy would lay over the site.
    pub fn patch(&self, dir: &Path, seed: u64) -> io::Result<()> {
        let language = Language::new();
        for file in &self.changed {
            let bytes = fs::read(self.site.join(file))?;
            write(&dir.join(file), &changed(bytes, seed << 32, &language))?;
        }
        Ok(())
    }
}

/// All files below a folder, relative to it, sorted.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path().strip_prefix(dir).unwrap_or(dir).to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

fn path_of(number: usize) -> PathBuf {
    let kind = if is_text(number as u64) {
        "html"
    } else {
        "webp"
    };
    let folder = number / FOLDER;
    PathBuf::from(format!(
        "part-{:02}/section-{folder:03}/page-{number:05}.{kind}",
        folder % 10
    ))
}

/// Six files in ten are text, as pages, scripts and styles are; the others do not compress, as pictures do not.
fn is_text(number: u64) -> bool {
    number % 10 < 6
}

fn content(number: u64, language: &Language) -> Vec<u8> {
    let mut random = Random::new(number);
    let size = random.size();
    if is_text(number) {
        language.page(&mut random, size)
    } else {
        crate::support::noise(number, size)
    }
}

/// A page is edited in one place; a picture is another one.
fn changed(mut bytes: Vec<u8>, seed: u64, language: &Language) -> Vec<u8> {
    let mut random = Random::new(!seed);
    if bytes.starts_with(b"<!") {
        let at = bytes.len() / 2;
        let news = format!(" {} {seed} ", language.word(&mut random));
        bytes.splice(at..at, news.into_bytes());
        return bytes;
    }
    crate::support::noise(!seed, bytes.len())
}

/// What pages are written with.
struct Language {
    words: Vec<String>,
    /// Pages of one site say many things more than once.
    sentences: Vec<String>,
    /// The top of every page.
    head: String,
}

impl Language {
    fn new() -> Self {
        let mut random = Random::new(7);
        let words: Vec<String> = (0..4_000).map(|_| word(&mut random)).collect();
        let sentences = (0..4_000).map(|_| sentence(&mut random, &words)).collect();
        let mut head = String::from(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"stylesheet\" href=\"/assets/site.css\">\n</head>\n<body>\n<nav class=\"menu\">\n",
        );
        for word in words.iter().take(30) {
            head.push_str(&format!(
                "<a class=\"menu-item\" href=\"/{word}/\">{word}</a>\n"
            ));
        }
        head.push_str("</nav>\n<main class=\"content\">\n");
        Language {
            words,
            sentences,
            head,
        }
    }

    /// A page of this length: common words are common, and about every third sentence is a new one.
    fn page(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut page = String::with_capacity(size + 1024);
        page.push_str(&self.head);
        while page.len() < size {
            let title = self.word(random);
            page.push_str(&format!(
                "<section class=\"text\" id=\"{title}\">\n<h2><a href=\"#{title}\">{title}</a></h2>\n"
            ));
            for _ in 0..3 {
                page.push_str("<p class=\"paragraph\">");
                for _ in 0..2 {
                    page.push_str(&self.sentences[rank(random, self.sentences.len())]);
                }
                page.push_str(&sentence(random, &self.words));
                let link = self.word(random);
                page.push_str(&format!(
                    "<a class=\"reference internal\" href=\"/{link}/index.html\">{link}</a></p>\n"
                ));
            }
            page.push_str("</section>\n");
        }
        page.truncate(size);
        page.into_bytes()
    }

    fn word(&self, random: &mut Random) -> &str {
        &self.words[rank(random, self.words.len())]
    }
}

fn word(random: &mut Random) -> String {
    let letters = 2 + random.below(9);
    (0..letters)
        .map(|_| char::from(b'a' + random.below(26) as u8))
        .collect()
}

fn sentence(random: &mut Random, words: &[String]) -> String {
    let mut sentence = String::new();
    for _ in 0..8 + random.below(8) {
        sentence.push_str(&words[rank(random, words.len())]);
        sentence.push(' ');
    }
    sentence.pop();
    sentence.push_str(". ");
    sentence
}

/// A place in a list; the first ones come up most.
fn rank(random: &mut Random, len: usize) -> usize {
    let skewed = random.unit() * random.unit() * random.unit();
    ((skewed * len as f64) as usize).min(len - 1)
}
