//! Tokenizers, tokenizing and the preparation of small runs, from the outside.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tisserand_runtime::data::prepare::WhenChanged;
use tisserand_runtime::data::{
    Dataset, DatasetConfig, Outcome, Prepare, Progress, Source, TokenFile, prepare, tokenize,
};
use tisserand_runtime::tokenizer::Tokenizer;

/// Enough structure for a few hundred merges, with characters of one to four bytes.
fn corpus() -> Vec<String> {
    let words =
        ["tisserand", "le", "métier", "à", "tisser", "fn", "let", "weave", "κόσμος", "🧵", "12", "};", "\t"];
    let mut state = 1u32;
    let mut word = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words[(state >> 16) as usize % words.len()]
    };
    let mut line = |n: usize| (0..n).map(|_| word()).collect::<Vec<_>>().join(" ");
    (0..40).map(|i| (0..30).map(|j| line(1 + (i + j) % 9)).collect::<Vec<_>>().join("\n")).collect()
}

fn trained() -> Tokenizer {
    Tokenizer::train(corpus().into_iter().map(Ok), 400).unwrap()
}

#[test]
fn training_is_repeatable_and_files_round_trip() {
    let (first, second) = (trained(), trained());
    assert_eq!(first.json(), second.json());
    assert!(first.vocab_size() > 257 && first.vocab_size() <= 400, "{}", first.vocab_size());
    assert_eq!(first.end_of_text(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a").join("tokenizer.json");
    first.save(&path).unwrap();
    let opened = Tokenizer::open(&path).unwrap();
    assert_eq!(opened.json(), first.json());
    for text in corpus() {
        assert_eq!(opened.encode(&text).unwrap(), first.encode(&text).unwrap());
    }
    assert!(first.encode("tisserand tisser weave").unwrap().len() < 8, "nothing was merged");
}

#[test]
fn errors_of_texts_and_sizes_pass_through() {
    let texts = [Ok("abc".into()), Err(tisserand_runtime::Error::input("boom")), Ok("def".into())];
    assert_eq!(Tokenizer::train(texts.into_iter(), 300).unwrap_err().to_string(), "boom");
    let message = Tokenizer::train(std::iter::empty(), 256).unwrap_err().to_string();
    assert!(message.contains("vocab_size = 256") && message.contains("257"), "{message}");
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let message = |content: Option<&[u8]>| {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let message = Tokenizer::open(&path).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'), "{message}");
        message
    };
    assert!(message(None).contains(": no such file"));
    assert!(message(Some(b"")).contains("not JSON"));
    assert!(message(Some(b"{\"version\": \"1.0\",\n oops")).contains("line 2"));
    assert!(message(Some(b"{\"hidden_size\": 4}")).contains("JSON, but not a tokenizer"));
    assert!(message(Some(b"[1, 2]")).contains("JSON, but not a tokenizer"));
    assert!(message(Some(b"ab\xff")).contains("not UTF-8 at byte 2"));
    let good = trained();
    assert!(message(Some(&good.json().as_bytes()[..good.json().len() / 2])).contains("not JSON"));
}

#[test]
fn special_tokens_are_recognised_in_prompts_and_text_in_documents() {
    let tokenizer = trained();
    let text = "le <|endoftext|> métier";
    assert_eq!(tokenizer.encode(text).unwrap().iter().filter(|id| **id == 0).count(), 1);
    let document = tokenizer.for_documents().encode(text).unwrap();
    assert!(!document.contains(&0));
    assert_eq!(tokenizer.decode(&document).unwrap(), text);
    assert_eq!(tokenizer.encode_prompt("le").unwrap(), tokenizer.encode("le").unwrap());
    assert!(tokenizer.decode(&[5, 400]).unwrap_err().to_string().contains("no token has id 400"));
}

#[test]
fn streams_give_whole_characters() {
    let tokenizer = trained();
    let text = "🧵 à la κόσμος 日本 <|endoftext|>é";
    let ids = tokenizer.encode(text).unwrap();
    let mut stream = tokenizer.stream();
    let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    parts.push(stream.finish().unwrap());
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
    assert_eq!(parts.concat(), text.replace("<|endoftext|>", ""));

    // Half a character at the end comes out as a replacement; ids that nobody knows do, too.
    let mut stream = tokenizer.stream();
    let half = tokenizer.encode("日").unwrap()[0];
    assert_eq!(stream.push(half).unwrap(), "");
    assert_eq!(stream.push(9999).unwrap(), "\u{fffd}\u{fffd}");
    assert_eq!(stream.push(tokenizer.encode("le").unwrap()[0]).unwrap(), "le");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Documents are cut for speed only.
    #[test]
    fn pieces_encode_like_the_whole(seed in "[ab \n\r\t.é\u{a0}0-3']{0,40}", repeats in 1usize..2500) {
        let tokenizer = trained().for_documents();
        let text = seed.repeat(repeats);
        let pieces: Vec<u32> = tokenizer.pieces(&text).flat_map(|piece| tokenizer.encode(piece).unwrap()).collect();
        prop_assert_eq!(pieces, tokenizer.encode(&text).unwrap());
    }

    #[test]
    fn any_text_round_trips_and_any_ids_stream(text in any::<String>(), ids in proptest::collection::vec(0u32..420, 0..60)) {
        let tokenizer = trained();
        prop_assert_eq!(tokenizer.decode(&tokenizer.for_documents().encode(&text).unwrap()).unwrap(), text);
        let mut stream = tokenizer.stream();
        for id in ids {
            stream.push(id).unwrap();
        }
        stream.finish().unwrap();
    }
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn read_documents(prefix: &Path) -> Vec<Vec<u32>> {
    let file = TokenFile::open(prefix).unwrap();
    let index = file.index();
    let read = |document: usize| {
        let range = index.document_start(document)..index.document_start(document + 1);
        let mut tokens = vec![0; (range.end - range.start) as usize];
        file.read(range.start, &mut tokens, &mut Vec::new()).unwrap();
        tokens
    };
    (0..index.documents()).map(read).collect()
}

#[test]
fn documents_keep_their_order_and_end_with_the_end_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = trained();
    let long = corpus().join("\n\n").repeat(8);
    let lines = "{\"text\": \"le \\u00e9\", \"id\": 3}\n\n{\"id\": 4, \"text\": \"weave\"}\r\n{\"text\": \"\"}\n{\"text\":\"fin\"}";
    let inputs = [
        write(folder.path(), "a.txt", &long),
        write(folder.path(), "b.jsonl", lines),
        write(folder.path(), "c.md", ""),
        write(folder.path(), "d.rs", "fn tisser() {}\n"),
    ];
    let prefix = folder.path().join("tok/x");
    let report = tokenize(&inputs, &tokenizer, &prefix, Progress::Quiet).unwrap();
    let texts = [&long, "le é", "weave", "fin", "fn tisser() {}\n"];
    let documents = read_documents(&prefix);
    assert_eq!(report.documents, 5);
    assert_eq!(report.tokens, documents.iter().map(|document| document.len() as u64).sum::<u64>());
    assert_eq!(report.bytes, texts.iter().map(|text| text.len() as u64).sum::<u64>());
    for (document, text) in documents.iter().zip(texts) {
        let (last, ids) = document.split_last().unwrap();
        assert_eq!((*last, ids), (0, tokenizer.encode(text).unwrap().as_slice()));
    }
}

#[test]
fn bad_texts_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = trained();
    let prefix = folder.path().join("x");
    let cases: [(&str, &[u8], &str); 5] = [
        ("latin.txt", b"caf\xe9 noir", "latin.txt: not UTF-8 at byte 3"),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": 3}\n", "a.jsonl, line 2: "),
        ("b.jsonl", b"{\"text\": \"a\"}\n{\"content\": \"x\"}\n", "b.jsonl, line 2: "),
        ("c.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", "c.jsonl: not UTF-8 at byte 24"),
        ("empty.txt", b"", "empty.txt: no text in it"),
    ];
    for (name, content, expected) in cases {
        let input = write(folder.path(), name, content);
        let error = tokenize(&[input], &tokenizer, &prefix, Progress::Quiet).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(!folder.path().join("x.bin").exists() && !folder.path().join("x.bin.tmp").exists());
    }
    let missing = [folder.path().join("missing.txt")];
    let error = tokenize(&missing, &tokenizer, &prefix, Progress::Quiet).unwrap_err();
    assert!(error.to_string().contains("missing.txt: no such file"), "{error}");
    let error = tokenize(&[folder.path().to_owned()], &tokenizer, &prefix, Progress::Quiet).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn preparing_builds_once_and_notices_changes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (i, text) in corpus().iter().enumerate() {
        write(root, &format!("text/{}/{i}.md", i % 3), text);
    }
    write(root, "text/.hidden/x.md", b"\xff");
    write(root, "text/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n");
    write(root, "text/cache/deep/x.md", b"\xff");
    for file in ["resolved.toml", "status.json", "jobs/0/notes.md"] {
        write(root, &format!("text/earlier-run/{file}"), b"\xff");
    }
    let out = root.join("text/out");
    write(&out, "own.md", b"\xff");
    let glob = |pattern: &str| root.join(pattern).to_str().unwrap().to_owned();
    let config = Prepare { text: vec![glob("text/**/*.md"), glob("text/0/*.md")], vocab_size: 300 };
    let run = |config: &Prepare, when| prepare(config, &out, when, Progress::Quiet);

    let built = run(&config, WhenChanged::Keep).unwrap();
    let Outcome::Built(report) = built.outcome else { panic!("{:?}", built.outcome) };
    assert_eq!(report.documents, 40);
    let bytes = |name: &str| std::fs::read(out.join(name)).unwrap();
    let (bin, json) = (bytes("train.bin"), bytes("tokenizer.json"));
    assert_eq!(run(&config, WhenChanged::Rebuild).unwrap().outcome, Outcome::Reused);

    // The result opens as a dataset whose held-out documents come from everywhere.
    let path = built.dataset.to_str().unwrap().to_owned();
    let source = Source { path, weight: 1.0, max_epochs: None };
    let dataset = DatasetConfig { seq_len: 32, vocab_size: 300, seed: 1, validation_fraction: 0.2 };
    assert!(Dataset::open(&[source], dataset).unwrap().held_out()[0].sequences().len() > 10);

    write(root, "text/0/new.md", "une page de plus\n");
    assert_eq!(run(&config, WhenChanged::Keep).unwrap().outcome, Outcome::Kept);
    assert_eq!((bytes("train.bin"), bytes("tokenizer.json")), (bin.clone(), json));
    let larger = Prepare { vocab_size: 310, ..config.clone() };
    let message = run(&larger, WhenChanged::Keep).unwrap_err().to_string();
    assert!(message.contains("vocab_size = 300") && message.contains("310"), "{message}");
    assert!(
        matches!(run(&config, WhenChanged::Rebuild).unwrap().outcome, Outcome::Built(r) if r.documents == 41)
    );
    assert_ne!(bytes("train.bin"), bin);

    // A folder that lacks a file was not finished.
    std::fs::remove_file(out.join("train.idx")).unwrap();
    assert!(matches!(run(&config, WhenChanged::Keep).unwrap().outcome, Outcome::Built(_)));

    for (pattern, expected) in [("text/*.nothing", "no file matches"), ("text/[", "bad pattern")] {
        let config = Prepare { text: vec![glob(pattern)], vocab_size: 300 };
        let message = run(&config, WhenChanged::Keep).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(pattern), "{message}");
    }
    let none = Prepare { text: Vec::new(), vocab_size: 300 };
    assert!(run(&none, WhenChanged::Keep).unwrap_err().to_string().contains("data.prepare.text is empty"));
}
