//! What may change how a run is computed, but not what: recompute, threads and micro-batches. And the variants of
//! precision and architecture, each of which trains and resumes.

mod support {
    pub(crate) mod run;
}

use serde_json::Value;
use support::run::{Run, tisserand};

/// Largest relative difference of two series.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

#[test]
fn recompute_and_threads_change_no_bit() {
    let base = Run::new(&["training.steps=6", "model.num_layers=3"]);
    base.exits(0);
    let variants: &[&[&str]] = &[
        &["recompute.mode=selective"],
        &["recompute.mode=full"],
        &["recompute.mode=selective", "recompute.blocks=1"],
        &["recompute.mode=full", "recompute.blocks=1", "run.threads=8"],
        &["run.threads=2"],
        &["run.threads=3"],
        &["run.threads=8"],
    ];
    for sets in variants {
        let variant = base.and(sets);
        variant.exits(0);
        variant.assert_equals(&base);
    }
}

#[test]
fn a_run_goes_on_with_other_threads_and_recompute_bit_for_bit() {
    let sets = ["training.steps=6", "precision.compute=bf16"];
    let base = Run::new(&sets);
    base.exits(0);
    let mut run = base.and(&["run.max_minutes=1e-6"]);
    run.exits(75);
    run.set(&["run.threads=3", "recompute.mode=full"]);
    run.exits(75);
    run.set(&["run.threads=2", "recompute.mode=selective", "recompute.blocks=1", "run.max_minutes=0"]);
    run.exits(0);
    run.assert_equals(&base);
}

/// Documents end inside of sequences, so micro-batches differ in their labelled tokens: a mean of the means of
/// micro-batches would be another loss.
#[test]
fn the_micro_batch_changes_the_loss_by_rounding_only() {
    let sets =
        ["training.global_batch=8", "training.micro_batch=8", "training.steps=5", "eval.every_steps=0"];
    for mask in ["data.document_mask=true", "data.document_mask=false"] {
        let mut whole = Run::new(&sets);
        whole.set(&[mask]);
        whole.exits(0);
        for micro_batch in ["training.micro_batch=1", "training.micro_batch=2"] {
            let parts = whole.and(&[micro_batch]);
            parts.exits(0);
            let error = difference(&parts.losses(), &whole.losses());
            assert!(error <= 1e-5, "{mask} {micro_batch}: {error:e}");
            let norms = |run: &Run| -> Vec<f64> {
                run.records("step").iter().map(|step| step["grad_norm"].as_f64().unwrap()).collect()
            };
            let error = difference(&norms(&parts), &norms(&whole));
            assert!(error <= 1e-4, "{mask} {micro_batch}: gradient norm: {error:e}");

            // Also from one job to the next.
            let mut changed = whole.and(&["run.max_minutes=1e-6"]);
            changed.exits(75);
            changed.set(&["run.max_minutes=0", micro_batch]);
            changed.exits(0);
            let error = difference(&changed.losses(), &whole.losses());
            assert!(error <= 1e-5, "{mask} {micro_batch} from step 2 on: {error:e}");
        }
    }
}

/// Trains with these keys, whole and in two jobs, and compares them bit for bit; the whole run.
fn trains_and_resumes(sets: &[&str]) -> Run {
    let whole = Run::new(sets);
    whole.exits(0);
    let mut parts = whole.and(&["run.max_minutes=1e-6"]);
    parts.exits(75);
    parts.exits(75);
    parts.set(&["run.max_minutes=0"]);
    parts.exits(0);
    parts.assert_equals(&whole);
    let losses = whole.losses();
    assert!(losses.iter().all(|loss| loss.is_finite()), "{sets:?}: {losses:?}");
    assert!(losses[losses.len() - 1] < losses[0], "{sets:?}: {losses:?}");
    whole
}

#[test]
fn precisions_train_and_resume() {
    let f32 = trains_and_resumes(&[]);
    let variants: &[(&[&str], f64)] = &[
        (&["precision.compute=bf16"], 0.01),
        (&["precision.compute=bf16", "precision.master=bf16"], 0.02),
        (&["precision.compute=bf16", "precision.master=bf16", "precision.moments=bf16"], 0.02),
        (&["precision.master=bf16"], 0.02),
        (&["precision.moments=bf16"], 0.01),
    ];
    for (sets, bound) in variants {
        let variant = trains_and_resumes(sets);
        let error = difference(&variant.losses(), &f32.losses());
        println!("{sets:?}: largest relative difference of the loss {error:.2e}");
        assert!(error > 0.0 && error < *bound, "{sets:?}: {error:e}");
    }
}

#[test]
fn losses_and_architectures_train_and_resume() {
    let z_loss = trains_and_resumes(&["training.z_loss=1e-3"]);
    assert!(z_loss.records("step").iter().all(|step| step["z_loss"].as_f64().unwrap() > 0.0));
    let variants: &[&[&str]] = &[
        &["model.tie_embeddings=true"],
        &["model.architecture=qwen2", "model.tie_embeddings=true"],
        &["model.architecture=qwen3", "model.head_dim=32", "precision.compute=bf16"],
        &["model.architecture=mistral", "model.sliding_window=8"],
        &["data.document_mask=false", "optimizer.grad_clip=0"],
        &["data.skip=[[2, 4]]", "schedule.name=wsd"],
        &["log.every_steps=3", "eval.every_steps=7"],
        &["optimizer.groups=[{ match = \"*embed*\", lr_scale = 0.5, weight_decay = 0.0 }]"],
    ];
    for sets in variants {
        trains_and_resumes(sets);
    }
}

#[test]
fn a_run_uses_the_memory_of_its_plan() {
    let variants: &[&[&str]] = &[
        &[],
        &["eval.every_steps=0", "data.validation_fraction=0"],
        &["recompute.mode=selective"],
        &["recompute.mode=full"],
        &["recompute.mode=full", "recompute.blocks=1"],
        &["precision.compute=bf16", "precision.moments=bf16", "recompute.mode=full"],
        &["training.global_batch=8", "training.micro_batch=1"],
        &["training.micro_batch=4", "model.tie_embeddings=true"],
        &["training.micro_batch=4", "training.seq_len=64", "data.document_mask=false"],
        // The loss of the validation takes more than the backward pass saves.
        &["model.num_layers=1", "model.vocab_size=4096", "recompute.mode=full", "checkpoint.every_steps=1"],
    ];
    for sets in variants {
        let run = Run::new(&["training.steps=3", "eval.every_steps=2"]).and(sets);
        run.exits(0);
        let run_file = run.run_file();
        let arguments = ["plan", "--json"].into_iter().chain(run_file.iter().map(String::as_str));
        let plan: Value = serde_json::from_str(&tisserand(arguments)).unwrap();
        let by_class = plan["arena_bytes_by_class"].as_object().unwrap().values();
        let total = by_class.map(|bytes| bytes.as_u64().unwrap()).sum::<u64>()
            + plan["arena_gaps_bytes"].as_u64().unwrap();
        assert_eq!(plan["arena_bytes"], total);
        let last = run.records("step").pop().unwrap();
        assert_eq!(last["memory_used_bytes"], plan["arena_bytes"], "{sets:?}");
        assert_eq!(last["memory_planned_bytes"], plan["arena_bytes"], "{sets:?}");
        assert_eq!(plan["tokens_per_step"], last["tokens"].as_u64().unwrap() / 3, "{sets:?}");
    }
}
