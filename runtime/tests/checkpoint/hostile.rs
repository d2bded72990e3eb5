//! Files that nobody should trust: random, mutated and forged ones give an error and never a panic.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use tisserand_kernels::DType;
use tisserand_runtime::checkpoint::*;

use crate::tensor;

/// A small file as the safetensors library writes it.
fn library_file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn sample() -> Vec<u8> {
    library_file(&[
        ("a", Dtype::F32, vec![2, 3], vec![1; 24]),
        ("b.c", Dtype::BF16, vec![4], vec![2; 8]),
        ("d", Dtype::I64, vec![], vec![3; 8]),
    ])
}

/// What the readers that follow may rely on.
fn check_invariants(header: &Header, file_bytes: usize) {
    let mut end = header.size_bytes;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset_bytes, end);
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.num_elements);
        end += tensor.size_bytes();
    }
    assert_eq!(end, file_bytes as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Header::parse(&bytes).is_err());
    }

    #[test]
    fn random_json_never_panics(json in r#"\{("(a|b|__metadata__|dtype|shape|data_offsets)":[0-9\[\]{},"FB1632]{0,12},?){0,4}\}"#, data in 0..64_usize) {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        if let Ok(header) = Header::parse(&bytes) {
            check_invariants(&header, bytes.len());
        }
    }

    #[test]
    fn what_we_accept_of_mutated_files_the_library_accepts(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        digits in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = if digits { b'0' + byte % 10 } else { byte };
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        if let Ok(header) = Header::parse(&bytes) {
            check_invariants(&header, bytes.len());
            prop_assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
        }
    }

    #[test]
    fn mutated_index_and_trainer_files_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mutate = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m.safetensors"), sample()).unwrap();
        let index = r#"{"weight_map":{"a":"m.safetensors","b.c":"m.safetensors"}}"#;
        fs::write(dir.path().join("model.safetensors.index.json"), mutate(index)).unwrap();
        let _ = HfFolder::open(dir.path());
        let _ = TrainerState::from_json(&mutate(&TrainerState::default().to_json()), "trainer.json");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// `forged`: with the checksum of the mutated text, so that the readers behind it see the damage.
    #[test]
    fn mutated_manifests_never_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        digits in 0..22_usize,
        forged in any::<bool>(),
    ) {
        let saved = saved_once();
        let text = fs::read(saved.join("manifest.json")).unwrap();
        let end = text.len() - seal(b"").len();
        let mut body = text[..end].to_vec();
        let place = at.index(end);
        if body[place].is_ascii_digit() {
            body.splice(place..=place, std::iter::repeat_n(b'0' + byte % 10, digits));
        } else {
            body[place] = byte;
        }
        let changed = body != text[..end];
        if forged {
            body.extend(seal(&body).into_bytes());
        } else {
            body.extend(&text[end..]);
        }
        let dir = tempfile::tempdir().unwrap();
        for part in ["weights", "optimizer", "trainer.json"] {
            std::os::unix::fs::symlink(saved.join(part), dir.path().join(part)).unwrap();
        }
        fs::write(dir.path().join("manifest.json"), &body).unwrap();
        let opened = CheckpointReader::open(dir.path());
        prop_assert!(forged || opened.is_err() == changed);
        let report = verify(dir.path()).unwrap();
        prop_assert!(forged || report.is_ok() != changed);
    }
}

/// The last lines of a manifest, with the checksum of what stands before.
fn seal(body: &[u8]) -> String {
    format!(",\n  \"manifest_blake3\": \"{}\"\n}}\n", blake3::hash(body).to_hex())
}

/// A checkpoint that is saved once for all cases.
fn saved_once() -> &'static Path {
    static SAVED: std::sync::OnceLock<(tempfile::TempDir, std::path::PathBuf)> = std::sync::OnceLock::new();
    let (_, dir) = SAVED.get_or_init(|| {
        let run = tempfile::tempdir().unwrap();
        let dir = save(&crate::job(run.path(), 1, 1)).unwrap().dir;
        (run, dir)
    });
    dir
}

#[test]
fn the_library_s_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let half: Vec<u8> = [1.5_f32, -0.25].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let double: Vec<u8> = [1.5_f64, 1e300].iter().flat_map(|v| v.to_le_bytes()).collect();
    let file = library_file(&[
        ("half", Dtype::F16, vec![2], half),
        ("double", Dtype::F64, vec![2], double),
        ("ids", Dtype::I64, vec![1], vec![0; 8]),
        ("empty", Dtype::F32, vec![0, 4], Vec::new()),
    ]);
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let folder = HfFolder::open(dir.path()).unwrap();
    assert_eq!(folder.tensors.read_tensor_f32("half").unwrap(), [1.5, -0.25]);
    assert_eq!(folder.tensors.read_tensor_f32("double").unwrap(), [1.5, f32::INFINITY]);
    assert!(folder.tensors.read_tensor_f32("empty").unwrap().is_empty());
    let error = folder.tensors.read_tensor_f32("ids").unwrap_err().to_string();
    assert_eq!(error, "tensor `ids` has dtype I64; hint: convert the model to F32, F16 or BF16");
    assert_eq!(verify(dir.path()).unwrap().num_tensors, 4);
}

fn open_with_index(dir: &Path, index: &str) -> String {
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    HfFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = HfFolder::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("holds neither model.safetensors nor"), "{error}");
    let path = dir.path().join("one.safetensors");
    fs::write(&path, sample()).unwrap();
    fs::copy(&path, dir.path().join("two.safetensors")).unwrap();
    for (map, expected) in [
        (r#"{"x":"one.safetensors"}"#, "tensor `x` is not in one.safetensors"),
        (r#"{"a":"one.safetensors","d":"two.safetensors"}"#, "one.safetensors and in "),
        (r#"{"a":"../one.safetensors"}"#, "leads out of the folder"),
        (r#"{"a":"/etc/passwd"}"#, "leads out of the folder"),
        (r#"{"a":""}"#, "leads out of the folder"),
        (r#"{"a":"three.safetensors"}"#, "cannot read "),
        (r#"{"a":"one.safetensors","a":"one.safetensors"}"#, "`a` occurs twice"),
        ("[]", "weight_map"),
    ] {
        let error = open_with_index(dir.path(), &format!(r#"{{"weight_map":{map}}}"#));
        assert!(error.contains(expected) || map == "[]", "{map}: {error}");
    }
}

#[test]
fn a_checkpoint_whose_file_was_exchanged_is_refused() {
    let run = tempfile::tempdir().unwrap();
    let mut job = crate::job(run.path(), 1, 1);
    job.snapshot.weights = vec![tensor("x", &[4], DType::F32, 1), tensor("y", &[4], DType::F32, 1)];
    job.options.max_file_bytes = 16;
    let dir = save(&job).unwrap().dir.join("weights");
    let (one, two) =
        (dir.join("model-00001-of-00002.safetensors"), dir.join("model-00002-of-00002.safetensors"));
    let first = fs::read(&one).unwrap();
    fs::copy(&two, &one).unwrap();
    fs::write(&two, first).unwrap();
    let error = CheckpointReader::open(&run.path().join("step-00000001")).unwrap_err().to_string();
    assert!(error.contains("tensor `x` is not in model-00001"), "{error}");
}
