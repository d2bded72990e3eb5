//! The mistakes that a mutant makes: where a source offers a place for one, and what it becomes.

use std::ops::Range;

use super::tokens::{Kind, Source};

/// A kind of mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mistake {
    DroppedSync,
    DroppedFence,
    Literal,
    Index,
    Bound,
    SwappedOperands,
    Swizzle,
    Shuffle,
    Alignment,
}

impl Mistake {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Mistake::DroppedSync => "dropped barrier, wait or commit",
            Mistake::DroppedFence => "dropped fence",
            Mistake::Literal => "±1 on a literal",
            Mistake::Index => "+1 on an index",
            Mistake::Bound => "< for <=, > for >=",
            Mistake::SwappedOperands => "swapped operands of - or /",
            Mistake::Swizzle => "wrong swizzle or shift",
            Mistake::Shuffle => "wrong shuffle",
            Mistake::Alignment => "alignment not asked for",
        }
    }
}

/// One change of one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) mistake: Mistake,
    pub(crate) range: Range<usize>,
    pub(crate) text: String,
}

const SYNCS: [&str; 6] =
    ["block_sync", "warp_sync", "barrier_sync", "barrier_arrive", "copy_async_wait", "copy_async_commit"];
const SHUFFLES: [&str; 3] = ["shuffle_xor", "shuffle_down", "shuffle"];
const ACCESSES: [&str; 8] =
    ["load", "store", "load_pack", "store_pack", "load_pair", "store_pair", "load_group", "store_group"];

/// Every change that the source offers, in the order of its text.
pub(crate) fn changes(source: &Source) -> Vec<Change> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.tokens.len() {
        // The head of a kernel, and what the compiler itself asserts.
        if ["KERNEL", "static_assert"].contains(&source.word(at)) {
            at = source.closing(at + 1).unwrap_or(at);
        }
        at_token(source, at, &mut found);
        at += 1;
    }
    found
}

fn at_token(source: &Source, at: usize, found: &mut Vec<Change>) {
    let mut add = |mistake, range: Range<usize>, text: String| found.push(Change { mistake, range, text });
    let word = source.word(at);
    if let Some(end) = statement_end(source, at) {
        if SYNCS.contains(&word) {
            add(Mistake::DroppedSync, source.bytes(at, end), ";".into());
        } else if word == "device_fence" {
            add(Mistake::DroppedFence, source.bytes(at, end), ";".into());
        }
    }
    if source.is(at, Kind::Name) && source.word(at + 1) == "(" && !is_definition(source, at) {
        call(source, at, &mut add);
    }
    if source.is(at, Kind::Sign) && source.is_spaced(at) {
        sign(source, at, &mut add);
    }
    if source.is(at, Kind::Integer)
        && !is_extent(source, at)
        && let Ok(value) = word.parse::<u64>()
    {
        let shifts = at > 0 && ["<<", ">>"].contains(&source.word(at - 1)) && source.is_spaced(at - 1);
        let mistake = if shifts { Mistake::Swizzle } else { Mistake::Literal };
        let own = &source.tokens[at].range;
        add(mistake, own.clone(), (value + 1).to_string());
        if value > 0 {
            add(mistake, own.clone(), (value - 1).to_string());
        }
    }
}

/// At the name of what is called.
fn call(source: &Source, at: usize, add: &mut impl FnMut(Mistake, Range<usize>, String)) {
    let (word, arguments) = (source.word(at), source.arguments(at + 1));
    if word == "is_aligned"
        && let Some(end) = source.closing(at + 1)
    {
        add(Mistake::Alignment, source.bytes(at, end), "true".into());
    }
    let Some(second) = arguments.get(1) else { return };
    if SHUFFLES.contains(&word) {
        let range = source.bytes(second.start, second.end - 1);
        let changed = if word == "shuffle" { " ^ 1" } else { " / 2" };
        add(Mistake::Shuffle, range.clone(), format!("({}){changed}", &source.text[range]));
    } else if ACCESSES.contains(&word) {
        let start = source.tokens[second.start].range.start;
        add(Mistake::Index, start..start, "1 + ".into());
    }
}

/// At a binary operator.
fn sign(source: &Source, at: usize, add: &mut impl FnMut(Mistake, Range<usize>, String)) {
    let word = source.word(at);
    let other = match word {
        "<" => Some((Mistake::Bound, "<=")),
        "<=" => Some((Mistake::Bound, "<")),
        ">" => Some((Mistake::Bound, ">=")),
        ">=" => Some((Mistake::Bound, ">")),
        "^" => Some((Mistake::Swizzle, "+")),
        _ => None,
    };
    if let Some((mistake, text)) = other {
        add(mistake, source.tokens[at].range.clone(), text.into());
    } else if ["-", "/"].contains(&word)
        && let Some((left, right)) = operands(source, at)
    {
        let swapped = format!("{} {word} {}", &source.text[right.clone()], &source.text[left.clone()]);
        add(Mistake::SwappedOperands, left.start..right.end, swapped);
    }
}

/// Where the statement that is a call of the name at `at` ends.
fn statement_end(source: &Source, at: usize) -> Option<usize> {
    let begins = at > 0 && [";", "{", "}", ")"].contains(&source.word(at - 1));
    let mut open = at + 1;
    if source.word(open) == "<" {
        open = (open..source.tokens.len()).find(|at| source.word(*at) == ">")? + 1;
    }
    if !begins || source.word(open) != "(" {
        return None;
    }
    let end = source.closing(open)? + 1;
    (source.word(end) == ";").then_some(end)
}

/// Whether a name before a bracket is declared here: a type stands before it.
fn is_definition(source: &Source, at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else { return false };
    let after_name = source.is(before, Kind::Name) && source.word(before) != "return";
    after_name || source.word(before) == ">" && !source.is_spaced(before)
}

/// Whether an integer is the extent of an array that is declared: `f32 sums[4]`, `u32 (&r)[4]`.
fn is_extent(source: &Source, at: usize) -> bool {
    if at < 3 || source.word(at - 1) != "[" || source.word(at + 1) != "]" {
        return false;
    }
    let before = at - 3;
    source.word(at - 2) == ")"
        || source.is(at - 2, Kind::Name) && (source.is(before, Kind::Name) || source.word(before) == ">")
}

/// Bytes of the operands of the binary operator at `at`: a name, a number, a call or a bracket each.
fn operands(source: &Source, at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let mut first = at.checked_sub(1)?;
    if [")", "]"].contains(&source.word(first)) {
        first = source.opening(first)?;
        if first > 0 && source.is(first - 1, Kind::Name) && source.word(first - 1) != "return" {
            first -= 1;
        }
    } else if source.is(first, Kind::Sign) || source.word(first) == "return" {
        return None;
    }
    while first >= 2 && source.word(first - 1) == "." {
        first -= 2;
    }
    let mut last = at + 1;
    if source.is(last, Kind::Sign) && source.word(last) != "(" {
        return None;
    }
    if source.word(last) == "(" {
        last = source.closing(last)?;
    }
    if source.word(last + 1) == "<" && !source.is_spaced(last + 1) {
        last = (last..source.tokens.len()).find(|at| source.word(*at) == ">")?;
    }
    while [".", "::"].contains(&source.word(last + 1)) {
        last += 2;
    }
    if ["(", "["].contains(&source.word(last + 1)) {
        last = source.closing(last + 1)?;
    }
    Some((source.bytes(first, at - 1), source.bytes(at + 1, last)))
}
