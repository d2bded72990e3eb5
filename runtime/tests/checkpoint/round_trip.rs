//! Writing and reading back.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tisserand_kernels::DType;
use tisserand_runtime::checkpoint::*;

use crate::*;

#[test]
fn every_tensor_reads_back_exactly_in_any_range() {
    let run = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        let mut job = job(&run.path().join("checkpoints"), 120, 1);
        job.snapshot = snapshot(dtype, 1);
        let saved = save(&job).unwrap();
        assert!(saved.dir.ends_with("checkpoints/step-00000120"), "{saved:?}");
        let reader = CheckpointReader::open(&saved.dir).unwrap();
        assert_eq!(reader.trainer, job.documents.trainer);
        for (part, tensors) in
            [(Part::Weights, &job.snapshot.weights), (Part::Optimizer, &job.snapshot.optimizer)]
        {
            assert_eq!(reader.part(part).tensors().len(), tensors.len());
            for TensorData { spec, .. } in tensors {
                let want = values(&spec.name, 1, &spec.shape);
                assert_eq!(reader.part(part).get(&spec.name).unwrap().shape, spec.shape);
                assert_eq!(reader.part(part).read_tensor_f32(&spec.name).unwrap(), want, "{}", spec.name);
                for start in 0..want.len() {
                    let mut got = vec![f32::NAN; (want.len() - start).min(3)];
                    reader.part(part).read_range(&spec.name, start..start + got.len(), &mut got).unwrap();
                    assert_eq!(got, want[start..start + got.len()], "{} from {start}", spec.name);
                }
            }
        }
        let error = reader.optimizer.read_range("master.model.norm", 3..6, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "elements 3..6 of `master.model.norm`, which has [5]");
        assert!(reader.optimizer.read_tensor_f32("master.x").unwrap_err().to_string().contains("no tensor"));
        assert!(verify(run.path()).unwrap().is_ok());
    }
}

/// Three ranks hold uneven ranges of every tensor, as flat shards do.
fn pieces_of_rank(whole: &Snapshot, rank: usize, ranks: usize) -> Snapshot {
    let split = |tensors: &[TensorData]| {
        let one = |TensorData { spec, pieces }: &TensorData| {
            let n = spec.num_elements();
            let (start, end) = ((n * rank).div_ceil(ranks), (n * (rank + 1)).div_ceil(ranks));
            let size = spec.dtype.size_bytes();
            let buffer: SnapshotBuffer = Arc::new(pieces[0].bytes().to_vec());
            // Two pieces, the later one first: order is free.
            let middle = usize::midpoint(start, end);
            let piece = |from: usize, to: usize| Piece::new(from, buffer.clone(), from * size..to * size);
            TensorData { spec: spec.clone(), pieces: vec![piece(middle, end), piece(start, middle)] }
        };
        tensors.iter().map(one).collect()
    };
    Snapshot { weights: split(&whole.weights), optimizer: split(&whole.optimizer) }
}

fn specs(tensors: &[TensorData]) -> Vec<TensorSpec> {
    tensors.iter().map(|t| t.spec.clone()).collect()
}

#[test]
fn the_digest_depends_neither_on_ranks_nor_on_files() {
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let job = SaveJob { options: options(u64::MAX, 1, 1), ..job(one.path(), 9, 4) };
    save(&job).unwrap();
    let (weights, optimizer) = (specs(&job.snapshot.weights), specs(&job.snapshot.optimizer));
    let options = options(64, 3, 2);
    let lead = StepWriter::create(many.path(), 9, weights.clone(), optimizer.clone(), &options).unwrap();
    let mut records = Vec::new();
    for rank in 0..3 {
        let writer = StepWriter::join(many.path(), 9, weights.clone(), optimizer.clone(), &options).unwrap();
        records.extend(writer.write(&pieces_of_rank(&job.snapshot, rank, 3)).unwrap());
    }
    assert_eq!(latest(many.path()).unwrap().checkpoint, None);
    lead.commit(records, &documents(9)).unwrap();
    assert!(verify(many.path()).unwrap().is_ok());
    assert_eq!(digest(one.path()).unwrap(), digest(many.path()).unwrap());
    assert!(diff(one.path(), many.path()).unwrap().iter().all(TensorDiff::bit_equal));
    assert!(inspect(one.path()).unwrap().files.len() < inspect(many.path()).unwrap().files.len());
}

