//! Points in time as text and as numbers.

use std::time::{Duration, SystemTime};

/// RFC 3339 in UTC with milliseconds: `2026-11-22T07:44:00.123Z`. Times before 1970 read as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since = since_1970(time);
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> f64 {
    since_1970(time).as_secs_f64()
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The second since 1970 of a time in UTC as Slurm writes it: `2026-11-22T07:44:00`. `None` for anything else.
pub fn unix_second(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, between: char| -> Option<[u64; 3]> {
        let numbers: Vec<u64> = text.split(between).map(|n| n.parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let is_date = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    // Slurm may give a leap second.
    let is_time = hour < 24 && minute < 60 && second <= 60;
    (is_date && is_time)
        .then(|| 86_400 * days_from_civil(year, month, day) + 3600 * hour + 60 * minute + second)
}

/// The inverse of [`civil_from_days`], from the same source.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let shifted = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Counts in eras of 400 years
/// (146,097 days) and years that begin in March, so that the leap day comes last (Hinnant, "chrono-compatible
/// low-level date algorithms", <https://howardhinnant.github.io/date_algorithms.html>).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_agrees_with_known_dates() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
            assert_eq!(unix_second(text.strip_suffix(".000Z").unwrap()), Some(seconds));
        }
        for text in [
            "",
            "2026-11-22",
            "T",
            "2026-11-22T07:44",
            "2026-13-01T00:00:00",
            "1969-01-01T00:00:00",
            "a-b-cTd:e:f",
        ] {
            assert_eq!(unix_second(text), None, "{text}");
        }
        let with_millis = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
        assert_eq!(rfc3339(with_millis), "1970-01-01T00:00:01.234Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00.000Z");
    }
}
