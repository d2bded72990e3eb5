//! What ranks of srun compute, and what does not start.

use std::fs;
use std::time::Instant;

use super::cluster::srun;
use super::run::Run;
use super::{EIGHT_RANKS, FOUR_NODES, INVARIANT, Start, TWO_NODES, lines, one_rank, step, train};

#[test]
fn four_and_eight_ranks_over_pmix_compute_the_bits_of_one_rank() {
    let whole = one_rank(&INVARIANT);
    for start in [FOUR_NODES, TWO_NODES, EIGHT_RANKS] {
        let run = whole.and(&[]);
        step(&run, &start, &[]).exits(0);
        run.assert_equals(&whole);
        let job = fs::read_dir(run.dir().join("jobs")).unwrap().next().unwrap().unwrap().path();
        let hosts = fs::read_to_string(job.join("hosts.json")).unwrap();
        assert_eq!(hosts.matches("\"pid\"").count(), start.tasks, "{hosts}");
        let log = fs::read_to_string(job.join("rank0.log")).unwrap();
        let described = format!(
            "rank 0 of {} (local 0 of {}) by SLURM_*, first host node1:",
            start.tasks,
            start.tasks / start.nodes
        );
        assert!(log.contains(&described), "{described}: {log}");
    }
}

/// Open MPI would print thirty lines for each rank, and end the job by itself.
#[test]
fn a_step_without_pmix_is_refused_with_one_line() {
    for (option, offered) in [("--mpi=none", "srun without PMIx"), ("--mpi=pmi2", "srun --mpi=pmi2")] {
        let run = Run::new(&INVARIANT);
        let began = Instant::now();
        let (nodes, tasks) = (FOUR_NODES.nodes, FOUR_NODES.tasks);
        let said = srun(nodes, tasks, &[option], &train(&run, &FOUR_NODES)).exits(2);
        let expected =
            format!(": {offered} does not tell Open MPI who its ranks are; hint: srun --mpi=pmix ");
        assert_eq!(lines(&said, "error: "), 1, "{said}");
        assert!(
            said.contains(&expected) && !said.contains("MPI_INIT") && !said.contains("rank  host"),
            "{said}"
        );
        println!("{option}: {:.1} s", began.elapsed().as_secs_f64());
    }
}

/// What every rank refuses is said once where srun ends the others, and then srun returns their end.
#[test]
fn bad_input_is_no_success_and_no_75() {
    let run = Run::new(&["mesh.dp_shard=3"]);
    let start = Start { mesh: &[], ..TWO_NODES };
    let line =
        "error: --set: mesh.dp_shard = 3: the sizes of the mesh multiply to 3, but the run has 4 ranks; ";
    for (option, codes, errors) in
        [("--kill-on-bad-exit=0", &[2][..], 4), ("--kill-on-bad-exit=1", &[2, 143], 1)]
    {
        let (code, said) = step(&run, &start, &[option]).end();
        assert!(codes.contains(&code), "{option}: {code}: {said}");
        assert_eq!(lines(&said, line), 1, "{said}");
        assert!(said.matches("multiply to 3").count() <= errors, "{said}");
    }
}
