//! Time limits as Slurm writes them.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A time limit, to the second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Walltime {
    seconds: u64,
}

impl Walltime {
    /// Reads `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` or `D-HH:MM:SS`, as `sbatch --time` does; `None`
    /// for anything else, and for no time at all.
    pub fn parse(text: &str) -> Option<Walltime> {
        let (days, clock) = match text.split_once('-') {
            Some((days, clock)) => (Some(number(days)?), clock),
            None => (None, text),
        };
        let parts = clock.split(':').map(number).collect::<Option<Vec<u64>>>()?;
        let [hours, minutes, seconds] = match (days, parts[..].as_ref()) {
            (None, &[minutes]) => [0, minutes, 0],
            (None, &[minutes, seconds]) => [0, minutes, seconds],
            (Some(_), &[hours]) => [hours, 0, 0],
            (Some(_), &[hours, minutes]) => [hours, minutes, 0],
            (_, &[hours, minutes, seconds]) => [hours, minutes, seconds],
            _ => return None,
        };
        let seconds = 86_400 * days.unwrap_or(0) + 3600 * hours + 60 * minutes + seconds;
        (seconds > 0).then_some(Walltime { seconds })
    }

    /// In seconds.
    pub fn seconds(self) -> u64 {
        self.seconds
    }
}

/// Up to seven digits: nothing overflows, and nobody means more.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=7).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// `HH:MM:SS`, from a day on `D-HH:MM:SS`.
impl fmt::Display for Walltime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Walltime { seconds } = *self;
        if seconds >= 86_400 {
            write!(f, "{}-", seconds / 86_400)?;
        }
        write!(f, "{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
    }
}

impl<'de> Deserialize<'de> for Walltime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || de::Error::custom(format!("{text:?} is no time limit such as \"20:00:00\" or \"3-00\""));
        Walltime::parse(&text).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_sbatch_is_read_and_printed_in_one() {
        for (text, printed) in [
            ("30", "00:30:00"),
            ("90:15", "01:30:15"),
            ("20:00:00", "20:00:00"),
            ("100:00:00", "4-04:00:00"),
            ("1-00", "1-00:00:00"),
            ("2-03:04", "2-03:04:00"),
            ("0-00:00:01", "00:00:01"),
        ] {
            let time = Walltime::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(time.to_string(), printed, "{text}");
            assert_eq!(Walltime::parse(printed), Some(time), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let wrong = [
            "",
            "0",
            "00:00:00",
            "1h",
            "-1",
            "1-",
            "1:2:3:4",
            "12345678",
            "1-2:3:4:5",
            "+1",
            " 1",
            "UNLIMITED",
        ];
        for text in wrong {
            assert_eq!(Walltime::parse(text), None, "{text:?}");
        }
    }
}
