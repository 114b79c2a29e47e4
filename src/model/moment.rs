//! Moments as people write and read them; inside they are whole seconds since 1970.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// A moment as `2026-11-23T17:03:52Z`.
pub fn time(seconds: u64) -> String {
    let stamp = i64::try_from(seconds).ok();
    match stamp.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(stamp) => stamp.to_string(),
        None => seconds.to_string(),
    }
}

/// The moment of `2h` or `7d` from now on, or of `2026-11-23T17:03:52Z`; it must be still to come.
pub fn moment(text: &str, now: u64) -> Result<u64, String> {
    let wrong = || {
        format!(
            "'{text}' is no moment: give a time span, such as 2h or 7d, or a date, such as 2026-11-23T17:00:00Z"
        )
    };
    let now = Timestamp::from_second(now as i64).map_err(|_| wrong())?;
    let then = match text.parse::<Span>() {
        Ok(span) => {
            let zoned = now.to_zoned(TimeZone::UTC).checked_add(span);
            zoned.map_err(|_| wrong())?.timestamp()
        }
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    match then.as_second() > now.as_second() {
        true => Ok(then.as_second() as u64),
        false => Err(format!("'{text}' is over already: give a moment to come")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_453_432;

    #[test]
    fn times_agree_with_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(NOW), "2026-11-23T17:03:52Z");
        assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn spans_and_dates_are_moments_to_come() {
        assert_eq!(moment("2h", NOW), Ok(NOW + 7200));
        assert_eq!(moment("7d", NOW), Ok(NOW + 7 * 86_400));
        assert_eq!(moment("1h 30m", NOW), Ok(NOW + 5400));
        assert_eq!(moment("2026-11-23T17:03:53Z", NOW), Ok(NOW + 1));
        assert_eq!(moment("2026-11-23T19:03:53+01:00", NOW), Ok(NOW + 3601));
        for text in [
            "",
            "2",
            "soon",
            "2026-11-23",
            "-2h",
            "0s",
            "2026-11-23T17:03:52Z",
            "1d ago",
        ] {
            assert!(moment(text, NOW).is_err(), "{text}");
        }
    }
}
