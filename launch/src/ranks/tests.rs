//! Environments as launchers make them, and such as no launcher makes.

use super::variables::tasks_of_node;
use super::*;

/// "NAME=value NAME=value".
fn discover(environment: &str) -> Result<Ranks> {
    let variables: Vec<(&str, &str)> =
        environment.split(' ').filter_map(|word| word.split_once('=')).collect();
    Ranks::discover(&|name| {
        variables.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn describe(environment: &str) -> String {
    discover(environment).map_or_else(|error| panic!("{environment}: {error}"), |ranks| ranks.describe())
}

fn assert_refused(environment: &str, words: &[&str]) {
    let text =
        discover(environment).map_or_else(|error| error.to_string(), |ranks| panic!("{}", ranks.describe()));
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// What srun gives rank 6 of 7 on two nodes.
const STEP: &str = "SLURM_PROCID=6 SLURM_NTASKS=7 SLURM_STEP_NUM_TASKS=7 SLURM_LOCALID=2 SLURM_NODEID=1 \
    SLURM_STEP_TASKS_PER_NODE=4,3 SLURM_TASKS_PER_NODE=4(x2) SLURM_STEP_ID=0 SLURM_JOB_ID=1264567 \
    SLURM_STEP_NODELIST=jzxh[069,071] SLURM_JOB_NODELIST=jzxh[068-071]";

#[test]
fn srun_is_known_by_its_step() {
    assert_eq!(describe(STEP), "rank 6 of 7 (local 2 of 3) by SLURM_*, first host jzxh069:14567");
    let ranks = discover(STEP).unwrap();
    let expected = Ranks {
        rank: 6,
        world_size: 7,
        local_rank: 2,
        local_size: 3,
        source: Source::Slurm,
        first_host: "jzxh069".to_owned(),
        port: 14567,
    };
    assert_eq!(ranks, expected);
    // Older Slurm says less.
    let old = "SLURM_PROCID=1 SLURM_NPROCS=8 SLURM_LOCALID=1 SLURM_TASKS_PER_NODE=4(x2) SLURM_STEP_ID=3 \
        SLURM_JOB_ID=39999 SLURM_NODELIST=a[1-2]";
    assert_eq!(describe(old), "rank 1 of 8 (local 1 of 4) by SLURM_*, first host a1:29999");
}

#[test]
fn a_site_may_know_its_hosts_by_longer_names() {
    let given = format!("{STEP} TISSERAND_FIRST_HOST_SUFFIX=i");
    assert!(describe(&given).ends_with("first host jzxh069i:14567"));
    // Who names the host, names it whole; and localhost has no other network.
    assert!(describe(&format!("{given} MASTER_ADDR=jzxh069")).ends_with("first host jzxh069:14567"));
    let local = "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 TISSERAND_FIRST_HOST_SUFFIX=i";
    assert!(describe(local).ends_with("first host localhost:29500"));
}

#[test]
fn master_address_and_port_outrank_every_source() {
    let given = format!("{STEP} MASTER_ADDR=ib0.login MASTER_PORT=4000");
    assert_eq!(describe(&given), "rank 6 of 7 (local 2 of 3) by SLURM_*, first host ib0.login:4000");
    let given = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 MASTER_ADDR=h MASTER_PORT=1 \
        OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1";
    assert!(describe(given).ends_with("by OMPI_*, first host h:1"));
    assert_refused(&format!("{STEP} MASTER_PORT=70000"), &["MASTER_PORT = 70000", "65535"]);
    assert_refused(&format!("{STEP} MASTER_PORT=0"), &["MASTER_PORT = 0"]);
    assert_refused(&format!("{STEP} MASTER_PORT=http"), &["MASTER_PORT = \"http\""]);
}

#[test]
fn scripts_and_shells_of_a_job_are_no_ranks() {
    let job = "SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=8 SLURM_JOB_ID=5 SLURM_TASKS_PER_NODE=4(x2)";
    for step in ["", "SLURM_STEP_ID=4294967291", "SLURM_STEP_ID=4294967290", "SLURM_STEP_ID=batch"] {
        let ranks = discover(&format!("{job} {step}")).unwrap();
        assert_eq!(ranks.source, Source::Script { tasks: 8 });
        assert!(ranks.describe().contains("8 tasks but not started by srun; hint"), "{}", ranks.describe());
    }
    // In there, mpirun and torchrun are launchers like anywhere else.
    let mpirun = "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 \
        OMPI_COMM_WORLD_LOCAL_SIZE=4 SLURM_JOB_NODELIST=n[1-2]";
    let expected = "rank 5 of 8 (local 1 of 4) by OMPI_*, first host n1:10005";
    assert_eq!(describe(&format!("{job} {mpirun}")), expected);
}

#[test]
fn launchers_of_mpi_are_known() {
    let hydra = "PMI_RANK=3 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2 MASTER_ADDR=a";
    assert_eq!(describe(hydra), "rank 3 of 4 (local 1 of 2) by PMI_*, first host a:29500");
    let pals = "PMI_RANK=3 PMI_SIZE=4 PMI_LOCAL_RANK=3 PMI_LOCAL_SIZE=4";
    assert_eq!(describe(pals), "rank 3 of 4 (local 3 of 4) by PMI_*, first host localhost:29500");
    let prte = "PMIX_RANK=1 OMPI_COMM_WORLD_SIZE=2";
    assert_eq!(describe(prte), "rank 1 of 2 (local 1 of 2) by PMIX_*, first host localhost:29500");
    assert_refused("PMIX_RANK=1", &["PMIX_RANK = 1 without", "hint"]);
    assert_refused(
        "PMI_RANK=1 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2",
        &["without MASTER_ADDR", "hint"],
    );
}

#[test]
fn rank_and_world_size_are_known() {
    let torchrun = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=n1 MASTER_PORT=29501";
    let expected = "rank 5 of 8 (local 1 of 4) by RANK and WORLD_SIZE, first host n1:29501";
    assert_eq!(describe(torchrun), expected);
    let laptop = "RANK=1 WORLD_SIZE=2";
    let expected = "rank 1 of 2 (local 1 of 2) by RANK and WORLD_SIZE, first host localhost:29500";
    assert_eq!(describe(laptop), expected);
    assert_refused("RANK=1", &["RANK = 1 without WORLD_SIZE", "hint"]);
    assert_refused("RANK=1 WORLD_SIZE=2 MASTER_ADDR=n1", &["RANK = 1 of WORLD_SIZE = 2 without LOCAL_RANK"]);
    let half = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=n1 LOCAL_RANK=0";
    assert_refused(half, &["without LOCAL_WORLD_SIZE"]);
}

#[test]
fn without_a_launcher_there_is_one_rank() {
    assert_eq!(describe(""), "rank 0 of 1 (local 0 of 1), without a launcher");
    // Job scripts export this for others, and empty is unset.
    assert_eq!(discover("WORLD_SIZE=8 RANK= SLURM_PROCID=").unwrap().source, Source::Alone);
}

#[test]
fn a_launcher_inside_a_step_is_believed_and_leftovers_are_refused() {
    let task = |rank: usize, tasks: usize| {
        format!(
            "SLURM_PROCID={rank} SLURM_NTASKS={tasks} SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE=1 SLURM_STEP_ID=0 \
             SLURM_JOB_ID=5 SLURM_STEP_NODELIST=n[1-9] SLURM_JOB_NODELIST=n[1-9]"
        )
    };
    let inner = "LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=n1 RANK=5 WORLD_SIZE=8";
    assert_eq!(discover(&format!("{} {inner}", task(1, 2))).unwrap().rank, 5);
    let inner = "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=1";
    assert_eq!(discover(&format!("{} {inner}", task(0, 2))).unwrap().source, Source::Mpi("PMI_*"));
    // What agrees is Slurm's, with Slurm's first host.
    assert_eq!(discover(&format!("{} {inner}", task(1, 2))).unwrap().source, Source::Slurm);
    let exported = format!("{} RANK=1 WORLD_SIZE=2 LOCAL_RANK=0", task(1, 2));
    assert_eq!(discover(&exported).unwrap().source, Source::Slurm);
    assert_eq!(discover(&format!("{} PMIX_RANK=1", task(1, 2))).unwrap().source, Source::Slurm);
    let leftover = format!("{} RANK=0 WORLD_SIZE=1", task(1, 2));
    let words = ["SLURM_PROCID = 1 of SLURM_NTASKS = 2", "but RANK = 0 of WORLD_SIZE = 1", "unset RANK"];
    assert_refused(&leftover, &words);
    let inner = "PMI_RANK=0 PMI_SIZE=1 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=1";
    assert_refused(
        &format!("{} {inner}", task(1, 2)),
        &["but PMI_RANK = 0 of PMI_SIZE = 1", "unset PMI_RANK"],
    );
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    assert_refused(&format!("{STEP} SLURM_PROCID=7"), &["SLURM_PROCID = 7", "SLURM_STEP_NUM_TASKS = 7"]);
    assert_refused(&format!("{STEP} SLURM_PROCID=x"), &["SLURM_PROCID = \"x\" is not a number"]);
    assert_refused(&format!("{STEP} SLURM_LOCALID=3"), &["SLURM_PROCID = 6", "number 3 of 3"]);
    assert_refused(&format!("{STEP} SLURM_LOCALID="), &["without SLURM_LOCALID", "srun"]);
    assert_refused(&format!("{STEP} SLURM_NODEID=2"), &["SLURM_STEP_TASKS_PER_NODE = \"4,3\"", "node 2"]);
    assert_refused(&format!("{STEP} SLURM_STEP_NODELIST=n[1-"), &["SLURM_STEP_NODELIST", "bracket"]);
    assert_refused(&format!("{STEP} SLURM_JOB_ID=abc"), &["SLURM_JOB_ID = \"abc\""]);
    assert_refused("RANK=-1 WORLD_SIZE=2", &["RANK = \"-1\" is not a number"]);
    assert_refused("RANK=2 WORLD_SIZE=2", &["RANK = 2 is not below WORLD_SIZE = 2"]);
    assert_refused("RANK=0 WORLD_SIZE=0", &["WORLD_SIZE = 0"]);
    assert_refused("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2", &["RANK = 0", "number 1 of 2"]);
}

#[test]
fn tasks_of_a_node_are_read_from_slurms_shorthand() {
    for (text, node, tasks) in [
        ("4", 9, Some(4)),
        ("4(x2),3", 0, Some(4)),
        ("4(x2),3", 1, Some(4)),
        ("4(x2),3", 2, Some(3)),
        ("4(x2),3", 3, None),
        ("4(x2", 0, None),
        ("", 0, None),
        ("4(x99999999999999999999)", 0, None),
    ] {
        assert_eq!(tasks_of_node(text, node), tasks, "{text} {node}");
    }
}
