//! Tokenizers and datasets: missing, damaged, or at odds with the model.

use std::fs;

use crate::support::{Case, Sandbox, TRAIN, check};

fn case(name: &'static str, prepare: fn(&Sandbox), expected: &'static [&'static str]) -> Case {
    Case { name, prepare, args: TRAIN, expected }
}

fn tokenizer(sandbox: &Sandbox, path: &str) {
    sandbox.replace("run.toml", "[tokenizer]\npath = \"", &format!("[tokenizer]\npath = \"{path}\" # "));
}

#[test]
fn tokenizers() {
    check(&[
        case("missing", |s| tokenizer(s, "none.json"), &["none.json", "no such file"]),
        case("a folder", |s| tokenizer(s, "{w}"), &["{w}", "a folder stands", "hint: "]),
        case(
            "not JSON",
            |s| {
                s.write("t.json", "merges: yes");
                tokenizer(s, "t.json");
            },
            &["t.json", "not JSON", "line 1", "hint: "],
        ),
        case(
            "JSON of something else",
            |s| {
                s.write("t.json", r#"{"version": "1.0"}"#);
                tokenizer(s, "t.json");
            },
            &["t.json", "JSON, but not a tokenizer", "hint: "],
        ),
        case(
            "truncated",
            |s| {
                s.copy("tokenizer.json");
                s.edit("tokenizer.json", |bytes| bytes.truncate(bytes.len() / 2));
                tokenizer(s, "tokenizer.json");
            },
            &["tokenizer.json", "not JSON"],
        ),
        case(
            "more entries than the model",
            |s| s.replace("run.toml", "vocab_size = 320", "vocab_size = 280"),
            &["tokenizer.json", "300 entries", "model.vocab_size = 280", "hint: "],
        ),
    ]);
}

#[test]
fn datasets() {
    check(&[
        case(
            "no .bin",
            |s| {
                s.own_dataset();
                fs::remove_file(s.path("tokens.bin")).unwrap();
            },
            &["tokens.bin", "no such file"],
        ),
        case(
            "no .idx",
            |s| {
                s.own_dataset();
                fs::remove_file(s.path("tokens.idx")).unwrap();
            },
            &["tokens.idx", "no such file"],
        ),
        case(
            "a glob that matches nothing",
            |s| s.replace("run.toml", "{ path = \"", "{ path = \"no-*\" }, { path = \""),
            &["data.sources", "no-*", "no file", "hint: "],
        ),
        case(
            ".bin cut short",
            |s| {
                s.own_dataset();
                s.edit("tokens.bin", |bytes| bytes.truncate(bytes.len() / 2));
            },
            &["tokens.bin", "bytes"],
        ),
        case(
            ".idx cut short",
            |s| {
                s.own_dataset();
                s.edit("tokens.idx", |bytes| bytes.truncate(bytes.len() - 5));
            },
            &["tokens.idx", "truncated"],
        ),
        case(
            ".idx with half a header",
            |s| {
                s.own_dataset();
                s.edit("tokens.idx", |bytes| bytes.truncate(20));
            },
            &["tokens.idx", "truncated: 20 bytes"],
        ),
        case(
            "an .idx of random bytes",
            |s| {
                s.own_dataset();
                s.edit("tokens.idx", |bytes| {
                    bytes.iter_mut().zip(0_usize..).for_each(|(byte, i)| *byte = (i * i * 167 + 13) as u8);
                });
            },
            &["tokens.idx", "MMIDIDX", "hint: "],
        ),
        case(
            "a wrong magic",
            |s| {
                s.own_dataset();
                s.edit("tokens.idx", |bytes| bytes[0] = b'X');
            },
            &["tokens.idx", "MMIDIDX", "hint: "],
        ),
        case(
            "an unknown dtype",
            |s| {
                s.own_dataset();
                s.edit("tokens.idx", |bytes| bytes[17] = 99);
            },
            &["tokens.idx", "dtype code 99"],
        ),
        case(
            "ids beyond the vocabulary",
            |s| {
                s.own_dataset();
                s.edit("tokens.bin", |bytes| bytes.fill(0xff));
            },
            &["tokens.bin", "65535", "vocab_size", "320"],
        ),
        case(
            "shorter than a sample",
            |s| s.replace("run.toml", "seq_len = 16", "seq_len = 1000000"),
            &["{w}/tokens", "training.seq_len = 1000000", "hint: "],
        ),
        case(
            "more epochs than allowed",
            |s| {
                s.replace("run.toml", "steps = 2", "steps = 100000");
                s.replace("run.toml", "/tokens\" }", "/tokens\", max_epochs = 1 }");
            },
            &["{w}/tokens", "max_epochs = 1", "hint: "],
        ),
        case(
            "too little for validation",
            |s| s.replace("run.toml", "[data]", "[data]\nvalidation_fraction = 0.0001"),
            &["data.validation_fraction"],
        ),
        case(
            "validation data missing",
            |s| s.replace("run.toml", "[data]", "[data]\nvalidation = [{ name = \"v\", path = \"none\" }]"),
            &["none", "no such file"],
        ),
        case(
            "validation data shorter than a sample",
            |s| {
                s.write("short.txt", "looms");
                let made = s.run(&[
                    "data",
                    "tokenize",
                    "--out",
                    "short",
                    "--tokenizer",
                    "{w}/tokenizer.json",
                    "short.txt",
                ]);
                assert!(made.status.success());
                s.replace("run.toml", "[data]", "[data]\nvalidation = [{ name = \"v\", path = \"short\" }]");
            },
            &["data.validation", "short", "17", "hint: lower training.seq_len = 16"],
        ),
    ]);
}

/// The run file with `[data.prepare]` on these globs in place of tokenizer and sources.
fn prepare(sandbox: &Sandbox, text: &str, vocab_size: usize) {
    let file = fs::read_to_string(sandbox.path("run.toml")).unwrap();
    let (head, _) = file.split_once("[tokenizer]").unwrap();
    let (_, tail) = file.split_once("[training]").unwrap();
    let head = head.replace("vocab_size = 320\n", "");
    let data = format!("[data.prepare]\ntext = [\"{text}\"]\nvocab_size = {vocab_size}\n[training]");
    sandbox.write("run.toml", format!("{head}{data}{tail}"));
}

#[test]
fn texts_to_prepare() {
    check(&[
        case("a glob that matches nothing", |s| prepare(s, "*.none", 300), &["*.none"]),
        case("a glob that is none", |s| prepare(s, "a[", 300), &["a["]),
        case(
            "text that is not UTF-8",
            |s| {
                s.write("bad.txt", [b'a', 0xff, b'b']);
                prepare(s, "bad.txt", 300);
            },
            &["bad.txt", "UTF-8"],
        ),
        case(
            "JSON lines without text",
            |s| {
                s.write("bad.jsonl", "{\"body\": \"x\"}\n");
                prepare(s, "bad.jsonl", 300);
            },
            &["bad.jsonl", "text"],
        ),
        case(
            "a vocabulary smaller than bytes",
            |s| prepare(s, "*.txt", 100),
            &["data.prepare.vocab_size", "100"],
        ),
        case(
            "an empty text",
            |s| {
                s.write("empty.txt", "");
                prepare(s, "empty.txt", 300);
            },
            &["empty.txt"],
        ),
    ]);
}
