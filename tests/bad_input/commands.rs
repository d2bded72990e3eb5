//! Commands other than `train`, and arguments that the command line itself refuses.

use crate::support::{Case, Sandbox, check};

#[test]
fn commands() {
    let case = |name, prepare, args, expected| Case { name, prepare, args, expected };
    let none: fn(&Sandbox) = |_| ();
    check(&[
        case(
            "a negative temperature",
            none,
            &["generate", "--checkpoint", "{w}/run", "--temperature=-1"],
            &["--temperature -1", "0 or more"],
        ),
        case(
            "no temperature",
            none,
            &["generate", "--checkpoint", "{w}/run", "--temperature", "nan"],
            &["--temperature NaN"],
        ),
        case(
            "top-p beyond 1",
            none,
            &["generate", "--checkpoint", "{w}/run", "--top-p", "1.5"],
            &["--top-p 1.5", "at most 1"],
        ),
        case("no such checkpoint", none, &["generate", "--checkpoint", "none"], &["none"]),
        case(
            "no tokenizer there",
            none,
            &["generate", "--checkpoint", "{w}/run", "--tokenizer", "none.json"],
            &["none.json", "no such file"],
        ),
        case(
            "no tokenizer beside the weights",
            |s| {
                s.copy("run");
                std::fs::remove_file(s.path("run/checkpoints/step-00000002/weights/tokenizer.json")).unwrap();
            },
            &["generate", "--checkpoint", "run/checkpoints/step-00000002/weights"],
            &["weights", "tokenizer.json", "hint: --tokenizer"],
        ),
        case(
            "more tokens than memory",
            none,
            &["generate", "--checkpoint", "{w}/run", "--max-tokens", "18446744073709551615"],
            &["--max-tokens"],
        ),
        case(
            "eval without validation data",
            none,
            &["eval", "run.toml", "--checkpoint", "{w}/run"],
            &["run.toml", "data.validation", "hint: "],
        ),
        case(
            "eval of a model with a smaller vocabulary",
            |s| {
                s.replace(
                    "run.toml",
                    "[data]",
                    "[data]\nvalidation = [{ name = \"v\", path = \"{w}/tokens\" }]",
                );
                s.copy("tokens.idx");
                s.copy("tokens.bin");
                s.edit("tokens.bin", |bytes| bytes.fill(0x7f));
                s.replace(
                    "run.toml",
                    "/tokens\" }]\n[training]",
                    "/tokens\" }, { path = \"tokens\" }]\n[training]",
                );
                s.replace(
                    "run.toml",
                    "path = \"{w}/tokens\" }]"
                        .replace("{w}", &crate::support::shared().display().to_string())
                        .as_str(),
                    "path = \"tokens\" }]",
                );
            },
            &["eval", "run.toml", "--checkpoint", "{w}/run"],
            &["tokens", "32639", "vocab_size", "320"],
        ),
        case("eval without a checkpoint", none, &["eval", "run.toml", "--checkpoint", "none"], &["none"]),
        case("inspect nothing", none, &["checkpoint", "inspect", "none"], &["none"]),
        case("digest of a file", none, &["checkpoint", "digest", "run.toml"], &["run.toml"]),
        case("diff with nothing", none, &["checkpoint", "diff", "{w}/run", "none"], &["none"]),
        case(
            "an unknown dtype",
            none,
            &["checkpoint", "export", "{w}/run", "--out", "out", "--dtype", "f8"],
            &["--dtype f8", "f32 or bf16"],
        ),
        case(
            "export into a file",
            none,
            &["checkpoint", "export", "{w}/run", "--out", "run.toml"],
            &["run.toml"],
        ),
        case("tokens of nothing", none, &["data", "inspect", "none"], &["none.idx", "no such file"]),
        case(
            "steps backwards",
            none,
            &["data", "order", "run.toml", "--steps", "5..2"],
            &["--steps 5..2", "1..100"],
        ),
        case(
            "steps that are none",
            none,
            &["data", "order", "run.toml", "--steps", "x"],
            &["--steps x", "1..100"],
        ),
        case(
            "tokenize nothing",
            none,
            &["data", "tokenize", "--out", "out", "--tokenizer", "{w}/tokenizer.json", "*.none"],
            &["*.none", "hint: "],
        ),
        case(
            "tokenize what is not UTF-8",
            |s| s.write("bad.txt", [b'a', 0xff]),
            &["data", "tokenize", "--out", "out", "--tokenizer", "{w}/tokenizer.json", "bad.txt"],
            &["bad.txt", "UTF-8"],
        ),
        case(
            "a tokenizer of nothing",
            none,
            &["tokenizer", "train", "--out", "t.json", "--vocab-size", "300", "none.txt"],
            &["none.txt", "no such file"],
        ),
        case(
            "a tokenizer too small",
            none,
            &["tokenizer", "train", "--out", "t.json", "--vocab-size", "9", "{w}/text.txt"],
            &["vocab", "9", "257"],
        ),
        case(
            "encode without tokenizer",
            none,
            &["tokenizer", "encode", "--tokenizer", "none.json", "x"],
            &["none.json"],
        ),
        case(
            "decode an unknown id",
            none,
            &["tokenizer", "decode", "--tokenizer", "{w}/tokenizer.json", "9999"],
            &["9999", "300"],
        ),
        case("plan of nothing", none, &["plan", "none.toml"], &["none.toml"]),
        case(
            "a profile that is not there",
            none,
            &["plan", "run.toml", "--profile", "h100"],
            &["no profile \"h100\"", "h100-sxm"],
        ),
        case("a search without a profile", none, &["plan", "run.toml", "--search"], &["--profile"]),
        case(
            "nodes of unknown size",
            none,
            &["plan", "run.toml", "--nodes", "2"],
            &["--nodes 2", "hint: --gpus-per-node"],
        ),
        case(
            "ranks that the batch does not divide by",
            none,
            &["plan", "run.toml", "--ranks", "7"],
            &["training.global_batch", "7"],
        ),
        case("show nothing", none, &["config", "show", "none.toml"], &["none.toml"]),
        case("diff of configs", none, &["config", "diff", "run.toml", "none.toml"], &["none.toml"]),
    ]);
}

#[test]
fn usage() {
    for (args, expected) in [
        (&["fly"][..], "'fly'"),
        (&[], "Usage"),
        (&["train"], "<RUN.toml>"),
        (&["train", "run.toml", "--frehs"], "'--fresh'"),
        (&["generate"], "--checkpoint"),
        (&["generate", "--checkpoint", "x", "--temperature", "hot"], "'hot'"),
        (&["generate", "--checkpoint", "x", "--max-tokens", "-1"], "-1"),
        (&["tokenizer", "decode", "--tokenizer", "t.json", "x"], "'x'"),
    ] {
        let output = Sandbox::new().run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}
