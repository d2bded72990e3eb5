//! Just enough of C++ to change a kernel in meaningful places: its tokens, without comments and preprocessor lines.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A name or keyword.
    Name,
    /// An integer in decimals, without suffix.
    Integer,
    /// Any other number, a string or a character.
    Literal,
    /// An operator or bracket.
    Sign,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) range: Range<usize>,
}

/// A source and its tokens.
pub(crate) struct Source {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

impl Source {
    pub(crate) fn new(text: String) -> Self {
        let tokens = tokens(&text);
        Source { text, tokens }
    }

    /// The text of a token; empty beyond the last.
    pub(crate) fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &self.text[token.range.clone()])
    }

    pub(crate) fn is(&self, at: usize, kind: Kind) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == kind)
    }

    /// Whether there are spaces on both sides, as around binary operators, and not around brackets of templates.
    pub(crate) fn is_spaced(&self, at: usize) -> bool {
        let Range { start, end } = self.tokens[at].range.clone();
        self.text[..start].ends_with(' ') && self.text[end..].starts_with([' ', '\n'])
    }

    /// The token that closes the bracket `open`.
    pub(crate) fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0;
        for at in open..self.tokens.len() {
            match self.word(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    /// The token that opens the bracket `close`.
    pub(crate) fn opening(&self, close: usize) -> Option<usize> {
        (0..close)
            .rev()
            .find(|open| matches!(self.word(*open), "(" | "[") && self.closing(*open) == Some(close))
    }

    /// Bytes from the start of one token to the end of another.
    pub(crate) fn bytes(&self, first: usize, last: usize) -> Range<usize> {
        self.tokens[first].range.start..self.tokens[last].range.end
    }

    /// Tokens of each argument of the call whose bracket opens at `open`. `PASS_SITE` is none.
    pub(crate) fn arguments(&self, open: usize) -> Vec<Range<usize>> {
        let Some(close) = self.closing(open) else { return Vec::new() };
        let (mut found, mut start, mut at) = (Vec::new(), open + 1, open + 1);
        while at <= close {
            match self.word(at) {
                "(" | "[" | "{" => at = self.closing(at).unwrap_or(close),
                "," | "PASS_SITE" if start <= at => {
                    found.push(start..at);
                    start = if self.word(at) == "," { at + 1 } else { close + 1 };
                }
                _ => {}
            }
            at += 1;
        }
        if start < close {
            found.push(start..close);
        }
        found.retain(|argument| !argument.is_empty());
        found
    }

    /// Line of a byte, from 1.
    pub(crate) fn line(&self, byte: usize) -> usize {
        self.text[..byte].matches('\n').count() + 1
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const LONG_SIGNS: [&str; 19] = [
        "<<=", ">>=", "<=", ">=", "==", "!=", "&&", "||", "++", "--", "+=", "-=", "*=", "/=", "%=", "->",
        "::", "<<", ">>",
    ];
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    let run = |from: usize, holds: &dyn Fn(u8) -> bool| {
        bytes[from..].iter().position(|byte| !holds(*byte)).map_or(bytes.len(), |length| from + length)
    };
    while at < bytes.len() {
        let (byte, rest) = (bytes[at], &text[at..]);
        if byte.is_ascii_whitespace() || !byte.is_ascii() {
            at += 1;
        } else if rest.starts_with("//") {
            at = run(at, &|byte| byte != b'\n');
        } else if byte == b'#' {
            at = end_of_directive(text, at);
        } else {
            let (kind, end) = if byte.is_ascii_alphabetic() || byte == b'_' {
                (Kind::Name, run(at, &|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
            } else if byte.is_ascii_digit() {
                let end = run(at, &|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                let is_decimal = text[at..end].bytes().all(|byte| byte.is_ascii_digit());
                let end = if bytes[end - 1] == b'e' {
                    run(end + 1, &|byte| byte.is_ascii_alphanumeric())
                } else {
                    end
                };
                (if is_decimal { Kind::Integer } else { Kind::Literal }, end)
            } else if byte == b'"' {
                (Kind::Literal, run(at + 1, &|byte| byte != b'"') + 1)
            } else {
                let long = LONG_SIGNS.iter().find(|sign| rest.starts_with(**sign));
                (Kind::Sign, at + long.map_or(1, |sign| sign.len()))
            };
            let end = end.min(bytes.len());
            found.push(Token { kind, range: at..end });
            at = end;
        }
    }
    found
}

/// A line, and those that it is continued on.
fn end_of_directive(text: &str, start: usize) -> usize {
    let mut at = start;
    for line in text[start..].split_inclusive('\n') {
        at += line.len();
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    at
}
