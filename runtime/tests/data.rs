//! Token files, datasets and loaders from the outside.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use tisserand_runtime::data::index::{Index, TokenType};
use tisserand_runtime::data::loader::StepReader;
use tisserand_runtime::data::*;

const EOD: u32 = 0;

/// Writes documents of these lengths: ids count up from 1 below `vocab`, each document ends with EOD.
fn write(prefix: &Path, vocab: u32, lengths: &[usize]) -> Vec<u32> {
    let mut writer = TokenFileWriter::create(prefix, vocab as usize).unwrap();
    let (mut all, mut next) = (Vec::new(), 0);
    for &length in lengths {
        let mut document: Vec<u32> = (1..length as u32).map(|i| 1 + (next + i) % (vocab - 1)).collect();
        next += length as u32;
        if length > 0 {
            document.push(EOD);
        }
        writer.push_document(&document).unwrap();
        all.extend(document);
    }
    writer.finish().unwrap();
    all
}

fn source(path: &Path) -> Source {
    Source { path: path.to_str().unwrap().into(), weight: 1.0, max_epochs: None }
}

fn config(seq_len: usize) -> DatasetConfig {
    DatasetConfig { seq_len, vocab_size: 1000, seed: 7, validation_fraction: 0.0 }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("tok").join("fr");
    (folder, prefix)
}

/// An index written independently of the crate, from the description of the format.
fn megatron_index(code: u8, size: i64, lengths: &[i32], documents: &[i64]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00".to_vec();
    bytes.push(code);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((documents.len() as u64).to_le_bytes());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut pointer = 0i64;
    for &length in lengths {
        bytes.extend(pointer.to_le_bytes());
        pointer += i64::from(length) * size;
    }
    documents.iter().for_each(|document| bytes.extend(document.to_le_bytes()));
    bytes
}

#[test]
fn token_files_round_trip() {
    for (vocab, token_type) in [(1000, TokenType::U16), (65_499, TokenType::U16), (65_500, TokenType::I32)] {
        let (_folder, prefix) = folder();
        let tokens = write(&prefix, vocab, &[5, 1, 0, 100_000]);
        let file = TokenFile::open(&prefix).unwrap();
        assert_eq!(file.index().token_type(), token_type);
        assert_eq!((file.index().tokens(), file.index().documents()), (tokens.len() as u64, 4));
        let starts: Vec<u64> = (0..=4).map(|document| file.index().document_start(document)).collect();
        assert_eq!(starts, [0, 5, 6, 6, 100_006]);
        let (mut read, mut bytes) = (vec![0; tokens.len()], Vec::new());
        file.read(0, &mut read, &mut bytes).unwrap();
        assert_eq!(read, tokens);
        file.read(50_000, &mut read[..7], &mut bytes).unwrap();
        assert_eq!(read[..7], tokens[50_000..50_007]);
        assert!(file.read(tokens.len() as u64 - 1, &mut read[..2], &mut bytes).is_err());
    }
}

#[test]
fn written_bytes_are_those_of_the_format() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[3, 0, 2]);
    let index = std::fs::read(prefix.with_extension("idx")).unwrap();
    assert_eq!(index, megatron_index(8, 2, &[3, 0, 2], &[0, 1, 2, 3]));
    assert_eq!(std::fs::read(prefix.with_extension("bin")).unwrap().len(), 10);
    assert!(!prefix.with_extension("bin.tmp").exists() && !prefix.with_extension("idx.tmp").exists());
}

