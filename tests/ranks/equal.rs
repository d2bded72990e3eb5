//! One result on every mesh: bit for bit from the seed, and in mesh-invariant mode to the last step; within a bound
//! otherwise.

use crate::run::{Run, tisserand};
use crate::support::{Mesh, difference, full, mesh};

/// The weights do not move: the learning rate is too small to change a bit of any.
const STANDS_STILL: [&str; 6] = [
    "training.steps=1",
    "optimizer.lr=1e-30",
    "optimizer.weight_decay=0",
    "schedule.name=constant",
    "schedule.warmup_steps=0",
    "eval.every_steps=0",
];

#[test]
fn initial_weights_are_those_of_one_rank() {
    let odd = [mesh(1, 3, 3), mesh(3, 1, 0), mesh(1, 5, 2), mesh(3, 2, 1), mesh(1, 7, 3)];
    let even = [mesh(1, 2, 3), mesh(2, 1, 0), mesh(2, 2, 2), mesh(1, 4, 1), mesh(1, 8, 3), mesh(8, 1, 0)];
    for architecture in [&[][..], &["model.tie_embeddings=true", "precision.compute=bf16"]] {
        let base = Run::new(&STANDS_STILL).and(&["training.global_batch=8"]).and(architecture);
        base.exits(0);
        let other_seed = base.and(&["run.seed=2"]);
        other_seed.exits(0);
        let weights = |run: &Run| tisserand(["checkpoint", "digest", &weights_folder(run)]);
        assert_ne!(weights(&base), weights(&other_seed));
        for mesh in odd.into_iter().chain(even) {
            // The batch has nothing to do with it, and must be a multiple of the ranks.
            let mut run = base.on(mesh);
            run.set(&["training.micro_batch=1", &format!("training.global_batch={}", mesh.ranks())]);
            run.exits(0);
            assert_eq!(weights(&run), weights(&base), "{mesh:?} {architecture:?}");
            tisserand(["checkpoint", "diff", &weights_folder(&run), &weights_folder(&base)]);
        }
    }
}

fn weights_folder(run: &Run) -> String {
    run.checkpoint(1).join("weights").display().to_string()
}

/// What makes eight leaves of a step in different ways.
fn invariant_variants() -> Vec<Run> {
    let sets = ["determinism.mesh_invariant=true", "training.steps=6", "eval.every_steps=3"];
    let base = Run::new(&sets);
    let small = ["training.global_batch=8", "training.micro_batch=1"];
    let large = ["training.global_batch=16", "training.micro_batch=2", "data.document_mask=false"];
    let more = ["precision.compute=bf16", "model.tie_embeddings=true", "training.z_loss=1e-3"];
    let clipped = ["optimizer.grad_clip=0.05", "precision.moments=bf16", "precision.master=bf16"];
    vec![base.and(&small), base.and(&large).and(&more), base.and(&large).and(&clipped)]
}

#[test]
fn mesh_invariant_runs_are_bit_equal() {
    let modes = ["none", "selective", "full"];
    let (mut runs, start) = (0, std::time::Instant::now());
    for (variant, base) in invariant_variants().into_iter().enumerate() {
        base.exits(0);
        for (i, mesh) in Mesh::all().into_iter().enumerate() {
            for (j, mode) in modes.iter().enumerate() {
                // A covering part: every mesh with every stage once, with all modes in turn.
                let covers = (i + i / 4) % 3 == j && (variant == 0 || (i + i / 4) % 4 == variant);
                if !full() && !covers {
                    continue;
                }
                let mut run = base.on(mesh);
                run.set(&[&format!("recompute.mode={mode}")]);
                run.exits(0);
                run.assert_equals(&base);
                assert_eq!(run.records("eval").len(), 2);
                runs += 1;
            }
        }
    }
    println!("{runs} runs are bit-equal in {:.0} s", start.elapsed().as_secs_f64());
}

/// Sums in another order differ by roundings of f32.
const LOSS: f64 = 1e-5;
const NORM: f64 = 1e-4;

#[test]
fn without_the_mode_meshes_agree_within_rounding() {
    let base = Run::new(&["training.global_batch=24", "training.micro_batch=1", "training.steps=20"]);
    base.exits(0);
    let [mut loss, mut norm, mut eval] = [0.0_f64; 3];
    let odd =
        (0..4).flat_map(|zero| [mesh(1, 3, zero), mesh(3, 2, zero), mesh(2, 3, zero), mesh(1, 6, zero)]);
    for (i, mesh) in Mesh::all().into_iter().chain(odd).enumerate() {
        if !full() && i % 3 > 0 {
            continue;
        }
        let run = base.on(mesh);
        run.exits(0);
        loss = loss.max(difference(&run.losses(), &base.losses()));
        norm = norm.max(difference(&run.series("step", "grad_norm"), &base.series("step", "grad_norm")));
        eval = eval.max(difference(&run.series("eval", "loss"), &base.series("eval", "loss")));
        assert!(loss <= LOSS && eval <= LOSS, "{mesh:?}: losses {loss:.1e}, of validation {eval:.1e}");
        assert!(norm <= NORM, "{mesh:?}: gradient norm {norm:.1e}");
        assert_eq!(run.series("eval", "tokens"), base.series("eval", "tokens"), "{mesh:?}");
    }
    println!("worst of 20 steps: losses {loss:.1e}, of validation {eval:.1e}, gradient norms {norm:.1e}");
}

/// The order of the data has no mesh in it, before a run, after it, and after a crash.
#[test]
fn the_data_order_knows_no_mesh() {
    let base = Run::new(&["training.global_batch=8", "training.micro_batch=1"]);
    let order = |run: &Run| {
        let run_file = run.run_file();
        let arguments = ["data", "order", "--steps", "3..9"].into_iter();
        tisserand(arguments.chain(run_file.iter().map(String::as_str)))
    };
    let want = order(&base);
    assert_ne!(order(&base.and(&["run.seed=2"])), want);
    for mesh in [mesh(1, 2, 0), mesh(2, 2, 3), mesh(8, 1, 1), mesh(1, 8, 2)] {
        let run = base.on(mesh);
        assert_eq!(order(&run), want, "{mesh:?}");
        let mut child = run.spawn();
        run.wait_until(&mut child, "a step", |run| run.status_step().is_some_and(|step| step >= 2));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(order(&run), want, "{mesh:?}");
        run.exits(0);
        assert_eq!(order(&run), want, "{mesh:?}");
    }
}
