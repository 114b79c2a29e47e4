//! What a client may see while deploys flip: the rule of P1 as a check of plain data.

/// One read by a client. Flip 0 is the deploy that was live before the first read; every later one has the next number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The last flip that had been answered when the read began.
    pub began: usize,
    /// The last flip that had been asked for when the read ended.
    pub ended: usize,
    /// The deploys that were found in what belongs together: one file, or all that was read through one handle.
    pub seen: Vec<u32>,
}

/// How a read broke the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// It saw several deploys in one.
    Mixed,
    /// It saw a deploy that had been replaced before it began.
    Stale,
    /// It saw a deploy that nobody had asked for when it ended.
    Future,
    /// It saw a deploy that was right at some moment of the read, but that the same client had seen replaced.
    Backwards,
}

/// A client that reads one thing after the other.
#[derive(Debug, Default)]
pub struct Client {
    /// The earliest flip that its last read can have seen.
    at: usize,
}

impl Client {
    /// Judges this client's next read; `flips[k]` is the deploy that flip k made live.
    ///
    /// A deploy that was live several times may have been seen at any of them. Taking the earliest that fits leaves the most
    /// room for the reads to come, so a client that fails here could not have been right in any other way.
    pub fn check(&mut self, flips: &[u32], read: &Read) -> Result<(), Violation> {
        let seen = *read.seen.first().expect("a read that saw something");
        if read.seen.iter().any(|other| *other != seen) {
            return Err(Violation::Mixed);
        }
        let shows = |flip: &usize| flips.get(*flip) == Some(&seen);
        let during = read.began..=read.ended;
        if let Some(flip) = (read.began.max(self.at)..=read.ended).find(shows) {
            self.at = flip;
            Ok(())
        } else if during.into_iter().any(|flip| shows(&flip)) {
            Err(Violation::Backwards)
        } else if (0..read.began).any(|flip| shows(&flip)) {
            Err(Violation::Stale)
        } else {
            Err(Violation::Future)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges one client's reads, given as (began, ended, seen).
    fn judge(flips: &[u32], reads: &[(usize, usize, &[u32])]) -> Result<(), Violation> {
        let mut client = Client::default();
        reads.iter().try_for_each(|(began, ended, seen)| {
            let seen = seen.to_vec();
            client.check(
                flips,
                &Read {
                    began: *began,
                    ended: *ended,
                    seen,
                },
            )
        })
    }

    #[test]
    fn a_read_during_a_flip_may_see_either_deploy() {
        assert_eq!(judge(&[10, 11], &[(0, 1, &[10]), (0, 1, &[11])]), Ok(()));
        assert_eq!(
            judge(&[10, 11], &[(0, 0, &[10]), (1, 1, &[11, 11])]),
            Ok(())
        );
        assert_eq!(judge(&[10, 11, 12], &[(0, 2, &[11])]), Ok(()));
    }

    #[test]
    fn a_planted_stale_read_is_found() {
        assert_eq!(
            judge(&[10, 11, 12], &[(0, 1, &[10]), (1, 2, &[10])]),
            Err(Violation::Stale)
        );
        assert_eq!(
            judge(&[10, 11, 10, 11], &[(3, 3, &[10])]),
            Err(Violation::Stale)
        );
    }

    #[test]
    fn a_planted_step_back_is_found() {
        assert_eq!(
            judge(&[10, 11], &[(0, 1, &[11]), (0, 1, &[10])]),
            Err(Violation::Backwards)
        );
        assert_eq!(
            judge(
                &[10, 11, 10],
                &[(0, 2, &[11]), (0, 2, &[10]), (0, 2, &[11])]
            ),
            Err(Violation::Backwards)
        );
    }

    #[test]
    fn a_planted_read_from_the_future_is_found() {
        assert_eq!(judge(&[10, 11], &[(0, 0, &[11])]), Err(Violation::Future));
        assert_eq!(judge(&[10, 11], &[(0, 1, &[99])]), Err(Violation::Future));
    }

    #[test]
    fn a_planted_mix_is_found() {
        assert_eq!(
            judge(&[10, 11], &[(0, 1, &[10, 11])]),
            Err(Violation::Mixed)
        );
    }

    #[test]
    fn a_deploy_that_comes_back_may_be_seen_again_but_no_more_often() {
        let flips = [10, 11, 10, 11];
        assert_eq!(
            judge(
                &flips,
                &[
                    (0, 3, &[10]),
                    (0, 3, &[11]),
                    (0, 3, &[10]),
                    (2, 3, &[10]),
                    (0, 3, &[11])
                ]
            ),
            Ok(())
        );
        assert_eq!(
            judge(
                &flips,
                &[
                    (0, 3, &[10]),
                    (0, 3, &[11]),
                    (0, 3, &[10]),
                    (0, 3, &[11]),
                    (0, 3, &[10])
                ]
            ),
            Err(Violation::Backwards)
        );
    }

    #[test]
    fn of_several_flips_that_fit_the_earliest_is_taken() {
        // Had the first read been put at flip 2, the second would seem to go back.
        assert_eq!(
            judge(&[10, 11, 10], &[(0, 2, &[10]), (0, 1, &[11])]),
            Ok(())
        );
    }
}
