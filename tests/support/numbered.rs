//! Deploys that say their number in every file, so that a reader knows which one it saw.

use std::fs;
use std::path::Path;

use super::site::Site;

/// As long in every deploy.
pub const FIXED: &str = "index.html";
/// Of another length in each.
pub const GROWING: &str = "about/team/index.html";
/// Many pages long, several folders down.
pub const DEEP: &str = "assets/js/vendor/chunks/app.js";
/// The files that tell the number.
pub const TELLING: [&str; 3] = [FIXED, GROWING, DEEP];
/// Alike in all deploys.
pub const SAME: &str = "assets/site.css";
/// A folder in which each deploy has one file of its own.
pub const MARKS: &str = "marks";

const SAME_TEXT: &str = "body { color: black }\n";

/// Sealed deploys 0, 1, 2 …
pub struct Numbered {
    /// Their ids.
    pub ids: Vec<String>,
    pages: Vec<[String; TELLING.len()]>,
}

impl Numbered {
    /// Seals this many.
    pub fn seal(site: &Site, count: usize) -> Self {
        let mut deploys = Numbered {
            ids: Vec::new(),
            pages: Vec::new(),
        };
        for number in 0..count {
            let dir = site.beside("numbered");
            let pages = TELLING.map(|path| page(path, number));
            for (path, text) in TELLING.iter().zip(&pages) {
                write(&dir.join(path), text);
            }
            write(&dir.join(SAME), SAME_TEXT);
            write(&dir.join(MARKS).join("zero.txt"), "");
            write(&dir.join(MARKS).join(mark(number as u32)), "");
            deploys.ids.push(site.deploy(&dir));
            deploys.pages.push(pages);
            fs::remove_dir_all(&dir).unwrap();
        }
        deploys
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// Which deploy's `path` this is, to the last byte; none for a file that is alike in all.
    pub fn number_of(&self, path: &str, bytes: &[u8]) -> Option<u32> {
        if path == SAME {
            assert_eq!(bytes, SAME_TEXT.as_bytes(), "{path}");
            return None;
        }
        let column = TELLING.iter().position(|telling| *telling == path);
        let column = column.expect("a path of these deploys");
        let number = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok())
            .filter(|number| *number < self.count())
            .unwrap_or_else(|| panic!("{path}: {} bytes tell no number", bytes.len()));
        let whole = self.pages[number][column].as_bytes();
        assert!(
            bytes == whole,
            "{path} of deploy {number} is not itself: {} bytes instead of {}",
            bytes.len(),
            whole.len()
        );
        Some(number as u32)
    }

    /// Which deploy's folder of marks was listed.
    pub fn number_listed(&self, mut names: Vec<String>) -> u32 {
        names.sort();
        let [only, zero] = names.as_slice() else {
            panic!("not the marks of one deploy: {names:?}");
        };
        assert_eq!(zero, "zero.txt");
        only.strip_prefix("only-").unwrap().parse().unwrap()
    }
}

/// The name that only this deploy has, in [`MARKS`].
pub fn mark(number: u32) -> String {
    format!("only-{number:06}")
}

fn page(path: &str, number: usize) -> String {
    let lines = match path {
        FIXED => 60,
        GROWING => 1 + number * 37 % 190,
        _ => 900,
    };
    format!("deploy {number:06} {path}\n").repeat(lines)
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
