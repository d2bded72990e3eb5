//! The tiny model, and the text that it learns: made here, the same everywhere.

use std::fs;
use std::path::Path;

use tisserand_runtime::config::Config;
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

const DOCUMENTS: u64 = 80;

/// The run file of a run in `folder`. Each of `ranks` has two micro-steps, so that gradients are added over time as well
/// as over ranks.
pub(super) fn text(folder: &Path, ranks: usize, steps: u64) -> Result<String> {
    let quoted = |path: &Path| {
        serde_json::to_string(&path.display().to_string())
            .map_err(|error| Error::fault(format!("{}: {error}", path.display())))
    };
    Ok(format!(
        r#"config_version = 1
[run]
name = "accept"
dir = {dir}
collective_timeout_s = 120
[model]
hidden_size = 64
intermediate_size = 128
num_layers = 2
num_heads = 4
num_kv_heads = 2
head_dim = 16
[data.prepare]
text = [{text}]
vocab_size = 320
[training]
seq_len = 64
global_batch = {batch}
micro_batch = 2
steps = {steps}
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 10
[mesh]
zero = 3
[checkpoint]
every_steps = 50
[log]
every_steps = 1
tensorboard = false
"#,
        dir = quoted(&folder.join("train"))?,
        text = quoted(&folder.join("text/*.txt"))?,
        batch = 4 * ranks,
    ))
}

/// The training of all ranks.
///
/// # Errors
/// None but our own mistakes.
pub fn config(folder: &Path, ranks: usize) -> Result<Config> {
    let text = text(folder, ranks, super::training::STEPS)?;
    Config::parse(&text, "accept.toml", &[], Some(ranks), &|_| None)
}

/// Writes the text, a file for each document.
///
/// # Errors
/// As [`io_error`].
pub fn write_texts(folder: &Path) -> Result<()> {
    let dir = folder.join("text");
    fs::create_dir_all(&dir).map_err(|error| io_error("create folder", &dir, &error))?;
    (0..DOCUMENTS).try_for_each(|number| {
        let path = dir.join(format!("{number:02}.txt"));
        fs::write(&path, document(number)).map_err(|error| io_error("write", &path, &error))
    })
}

/// Fifty sentences of one pattern: what comes next is mostly certain, and never wholly.
fn document(number: u64) -> String {
    const WHO: [&str; 4] = ["weaver", "dyer", "spinner", "carder"];
    const DOES: [&str; 4] = ["draws the thread", "cards the wool", "sets the loom", "winds the yarn"];
    const WHERE: [&str; 4] = ["over the warp", "under the weft", "beside the river", "before the rain"];
    let mut state = number;
    let mut choose = |words: [&'static str; 4]| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 62) as usize]
    };
    (0..50).map(|_| format!("The {} {} {}.\n", choose(WHO), choose(DOES), choose(WHERE))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_file_is_valid_on_any_number_of_ranks() {
        for ranks in [1, 2, 3, 64] {
            let config = config(Path::new("/tmp/a \"quoted\" folder"), ranks).unwrap();
            assert_eq!((config.mesh.dp_shard, config.grad_accum()), (ranks, 2));
        }
    }

    #[test]
    fn texts_are_the_same_everywhere() {
        assert_eq!(document(3), document(3));
        assert_ne!(document(3), document(4));
        assert_eq!(document(0).lines().count(), 50);
    }
}
