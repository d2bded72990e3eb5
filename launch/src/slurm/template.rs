//! Texts with holes. `{{name}}` is replaced by a value; alone on its line, by the lines of the value, which
//! may be none; lines from `{{if name}}` to `{{end}}` stand only where the value has lines. A hole without
//! a value is a defect.

use std::collections::BTreeMap;

/// What fills the holes, by name: lines.
pub(super) type Values = BTreeMap<&'static str, Vec<String>>;

/// The text without holes; several blank lines become one.
pub(super) fn fill(template: &str, values: &Values) -> String {
    let lines_of =
        |name: &str| values.get(name).unwrap_or_else(|| panic!("the template's {name:?} has a value"));
    let (mut text, mut kept) = (String::new(), true);
    for line in template.lines() {
        match line.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
            Some("end") => kept = true,
            Some(hole) if hole.starts_with("if ") => kept = !lines_of(&hole[3..]).is_empty(),
            _ if !kept => {}
            Some(hole) if !hole.contains("{{") => {
                lines_of(hole).iter().for_each(|line| push(&mut text, line));
            }
            _ => push(&mut text, &fill_line(line, &lines_of)),
        }
    }
    text
}

fn push(text: &mut String, line: &str) {
    if !(line.is_empty() && (text.is_empty() || text.ends_with("\n\n"))) {
        text.push_str(line);
        text.push('\n');
    }
}

fn fill_line<'v>(line: &str, lines_of: &impl Fn(&str) -> &'v Vec<String>) -> String {
    let mut pieces = line.split("{{");
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once("}}") {
            Some((hole, rest)) => {
                filled += &lines_of(hole).join(" ");
                filled += rest;
            }
            None => filled += piece,
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_values_lines_and_conditions() {
        let lines = |text: &[&str]| text.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let values =
            Values::from([("a", lines(&["one"])), ("many", lines(&["x", "y"])), ("none", Vec::new())]);
        let template = "{{a}} and {{a}}\n\n{{none}}\n\n{{many}}\n\
                        {{if none}}\nnot {{a}}\n{{end}}\n{{if a}}\nyes\n{{end}}\n";
        assert_eq!(fill(template, &values), "one and one\n\nx\ny\nyes\n");
    }
}
