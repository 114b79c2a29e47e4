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
    /// Their pages alone, sealed nowhere.
    pub fn unsealed(count: usize) -> Self {
        let pages = (0..count).map(|number| TELLING.map(|path| page(path, number)));
        Numbered {
            ids: Vec::new(),
            pages: pages.collect(),
        }
    }

    /// Seals this many.
    pub fn seal(site: &Site, count: usize) -> Self {
        let mut deploys = Self::unsealed(count);
        for number in 0..count {
            let dir = site.beside("numbered");
            for (path, text) in TELLING.iter().zip(&deploys.pages[number]) {
                write(&dir.join(path), text);
            }
            write(&dir.join(SAME), SAME_TEXT);
            write(&dir.join(MARKS).join("zero.txt"), "");
            write(&dir.join(MARKS).join(mark(number as u32)), "");
            deploys.ids.push(site.deploy(&dir));
            fs::remove_dir_all(&dir).unwrap();
        }
        deploys
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// The bytes of one of the [`TELLING`] paths in this deploy.
    pub fn page(&self, number: u32, column: usize) -> &[u8] {
        self.pages[number as usize][column].as_bytes()
    }

    /// Which deploy's `path` this is, to the last byte; none for a file that is alike in all.
    pub fn number_of(&self, path: &str, bytes: &[u8]) -> Option<u32> {
        if path == SAME {
            assert_eq!(bytes, SAME_TEXT.as_bytes(), "{path}");
            return None;
        }
        let column = TELLING.iter().position(|telling| *telling == path);
        let column = column.expect("a path of these deploys");
        let whole = self.number_of_page(column, bytes);
        Some(whole.unwrap_or_else(|torn| panic!("{torn}")))
    }

    /// Which deploy's page this is, to the last byte. Error: of none.
    pub fn number_of_page(&self, column: usize, bytes: &[u8]) -> Result<u32, String> {
        let path = TELLING[column];
        // Only the first line is text for sure, where the bytes are of several deploys.
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
        let number = std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u32>().ok())
            .filter(|number| (*number as usize) < self.count())
            .ok_or_else(|| format!("{path}: {} bytes tell no number", bytes.len()))?;
        let whole = self.page(number, column);
        match bytes == whole {
            true => Ok(number),
            false => Err(format!(
                "{path} of deploy {number} is not itself: {} bytes instead of {}",
                bytes.len(),
                whole.len()
            )),
        }
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
