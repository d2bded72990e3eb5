//! Host lists as Slurm writes them: `r[01-02]i[1-3]n05,gpu7`. Padding is kept, several brackets multiply,
//! the last varies fastest. [`compress`] writes them, with one bracket a name.

use std::fmt;

/// More hosts than any machine has: what is above is a slip of the keyboard.
const HOSTS_MAX: usize = 100_000;

/// A list that cannot be read, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostListError(String);

impl fmt::Display for HostListError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for HostListError {}

/// All hosts of `list`, in its order.
///
/// # Errors
/// The list is empty, malformed, or has more than a hundred thousand hosts.
pub fn expand(list: &str) -> Result<Vec<String>, HostListError> {
    let refuse = |why: &str| HostListError(format!("host list \"{}\": {why}", list.escape_debug()));
    let mut hosts = Vec::new();
    for entry in entries(list).map_err(refuse)? {
        let mut names = vec![String::new()];
        for part in parts(entry).map_err(refuse)? {
            let choices = match part {
                Part::Text(text) => vec![text.to_owned()],
                Part::Ranges(ranges) => numbers(ranges).map_err(|why| refuse(&why))?,
            };
            if hosts.len() + names.len() * choices.len() > HOSTS_MAX {
                return Err(refuse(&format!("more than {HOSTS_MAX} hosts")));
            }
            names = names.iter().flat_map(|name| choices.iter().map(move |c| format!("{name}{c}"))).collect();
        }
        hosts.append(&mut names);
    }
    Ok(hosts)
}

/// Splits at the commas that are outside brackets.
fn entries(list: &str) -> Result<Vec<&str>, &'static str> {
    let (mut entries, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return Err("a bracket inside brackets"),
            ']' if !inside => return Err("a closing bracket without its opening one"),
            '[' | ']' => inside = c == '[',
            ',' if !inside => {
                entries.push(&list[start..at]);
                start = at + 1;
            }
            ',' | '-' => {}
            '.' | '_' if !inside => {}
            _ if c.is_ascii_digit() || (c.is_ascii_alphabetic() && !inside) => {}
            _ => {
                return Err(
                    "only letters, digits, '-', '_', '.' make names, and only digits, '-', ',' ranges",
                );
            }
        }
    }
    if inside {
        return Err("an opening bracket without its closing one");
    }
    entries.push(&list[start..]);
    if entries.iter().any(|entry| entry.is_empty()) { Err("an empty name") } else { Ok(entries) }
}

enum Part<'a> {
    Text(&'a str),
    /// What is between the brackets.
    Ranges(&'a str),
}

/// Texts and brackets of an entry whose brackets are balanced.
fn parts(mut entry: &str) -> Result<Vec<Part<'_>>, &'static str> {
    let mut parts = Vec::new();
    while let Some((text, rest)) = entry.split_once('[') {
        let (ranges, rest) = rest.split_once(']').ok_or("an opening bracket without its closing one")?;
        parts.extend([Part::Text(text), Part::Ranges(ranges)]);
        entry = rest;
    }
    parts.push(Part::Text(entry));
    Ok(parts)
}

/// The numbers of `1-3,07`, as wide as the first of their range is written.
fn numbers(ranges: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("\"{range}\" is no range of numbers"));
        let (low, high) = (number(first)?, number(last)?);
        if low > high {
            return Err(format!("\"{range}\" goes backwards"));
        }
        if high - low >= (HOSTS_MAX - all.len()) as u64 {
            return Err(format!("more than {HOSTS_MAX} hosts"));
        }
        let width = first.len();
        all.extend((low..=high).map(|number| format!("{number:0width$}")));
    }
    Ok(all)
}

/// The list of these hosts, in their order: names that differ in their last number only are one, with ranges where
/// numbers follow each other. [`expand`] gives the hosts back, if they are names that hosts may have.
pub fn compress(hosts: &[String]) -> String {
    let mut names: Vec<Numbered> = Vec::new();
    for host in hosts {
        let (prefix, number, suffix) = cut(host);
        match names.last_mut() {
            Some(last) if !number.is_empty() && (last.prefix, last.suffix) == (prefix, suffix) => {
                last.push(number);
            }
            _ => names.push(Numbered { prefix, suffix, ranges: vec![(number, number)] }),
        }
    }
    names.iter().map(Numbered::text).collect::<Vec<_>>().join(",")
}

/// Hosts that differ in a number.
struct Numbered<'a> {
    prefix: &'a str,
    suffix: &'a str,
    /// First and last numbers, as they are written.
    ranges: Vec<(&'a str, &'a str)>,
}

impl<'a> Numbered<'a> {
    fn push(&mut self, number: &'a str) {
        let follows = |(first, last): &(&str, &str)| {
            let (next, width) = (last.parse::<u64>().ok()?.checked_add(1)?, first.len());
            Some(format!("{next:0width$}") == number)
        };
        match self.ranges.last_mut() {
            Some(range) if follows(&*range) == Some(true) => range.1 = number,
            _ => self.ranges.push((number, number)),
        }
    }

