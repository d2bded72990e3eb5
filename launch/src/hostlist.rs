//! Host lists as Slurm writes them: `r[01-02]i[1-3]n05,gpu7`. Padding is kept, several brackets multiply,
//! the last varies fastest.

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

#[cfg(test)]
mod tests {
    use super::*;

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
