//! What a web server may answer to a request with a validator while deploys flip: the rule as a check of plain data.

use crate::support::*;

/// One request for one of the [`TELLING`] paths.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Which of them.
    pub column: usize,
    /// What the client holds already.
    pub held: Held,
}

/// What a client holds of a path, and so asks.
#[derive(Debug, Clone, Copy)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// This deploy's page: If-None-Match.
    Whole(u32),
    /// A part of this deploy's page: If-Range, and these first and last bytes.
    Part(u32, usize, usize),
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    pub status: u16,
    pub etag: &'a [u8],
    pub content_range: &'a [u8],
    pub body: &'a [u8],
}

/// How an answer is wrong, whatever was live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Its bytes are of no deploy, or of several.
    Torn(String),
    /// Its validator belongs to other bytes.
    Validator,
    /// It says that what the client holds is good, of a version that the client did not name.
    NotNamed,
    /// Its part of the page is not the one that was asked for.
    Range,
    /// What the client holds is sent to it again.
    Again,
    /// No such status was to be expected.
    Status,
}

/// The validators of all pages.
pub struct Validators<'a> {
    deploys: &'a Numbered,
    /// By deploy, then by path.
    etags: Vec<[Vec<u8>; TELLING.len()]>,
}

impl<'a> Validators<'a> {
    /// Takes them as they are while nothing flips; no two pages of one path may share one.
    pub fn new(deploys: &'a Numbered, etags: Vec<[Vec<u8>; TELLING.len()]>) -> Self {
        for column in 0..TELLING.len() {
            let mut of_path: Vec<_> = etags.iter().map(|etags| &etags[column]).collect();
            of_path.sort();
            of_path.dedup();
            assert_eq!(of_path.len(), deploys.count(), "{}", TELLING[column]);
        }
        Validators { deploys, etags }
    }

    /// The validator of one page.
    pub fn etag(&self, number: u32, column: usize) -> &[u8] {
        &self.etags[number as usize][column]
    }

    /// Which deploy an answer shows.
    pub fn judge(&self, asked: Asked, reply: &Reply) -> Result<u32, Wrong> {
        let Asked { column, held } = asked;
        let seen = match (reply.status, held) {
            (200, _) => {
                let seen = self.deploys.number_of_page(column, reply.body);
                seen.map_err(Wrong::Torn)?
            }
            (304, Held::Whole(number)) | (206, Held::Part(number, ..)) => number,
            _ => return Err(Wrong::Status),
        };
        if reply.etag != self.etag(seen, column) {
            return Err(match reply.status {
                200 => Wrong::Validator,
                _ => Wrong::NotNamed,
            });
        }
        match (reply.status, held) {
            (206, Held::Part(number, first, last)) => {
                let page = self.deploys.page(number, column);
                let range = format!("bytes {first}-{last}/{}", page.len());
                if reply.content_range != range.as_bytes() || reply.body != &page[first..=last] {
                    return Err(Wrong::Range);
                }
            }
            (200, Held::Whole(number) | Held::Part(number, ..)) if number == seen => {
                return Err(Wrong::Again);
            }
            _ => {}
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etags(deploys: &Numbered) -> Vec<[Vec<u8>; TELLING.len()]> {
        let etag = |number| [0, 1, 2].map(|column| format!("\"{number}-{column}\"").into_bytes());
        (0..deploys.count()).map(etag).collect()
    }

    /// Judges what is answered to one who asks for the first path and holds this.
    fn judge(held: Held, status: u16, etag_of: u32, body: &[u8]) -> Result<u32, Wrong> {
        let deploys = Numbered::unsealed(3);
        let validators = Validators::new(&deploys, etags(&deploys));
        let size = deploys.page(0, 0).len();
        let reply = Reply {
            status,
            etag: validators.etag(etag_of, 0),
            content_range: format!("bytes 8-29/{size}").into_bytes().leak(),
            body,
        };
        validators.judge(Asked { column: 0, held }, &reply)
    }

    fn page(number: u32) -> Vec<u8> {
        Numbered::unsealed(3).page(number, 0).to_vec()
    }

    const WHOLE: Held = Held::Whole(1);
    const PART: Held = Held::Part(1, 8, 29);

    #[test]
    fn right_answers_show_their_deploy() {
        for held in [Held::Nothing, WHOLE, PART] {
            assert_eq!(judge(held, 200, 2, &page(2)), Ok(2));
        }
        assert_eq!(judge(WHOLE, 304, 1, b""), Ok(1));
        assert_eq!(judge(PART, 206, 1, &page(1)[8..=29]), Ok(1));
    }

    #[test]
    fn a_planted_old_etag_with_new_bytes_is_found() {
        assert_eq!(
            judge(Held::Nothing, 200, 1, &page(2)),
            Err(Wrong::Validator)
        );
        assert_eq!(judge(WHOLE, 200, 1, &page(2)), Err(Wrong::Validator));
        assert_eq!(judge(WHOLE, 200, 2, &page(0)), Err(Wrong::Validator));
    }

    #[test]
    fn a_planted_stale_206_is_found() {
        // New bytes to continue the old ones, under either validator.
        assert_eq!(judge(PART, 206, 2, &page(2)[8..=29]), Err(Wrong::NotNamed));
        assert_eq!(judge(PART, 206, 1, &page(2)[8..=29]), Err(Wrong::Range));
        // The version that the validator names, but it is replaced: the timeline finds that.
        let seen = vec![judge(PART, 206, 1, &page(1)[8..=29]).unwrap()];
        let mut client = timeline::Client::default();
        let read = timeline::Read {
            began: 2,
            ended: 2,
            seen,
        };
        let stale = client.check(&[0, 1, 2], &read);
        assert_eq!(stale, Err(timeline::Violation::Stale));
    }

    #[test]
    fn a_planted_304_for_a_version_that_was_not_named_is_found() {
        assert_eq!(judge(WHOLE, 304, 2, b""), Err(Wrong::NotNamed));
        assert_eq!(judge(Held::Nothing, 304, 1, b""), Err(Wrong::Status));
        assert_eq!(judge(WHOLE, 206, 1, b""), Err(Wrong::Status));
        assert_eq!(judge(PART, 304, 1, b""), Err(Wrong::Status));
    }

    #[test]
    fn a_planted_torn_page_is_found() {
        let mut torn = page(1);
        torn.truncate(torn.len() - 1);
        assert!(matches!(judge(WHOLE, 200, 1, &torn), Err(Wrong::Torn(_))));
        let mut mixed = page(1);
        let half = mixed.len() / 2;
        mixed.splice(half.., page(2).split_off(half));
        assert!(matches!(judge(WHOLE, 200, 1, &mixed), Err(Wrong::Torn(_))));
    }

    #[test]
    fn a_planted_other_range_and_a_page_sent_again_are_found() {
        assert_eq!(judge(PART, 206, 1, &page(1)[9..=30]), Err(Wrong::Range));
        assert_eq!(judge(PART, 200, 1, &page(1)), Err(Wrong::Again));
        assert_eq!(judge(WHOLE, 200, 1, &page(1)), Err(Wrong::Again));
        assert_eq!(judge(Held::Nothing, 200, 1, &page(1)), Ok(1));
    }
}