    fn text(&self) -> String {
        let Numbered { prefix, suffix, ranges } = self;
        let range = |(first, last): &(&str, &str)| match first == last {
            true => (*first).to_owned(),
            false => format!("{first}-{last}"),
        };
        match ranges.as_slice() {
            [(first, last)] if first == last => format!("{prefix}{first}{suffix}"),
            ranges => format!("{prefix}[{}]{suffix}", ranges.iter().map(range).collect::<Vec<_>>().join(",")),
        }
    }
}

/// What is before the last number of a name, the number, and what is behind it.
fn cut(host: &str) -> (&str, &str, &str) {
    let digit = |c: char| c.is_ascii_digit();
    let end = host.rfind(digit).map_or(host.len(), |at| at + 1);
    let start = host[..end].trim_end_matches(digit).len();
    (&host[..start], &host[start..end], &host[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_short_as_slurm_writes_them() {
        let lists = [
            ("gpu7", "gpu7"),
            ("login", "login"),
            ("a b a", "a,b,a"),
            ("n1 n2 n3", "n[1-3]"),
            ("n008 n009 n010 n012 n3", "n[008-010,012,3]"),
            ("n9 n10 n11", "n[9-11]"),
            ("n09 n10 n100 n101", "n[09-10,100-101]"),
            ("n2 n1 n1", "n[2,1,1]"),
            ("r01i1n05 r01i1n06 r01i2n05", "r01i1n[05-06],r01i2n05"),
            ("x1.site x2.site y2.site", "x[1-2].site,y2.site"),
            ("7 8", "[7-8]"),
            ("n99999999999999999999 n1", "n[99999999999999999999,1]"),
        ];
        for (hosts, list) in lists {
            let hosts: Vec<String> = hosts.split(' ').map(str::to_owned).collect();
            assert_eq!(compress(&hosts), list);
            if !list.contains("99999") {
                assert_eq!(expand(list).unwrap(), hosts, "{list}");
            }
        }
        assert_eq!(compress(&[]), "");
    }

    #[test]
    fn what_is_compressed_expands_to_itself() {
        // Numbers of all widths, in and out of order.
        let mut state = 1_u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        for _ in 0..300 {
            let mut next = below(12);
            let name = |_| {
                let (jumps, width) = (below(4) == 0, [1, 2, 3][below(3) as usize]);
                next = if jumps { below(1200) } else { next + 1 };
                let prefix = ["n", "r1n"][usize::from(below(8) == 0)];
                format!("{prefix}{next:0width$}")
            };
            let hosts: Vec<String> = (0..20).map(name).collect();
            let list = compress(&hosts);
            assert_eq!(expand(&list).unwrap(), hosts, "{list}");
        }
    }

    #[test]
    fn lists_are_expanded_in_order_with_their_padding() {
        let lists = [
            ("gpu7", "gpu7"),
            ("gpu[1-3]", "gpu1 gpu2 gpu3"),
            ("a,b-1.site", "a b-1.site"),
            ("n[08-11,3]", "n08 n09 n10 n11 n3"),
            ("n[9-11]", "n9 n10 n11"),
            ("n[098-101]x", "n098x n099x n100x n101x"),
            ("r[01-02]i[1-3]n05,gpu7", "r01i1n05 r01i2n05 r01i3n05 r02i1n05 r02i2n05 r02i3n05 gpu7"),
            ("jzxh[069,071-072],x[1]", "jzxh069 jzxh071 jzxh072 x1"),
        ];
        for (list, hosts) in lists {
            assert_eq!(expand(list).unwrap().join(" "), hosts);
        }
    }

    #[test]
    fn malformed_lists_are_refused_in_one_line() {
        let lists = [
            ("", "an empty name"),
            ("a,,b", "an empty name"),
            ("a,", "an empty name"),
            ("a[1-2", "without its closing"),
            ("a1-2]", "without its opening"),
            ("a[1[2]]", "inside brackets"),
            ("a[]", "no range"),
            ("a[1,]", "no range"),
            ("a[-3]", "no range"),
            ("a[1-2-3]", "no range"),
            ("a[3-1]", "backwards"),
            ("a[x]", "only digits"),
            ("a b", "only letters"),
            ("a\nb", "only letters"),
            ("a[1-999999999]", "more than 100000"),
            ("a[1-1000]b[1-1000]", "more than 100000"),
            ("a[1-99999999999999999999]", "no range"),
        ];
        for (list, why) in lists {
            let text = expand(list).unwrap_err().to_string();
            assert!(text.contains(why) && !text.contains('\n'), "{list}: {text}");
        }
    }
}