#[test]
fn documents_of_several_sequences_and_other_types_are_read() {
    let (folder, _) = folder();
    let prefix = folder.path().join("x");
    let cases: [(u8, Vec<u8>); 4] = [
        (1, vec![9, 8, 7, 6, 5]),
        (3, [9i16, 8, 7, 6, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
        (4, [9i32, 8, 7, 6, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
        (5, [9i64, 8, 7, 6, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
    ];
    for (code, bin) in cases {
        let size = bin.len() as i64 / 5;
        std::fs::write(prefix.with_extension("idx"), megatron_index(code, size, &[1, 2, 2], &[0, 2, 3]))
            .unwrap();
        std::fs::write(prefix.with_extension("bin"), bin).unwrap();
        let file = TokenFile::open(&prefix).unwrap();
        let mut tokens = [0; 5];
        file.read(0, &mut tokens, &mut Vec::new()).unwrap();
        assert_eq!(tokens, [9, 8, 7, 6, 5]);
        assert_eq!(file.index().document_start(1), 3);
        assert_eq!(
            (0..6).map(|p| file.index().first_document_from(p)).collect::<Vec<_>>(),
            [0, 1, 1, 1, 2, 2]
        );
    }
    let negative: Vec<u8> = [9i32, -8, 7, 6, 5].iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(prefix.with_extension("idx"), megatron_index(4, 4, &[5], &[0, 1])).unwrap();
    std::fs::write(prefix.with_extension("bin"), negative).unwrap();
    let error = TokenFile::open(&prefix).unwrap().read(0, &mut [0; 5], &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("token -8 at position 1"), "{error}");
}

#[test]
fn damaged_files_are_named_with_their_field() {
    let (folder, _) = folder();
    let prefix = folder.path().join("x");
    let good = megatron_index(8, 2, &[3, 2], &[0, 1, 2]);
    std::fs::write(prefix.with_extension("bin"), [0; 10]).unwrap();
    let edit = |offset: usize, bytes: &[u8]| {
        let mut index = good.clone();
        index[offset..offset + bytes.len()].copy_from_slice(bytes);
        index
    };
    let mut with_modes = good.clone();
    with_modes.extend([0, 0]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "truncated: 0 bytes"),
        (good[..33].to_vec(), "truncated"),
        (good[..good.len() - 1].to_vec(), "truncated"),
        (with_modes, "multimodal"),
        (edit(0, b"X"), "magic"),
        (edit(9, &[2]), "version is 2"),
        (edit(17, &[7]), "dtype code 7"),
        (edit(17, &[99]), "dtype code 99"),
        (edit(18, &u64::MAX.to_le_bytes()), "sequence count 18446744073709551615"),
        (edit(26, &9u64.to_le_bytes()), "document count 9"),
        (edit(34, &(-1i32).to_le_bytes()), "length of sequence 0 is -1"),
        (edit(34, &4i32.to_le_bytes()), "pointer of sequence 1 is 6, expected 8"),
        (edit(42, &2i64.to_le_bytes()), "pointer of sequence 0 is 2"),
        (edit(58, &1i64.to_le_bytes()), "document index 0 is 1"),
        (edit(66, &3i64.to_le_bytes()), "document index 1 is 3"),
        (edit(66, &(-1i64).to_le_bytes()), "document index 1 is -1"),
        (edit(74, &1i64.to_le_bytes()), "last document index is 1"),
        (edit(17, &[4]), "pointer of sequence 1"),
        (megatron_index(8, 2, &[3], &[0, 1]), "has 10 bytes, but"),
    ];
    for (index, expected) in cases {
        std::fs::write(prefix.with_extension("idx"), index).unwrap();
        let error = TokenFile::open(&prefix).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(message.contains(prefix.to_str().unwrap()) && !message.contains('\n'), "{message:?}");
        assert_eq!(error.exit_code(), 2);
    }
    for name in ["missing", "x.idx"] {
        let message = TokenFile::open(&folder.path().join(name)).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}.idx: no such file")), "{message}");
        assert_eq!(name == "x.idx", message.contains("hint: give the prefix"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes: an error of one line, or an index of which everything can be asked.
    #[test]
    fn random_indices_never_panic(
        random in proptest::collection::vec(any::<u8>(), 0..200),
        edits in proptest::collection::vec((0usize..110, any::<u8>()), 0..4),
        cut in 0usize..120,
        kind in 0..3,
    ) {
        let good = megatron_index(8, 2, &[3, 0, 2, 7], &[0, 1, 1, 4]);
        let mut bytes = match kind {
            0 => random,
            1 => good[..17].iter().copied().chain(random).collect(),
            _ => good,
        };
        for (offset, byte) in edits {
            if let Some(place) = bytes.get_mut(offset) {
                *place = byte;
            }
        }
        bytes.truncate(bytes.len().max(10).min(if cut < 20 { cut } else { usize::MAX }));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.idx");
        std::fs::write(&path, &bytes).unwrap();
        match Index::open(&path) {
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
            Ok(index) => {
                for document in 0..=index.documents() {
                    let start = index.document_start(document);
                    prop_assert!(start <= index.tokens());
                    prop_assert!(index.first_document_from(start) <= document);
                }
            }
        }
    }
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let (_folder, prefix) = folder();
    let mut writer = TokenFileWriter::create(&prefix, 1000).unwrap();
    writer.push_document(&[1, 2, 3]).unwrap();
    assert!(writer.push_tokens(&[70_000]).unwrap_err().to_string().contains("70000"));
    drop(writer);
    assert_eq!(std::fs::read_dir(prefix.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn each_epoch_visits_each_sample_once_in_another_order() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[100, 40, 61]);
    let dataset = Dataset::open(&[source(&prefix)], config(8)).unwrap();
    let len = dataset.sequences(0).len();
    assert_eq!(len, 25);
    let epoch = |e: u64| (0..len).map(|i| dataset.sample(e * len + i)).collect::<Vec<_>>();
    let (first, second) = (epoch(0), epoch(1));
    for (e, ids) in [(0, &first), (1, &second)] {
        assert!(ids.iter().all(|id| id.epoch == e));
        assert_eq!(ids.iter().map(|id| id.sample).collect::<HashSet<_>>().len() as u64, len);
    }
    assert!(first.iter().zip(&second).filter(|(a, b)| a.sample == b.sample).count() < 8);
}

fn loader_config(global_batch: usize, micro_batch: usize, leaves: Vec<usize>) -> LoaderConfig {
    LoaderConfig {
        order: StepOrder::new(global_batch, &[]).unwrap(),
        shape: BatchShape { micro_batch, document_mask: true },
        leaves,
        prefetch_batches: 3,
        first_step: 0,
    }
}

fn steps(dataset: &Arc<Dataset>, config: LoaderConfig, count: usize) -> Vec<StepBatch> {
    let mut loader = Loader::new(dataset.clone(), config).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

fn three_sources() -> (TempDir, Arc<Dataset>) {
    let (folder, prefix) = folder();
    let lengths = [[30, 70, 11, 1, 1, 200].as_slice(), &[400], &[17; 40]];
    let sources: Vec<Source> = lengths
        .iter()
        .zip([0.5, 0.3, 0.2])
        .enumerate()
        .map(|(i, (lengths, weight))| {
            let prefix = prefix.with_file_name(format!("source{i}"));
            write(&prefix, 1000, lengths);
            Source { weight, ..source(&prefix) }
        })
        .collect();
    (folder, Arc::new(Dataset::open(&sources, config(16)).unwrap()))
}

#[test]
fn the_thread_changes_nothing_and_resume_goes_on_where_it_was() {
    let (_folder, dataset) = three_sources();
    let config = loader_config(12, 2, vec![0, 3, 5]);
    let all = steps(&dataset, config.clone(), 20);
    let mut reader = StepReader::new(dataset.clone(), &config).unwrap();
    let mut batch = StepBatch::default();
    for step in (0..20).rev() {
        reader.read(step, &mut batch).unwrap();
        assert_eq!(batch, all[step as usize]);
    }
    assert_eq!(steps(&dataset, LoaderConfig { first_step: 13, ..config.clone() }, 7), all[13..]);
    assert_eq!(steps(&dataset, LoaderConfig { prefetch_batches: 0, ..config }, 20), all);
}

#[test]
fn ranks_share_out_a_step() {
    let (_folder, dataset) = three_sources();
    let whole = steps(&dataset, loader_config(8, 2, vec![0, 1, 2, 3]), 5);
    for (leaves, ours) in [(vec![0, 1], 0..2), (vec![2, 3], 2..4)] {
        let part = steps(&dataset, loader_config(8, 2, leaves), 5);
        for (part, whole) in part.iter().zip(&whole) {
            assert_eq!(part.micro_batches, whole.micro_batches[ours.clone()]);
        }
    }
    let large = steps(&dataset, loader_config(8, 8, vec![0]), 5);
    let tokens =
        |step: &StepBatch| step.micro_batches.iter().flat_map(|m| m.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&large[4]), tokens(&whole[4]));
    assert_eq!(large[4].valid_tokens, whole[4].valid_tokens);
}

#[test]
fn skipped_steps_are_passed_over_and_the_hash_tells() {
    let (_folder, dataset) = three_sources();
    let config = loader_config(4, 2, vec![0, 1]);
    let plain = steps(&dataset, config.clone(), 12);
    let order = StepOrder::new(4, &[[3, 5]]).unwrap();
    let skipping = steps(&dataset, LoaderConfig { order: order.clone(), ..config.clone() }, 9);
    let data = |steps: &[StepBatch]| steps.iter().map(|s| s.micro_batches.clone()).collect::<Vec<_>>();
    assert_eq!(data(&skipping[..3]), data(&plain[..3]));
    assert_eq!(data(&skipping[3..]), data(&plain[6..]));
    assert_eq!(skipping[3].step, 3);
    assert_eq!(order_hash(&dataset, &order, 0..3), order_hash(&dataset, &config.order, 0..3));
    assert_eq!(order_hash(&dataset, &order, 3..9), order_hash(&dataset, &config.order, 6..12));
    assert_ne!(order_hash(&dataset, &order, 0..4), order_hash(&dataset, &config.order, 0..4));
}

#[test]
fn micro_batches_follow_the_documents_of_the_file() {
    let (_folder, prefix) = folder();
    let lengths = [3, 1, 1, 20, 5, 0, 0, 9, 16, 33, 2];
    let tokens = write(&prefix, 1000, &lengths);
    let mut ends = HashSet::new();
    let mut end = 0;
    for length in lengths {
        end += length;
        ends.insert(end);
    }
    let dataset = Arc::new(Dataset::open(&[source(&prefix)], config(8)).unwrap());
    let mut reader = StepReader::new(dataset.clone(), &loader_config(2, 2, vec![0])).unwrap();
    let mut batch = StepBatch::default();
    for step in 0..dataset.sequences(0).len() / 2 {
        reader.read(step, &mut batch).unwrap();
        let micro_batch = &batch.micro_batches[0];
        let mut segments = Vec::new();
        for row in 0..2 {
            let start = 8 * dataset.sample(2 * step + row).sample as usize;
            for t in 0..8 {
                let (at, place) = (start + t, row as usize * 8 + t);
                assert_eq!(micro_batch.tokens[place], tokens[at]);
                let label = if ends.contains(&(at + 1)) { IGNORE_LABEL } else { tokens[at + 1] as i32 };
                assert_eq!(micro_batch.labels[place], label);
                if t == 0 || ends.contains(&at) {
                    segments.push(place as u32);
                }
                assert_eq!(micro_batch.positions[place], place as u32 - segments[segments.len() - 1]);
            }
        }
        segments.resize(17, 16);
        assert_eq!(micro_batch.cu_seqlens, segments);
        let valid = micro_batch.labels.iter().filter(|label| **label != IGNORE_LABEL).count();
        assert_eq!(batch.valid_tokens, valid as u64);
    }
}

#[test]
fn recycled_batches_are_used_again() {
    let (_folder, dataset) = three_sources();
    let mut loader = Loader::new(dataset, loader_config(4, 4, vec![0])).unwrap();
    let mut buffers = HashSet::new();
    for _ in 0..200 {
        let batch = loader.next().unwrap();
        buffers.insert(batch.micro_batches[0].tokens.as_ptr() as usize);
        loader.recycle(batch);
    }
    assert!(buffers.len() <= 6, "{} buffers for 3 batches read ahead", buffers.len());
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[500]);
    let small = DatasetConfig { vocab_size: 300, ..config(8) };
    let dataset = Arc::new(Dataset::open(&[source(&prefix)], small).unwrap());
    let mut loader = Loader::new(dataset.clone(), loader_config(64, 64, vec![0])).unwrap();
    let error = loader.next().unwrap_err();
    let message = error.to_string();
    assert!(message.contains("fr.bin: token ") && message.contains("model.vocab_size = 300"), "{message}");
    assert_eq!(error.exit_code(), 2);
    assert!(loader.next().unwrap_err().to_string().contains("earlier error"));
    assert!(unigram_entropy(&dataset).is_err());
}

#[test]
fn a_file_that_shrinks_while_running_is_an_error() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[500]);
    let dataset = Arc::new(Dataset::open(&[source(&prefix)], config(8)).unwrap());
    std::fs::OpenOptions::new().write(true).open(prefix.with_extension("bin")).unwrap().set_len(10).unwrap();
    let error = Loader::new(dataset, loader_config(8, 8, vec![0])).unwrap().next().unwrap_err();
    assert!(error.to_string().contains("fr.bin"), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_source_that_would_be_exhausted_is_named() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[161]);
    let limited = Source { max_epochs: Some(2.5), ..source(&prefix) };
    let dataset = Dataset::open(&[limited], config(8)).unwrap();
    dataset.check_epochs(50).unwrap();
    let message = dataset.check_epochs(51).unwrap_err().to_string();
    for part in ["gives 20 samples per epoch", "needs 51 (2.55 epochs)", "max_epochs = 2.5"] {
        assert!(message.contains(part), "{message}");
    }
    for bad in [0.0, -1.0, f64::NAN] {
        let bad = Source { max_epochs: Some(bad), ..source(&prefix) };
        assert!(Dataset::open(&[bad], config(8)).unwrap_err().to_string().contains("max_epochs"));
    }
}

#[test]
fn bad_configurations_are_refused() {
    let (_folder, prefix) = folder();
    write(&prefix, 1000, &[20]);
    let open = |config| Dataset::open(&[source(&prefix)], config).map(|_| ()).unwrap_err().to_string();
    assert!(open(config(20)).contains("20 tokens to train on, fewer than the 21"));
    assert!(open(config(0)).contains("training.seq_len = 0"));
    assert!(open(DatasetConfig { vocab_size: 0, ..config(4) }).contains("model.vocab_size = 0"));
    for validation_fraction in [1.0, -0.1, f64::NAN] {
        let message = open(DatasetConfig { validation_fraction, ..config(4) });
        assert!(message.contains("data.validation_fraction"), "{message}");
    }
    let dataset = Arc::new(Dataset::open(&[source(&prefix)], config(4)).unwrap());
    let new = |config| Loader::new(dataset.clone(), config).map(|_| ()).unwrap_err().to_string();
    assert!(new(loader_config(8, 3, vec![0])).contains("micro_batch = 3 does not divide"));
    assert!(new(loader_config(8, 0, vec![0])).contains("micro_batch = 0 does not divide"));
    assert!(new(loader_config(8, 4, vec![2])).contains("micro-batch 2 of a step that has 2"));
}

#[test]
fn the_last_documents_are_held_out() {
    let (folder, prefix) = folder();
    let tokens = write(&prefix, 1000, &[50; 20]);
    let open = |fraction, path: &Path| {
        Dataset::open(&[source(path)], DatasetConfig { validation_fraction: fraction, ..config(8) })
    };
    let dataset = open(0.12, &prefix).unwrap();
    assert_eq!(dataset.sequences(0).tokens(), 900);
    let held_out = &dataset.held_out()[0];
    assert_eq!(held_out.sequences().tokens(), 100);
    let mut batch = MicroBatch::default();
    let mut reader = held_out.reader(BatchShape { micro_batch: 5, document_mask: false }, u64::MAX);
    assert_eq!(reader.num_batches(), 3);
    reader.read(0, &mut batch).unwrap();
    assert_eq!(batch.tokens, tokens[900..940]);
    reader.read(2, &mut batch).unwrap();
    assert_eq!(batch.tokens[..16], tokens[980..996]);
    assert_eq!(
        (batch.valid_tokens, batch.labels[15], batch.labels[16]),
        (16, tokens[996] as i32, IGNORE_LABEL)
    );
    assert_eq!(batch.cu_seqlens[..7], [0, 8, 16, 24, 32, 40, 40]);
    reader.read(3, &mut batch).unwrap();
    assert_eq!((batch.tokens.len(), batch.valid_tokens), (40, 0));
    let limited = held_out.reader(BatchShape { micro_batch: 1, document_mask: true }, 20);
    assert_eq!(limited.num_batches(), 2);

    // Of several files the last ones; a file is split where the share ends inside it.
    for name in ["b", "a", "c"] {
        write(&folder.path().join(name), 1000, &[50; 4]);
    }
    let dataset = open(0.5, &folder.path().join("[a-c]")).unwrap();
    assert_eq!((dataset.sequences(0).tokens(), dataset.held_out()[0].sequences().tokens()), (300, 300));

    let message = open(0.04, &prefix).unwrap_err().to_string();
    assert!(message.contains("the last document of"), "{message}");
}

#[test]
fn globs_take_files_in_the_order_of_their_names() {
    let (_folder, prefix) = folder();
    for (name, length) in [("s-2", 90), ("s-1", 33), ("t", 50)] {
        write(&prefix.with_file_name(name), 1000, &[length]);
    }
    let dataset = Dataset::open(&[source(&prefix.with_file_name("s-*"))], config(8)).unwrap();
    assert_eq!((dataset.sequences(0).len(), dataset.sequences(0).tokens()), (4 + 11, 123));
    let pattern = prefix.with_file_name("u*");
    let message = Dataset::open(&[source(&pattern)], config(8)).unwrap_err().to_string();
    assert!(message.contains("no file matches") && message.contains("u*.idx"), "{message}");
    let set = ValidationSet::open("v", prefix.with_file_name("t").to_str().unwrap(), 64, 1000).unwrap_err();
    assert!(set.to_string().contains("has 50 tokens, fewer than the 65"), "{set}");
}

#[test]
fn unigram_entropy_mixes_sources_by_share() {
    let (_folder, prefix) = folder();
    let second = prefix.with_file_name("second");
    for (prefix, tokens) in [(&prefix, [1u32, 1, 1, 1, 1, 1, 1, 1]), (&second, [2, 3, 2, 3, 2, 3, 2, 3])] {
        let mut writer = TokenFileWriter::create(prefix, 1000).unwrap();
        writer.push_document(&tokens).unwrap();
        writer.finish().unwrap();
    }
    let dataset = Dataset::open(&[source(&prefix), source(&second)], config(4)).unwrap();
    let expected = 0.5 * 2f64.ln() + 2.0 * 0.25 * 4f64.ln();
    assert!((unigram_entropy(&dataset).unwrap() - expected).abs() < 1e-12);
}