#[test]
fn a_rank_that_wrote_nothing_or_twice_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = snapshot(DType::F32, 1);
    let (weights, optimizer) = (specs(&whole.weights), specs(&whole.optimizer));
    for (ranks, what) in [(vec![0, 2], "12..24 are missing"), (vec![0, 1, 1, 2], "12..18 were written twice")]
    {
        let writer =
            StepWriter::create(dir.path(), 1, weights.clone(), optimizer.clone(), &options(100, 1, 1))
                .unwrap();
        let write = |rank| writer.write(&pieces_of_rank(&whole, rank, 3)).unwrap();
        let records = ranks.into_iter().flat_map(write).collect();
        let error = writer.commit(records, &documents(1)).unwrap_err().to_string();
        assert_eq!(error, format!("save of weights `model.embed`: elements {what}"));
        writer.abandon();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let mut wrong = whole;
    wrong.weights[0].pieces[0].start_element = 1;
    let writer = StepWriter::create(dir.path(), 1, weights, optimizer, &options(100, 1, 1)).unwrap();
    let error = writer.write(&wrong).unwrap_err().to_string();
    assert!(error.contains("140 bytes from element 1 do not fit"), "{error}");
}

#[test]
fn large_tensors_have_slices_and_bits_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let num_elements = (64 << 20) / 2 + 12_345;
    let bytes: Vec<u8> = (0..num_elements * 2).map(|i| ((i * 31) >> 8) as u8 & 0x3f).collect();
    let spec = TensorSpec::new("big", [num_elements], DType::Bf16);
    let mut digests = Vec::new();
    for threads in [1, 3] {
        let mut job =
            SaveJob { options: options(u64::MAX, 1, threads), ..job(dir.path(), threads as u64, 1) };
        job.documents.trainer = TrainerState { step: threads as u64, ..TrainerState::default() };
        job.snapshot =
            Snapshot { weights: vec![TensorData::whole(spec.clone(), bytes.clone())], optimizer: Vec::new() };
        let saved = save(&job).unwrap();
        let reader = CheckpointReader::open(&saved.dir).unwrap();
        assert_eq!(reader.manifest.tensors[0].slices.len(), 2);
        digests.push(reader.manifest.tensors[0].slices.clone());
        let mut tail = vec![0.0; 3];
        reader.weights.tensors.read_range("big", num_elements - 3..num_elements, &mut tail).unwrap();
        let want =
            bytes[bytes.len() - 6..].chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
        assert_eq!(tail, want.collect::<Vec<_>>());
        assert!(verify(&saved.dir).unwrap().is_ok());
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn weights_folders_hold_what_the_safetensors_library_expects() {
    let run = tempfile::tempdir().unwrap();
    let tokenizer = run.path().join("tok.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    std::fs::set_permissions(&tokenizer, std::fs::Permissions::from_mode(0o400)).unwrap();
    let mut job = job(run.path(), 3, 2);
    job.documents.tokenizer = Some(tokenizer.clone());
    let dir = save(&job).unwrap().dir;
    let weights_job = WeightsJob {
        crew: Crew::default(),
        weights_dir: run.path().join("weights"),
        step: 3,
        weights: job.snapshot.weights.clone(),
        config_json: job.documents.config_json.clone(),
        tokenizer: Some(tokenizer),
        options: options(u64::MAX, 1, 1),
    };
    let single = save_weights(&weights_job).unwrap();
    save_weights(&weights_job).unwrap();
    assert_eq!(single.bytes, folder_bytes(&single.dir));
    assert_eq!(std::fs::read_dir(&weights_job.weights_dir).unwrap().count(), 1);
    for folder in [&dir.join("weights"), &single.dir] {
        let opened = HfFolder::open(folder).unwrap();
        assert!(opened.config_json.unwrap().contains("llama"));
        assert!(opened.tokenizer.is_some());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let bytes = std::fs::read(&path).unwrap();
                let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
                assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
                for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
                    let want = bytes_of(&values(&name, 2, view.shape()), DType::Bf16);
                    assert_eq!(view.data(), want, "{name}");
                }
            }
        }
    }
    let index = std::fs::read_to_string(dir.join("weights/model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 2 * (35 + 5 + 35 + 1));
    assert_eq!(index["weight_map"]["model.norm"], "model-00001-of-00002.safetensors");
    assert!(!single.dir.join("model.safetensors.index.json").exists());
}

fn folder_bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn files_have_the_permissions_that_umask_gives() {
    fn check(dir: &Path, file_mode: u32) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                check(&entry.path(), file_mode);
            } else {
                assert_eq!(entry.metadata().unwrap().permissions().mode(), file_mode, "{:?}", entry.path());
            }
        }
    }
    let run = tempfile::tempdir().unwrap();
    let tokenizer = run.path().join("tok.json");
    let mode = std::fs::File::create(&tokenizer).unwrap().metadata().unwrap().permissions().mode();
    std::fs::set_permissions(&tokenizer, std::fs::Permissions::from_mode(0o500)).unwrap();
    let dir = run.path().join("checkpoints");
    let mut job = job(&dir, 1, 1);
    job.documents.tokenizer = Some(tokenizer);
    save(&job).unwrap();
    check(&dir, mode);
}

