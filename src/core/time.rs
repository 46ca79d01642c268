//! Points in time, as milliseconds since the Unix epoch, always UTC.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time in milliseconds since 1970-01-01T00:00:00Z: the precision of both databases and of AMQP's peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// The time `after` this one; saturates at the end of time rather than wrap.
    pub fn plus(self, after: Duration) -> Time {
        let millis = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Time(self.0.saturating_add(millis))
    }

    /// How long it is from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339, in UTC (`2026-01-02T03:04:05.678Z`).
    ///
    /// # Errors
    /// What `humantime` says of the text.
    pub fn parse(text: &str) -> Result<Time, humantime::TimestampError> {
        humantime::parse_rfc3339_weak(text).map(Time::from)
    }
}

impl From<SystemTime> for Time {
    fn from(at: SystemTime) -> Time {
        let millis = match at.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |m| -m),
        };
        Time(millis)
    }
}

impl fmt::Display for Time {
    /// RFC 3339, UTC, milliseconds. Times before 1970 or after 9999 do not occur in sagas; they show as the nearest bound.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const END_OF_9999: i64 = 253_402_300_799_999;
        let millis = self.0.clamp(0, END_OF_9999).unsigned_abs();
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).fmt(f)
    }
}

/// A point in time for those outside: RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub Time);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<At, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        Time::parse(&text).map(At).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_rfc_3339_in_milliseconds() {
        let time = Time(1_767_323_045_678);
        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Time::parse("2026-01-02T03:04:05.678Z").ok(), Some(time));
    }

    #[test]
    fn the_clock_is_read_in_milliseconds_before_1970_too() {
        for millis in [0, 1, 1_767_323_045_678] {
            assert_eq!(Time::from(UNIX_EPOCH + Duration::from_millis(millis)), Time(millis as i64));
            assert_eq!(Time::from(UNIX_EPOCH - Duration::from_millis(millis)), Time(-(millis as i64)));
        }
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        assert_eq!(Time(i64::MAX).plus(Duration::from_secs(1)), Time(i64::MAX));
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