#[test]
fn an_export_has_the_asked_type_and_takes_f32_from_the_master() {
    let run = tempfile::tempdir().unwrap();
    let mut job = job(run.path(), 2, 3);
    // Master weights that bf16 cannot hold.
    let fine: Vec<f32> = values("model.norm", 3, &[5]).iter().map(|v| v * 1.000_123).collect();
    job.snapshot.optimizer[1] =
        TensorData::whole(TensorSpec::new("master.model.norm", [5], DType::F32), bytes_of(&fine, DType::F32));
    save(&job).unwrap();
    let (wide, narrow) = (run.path().join("wide"), run.path().join("narrow"));
    export_hf(run.path(), &wide, DType::F32).unwrap();
    export_hf(run.path(), &narrow, DType::Bf16).unwrap();
    let folder = HfFolder::open(&wide).unwrap();
    assert_eq!(folder.tensors.read_tensor_f32("model.norm").unwrap(), fine);
    assert_eq!(folder.config_json.unwrap().matches("\"torch_dtype\": \"float32\"").count(), 1);
    let diffs = diff(run.path(), &narrow).unwrap();
    assert_eq!(diffs.len(), 4);
    assert!(diffs.iter().all(TensorDiff::bit_equal), "{diffs:?}");
    assert!(HfFolder::open(&narrow).unwrap().config_json.unwrap().contains("bfloat16"));
    let error = export_hf(run.path(), &narrow, DType::Bf16).unwrap_err();
    assert!(error.to_string().contains("choose an empty folder") && error.exit_code() == 2);
    assert!(export_hf(run.path(), &run.path().join("x"), DType::U32).is_err());
}

#[test]
fn a_difference_is_measured_and_placed() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    save(&job(dirs[0].path(), 2, 3)).unwrap();
    let mut other = job(dirs[1].path(), 2, 3);
    let mut changed = values("model.embed", 3, &[7, 5]);
    changed[17] += 2.0;
    changed[20] = f32::NAN;
    other.snapshot.weights[0] =
        TensorData::whole(TensorSpec::new("model.embed", [7, 5], DType::F32), bytes_of(&changed, DType::F32));
    other.snapshot.weights[1] = tensor("model.other", &[5], DType::Bf16, 3);
    other.snapshot.weights[2] = tensor("lm_head", &[5, 7], DType::Bf16, 3);
    save(&other).unwrap();
    let diffs = diff(dirs[0].path(), dirs[1].path()).unwrap();
    let of = |name: &str| &diffs.iter().find(|d| d.name == name).unwrap().difference;
    assert!(matches!(of("model.embed"), Difference::Values { max_abs, at, .. }
        if *max_abs == f64::INFINITY && at == &[4, 0]));
    assert_eq!(*of("model.norm"), Difference::OnlyInA);
    assert_eq!(*of("model.other"), Difference::OnlyInB);
    assert_eq!(*of("lm_head"), Difference::Shape(vec![7, 5], vec![5, 7]));
    assert!(diffs.iter().filter(|d| d.part == Part::Optimizer).all(TensorDiff::bit_equal));
    assert_ne!(digest(dirs[0].path()).unwrap(), digest(dirs[1].path()).unwrap());
}

#[test]
fn the_background_saver_reports_each_job_and_survives_a_failed_one() {
    let run = tempfile::tempdir().unwrap();
    let blocked = run.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let mut saver = BackgroundSaver::start().unwrap();
    assert!(saver.poll().is_none() && saver.wait().is_none());
    saver.submit(Job::Checkpoint(Box::new(job(&blocked.join("checkpoints"), 1, 1)))).unwrap();
    assert!(saver.is_busy());
    let error = saver.submit(Job::Checkpoint(Box::new(job(run.path(), 1, 1)))).unwrap_err();
    assert!(error.to_string().contains("still in flight"), "{error}");
    let error = saver.wait().unwrap().unwrap_err();
    assert!(error.to_string().contains(&blocked.display().to_string()) && error.exit_code() == 1, "{error}");

    let buffer = Arc::new(bytes_of(&[1.0, 2.0], DType::F32));
    let mut lent = job(run.path(), 2, 1);
    lent.snapshot.weights = vec![TensorData {
        spec: TensorSpec::new("w", [2], DType::F32),
        pieces: vec![Piece::new(0, buffer.clone(), 0..8)],
    }];
    saver.submit(Job::Checkpoint(Box::new(lent))).unwrap();
    let saved = loop {
        match saver.poll() {
            Some(result) => break result.unwrap(),
            None => std::thread::yield_now(),
        }
    };
    assert_eq!((saved.step, saved.bytes), (2, tree_bytes(&saved.dir)));
    assert!(Arc::into_inner(buffer).is_some(), "the buffer is free again");
    saver.submit(Job::Checkpoint(Box::new(job(run.path(), 3, 1)))).unwrap();
    assert_eq!(saver.finish().unwrap().unwrap().step, 3);
}

fn tree_bytes(dir: &Path) -> u64 {
    let size = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => tree_bytes(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    std::fs::read_dir(dir).unwrap().map(|e| size(e.unwrap())).sum()
}
