//! Whether srun tells the MPI library who its ranks are. Open MPI that is not told prints thirty lines for each rank in
//! MPI_Init and ends the process, so it is found out before.
//!
//! Open MPI learns it from PMIx alone; version 4 also from Slurm's PMI-2, if it was built so, which shows nowhere before
//! it starts. Who has such a build says so by Open MPI's own variable `OMPI_MCA_pmix` (`s2`, or `s1`), and is believed.
//! Other libraries (MPICH, Cray, Intel) take PMI-2 or what their site has, and are not asked.

use tisserand_runtime::{Error, Result};

use crate::ranks::{Ranks, Source};

/// `library` is the name of the MPI library, `lookup` finds variables.
///
/// # Errors
/// Open MPI under an srun without PMIx.
pub(super) fn check(ranks: &Ranks, library: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let is_told = ["PMIX_NAMESPACE", "OMPI_MCA_pmix"].iter().any(|name| lookup(name).is_some());
    if ranks.source != Source::Slurm || !library.starts_with("Open MPI") || is_told {
        return Ok(());
    }
    let offered = lookup("SLURM_MPI_TYPE")
        .map_or_else(|| "srun without PMIx".to_owned(), |mpi| format!("srun --mpi={mpi}"));
    Err(Error::input(format!(
        "{offered} does not tell Open MPI who its ranks are; hint: srun --mpi=pmix (srun --mpi=list shows what there \
         is), or mpirun inside of the job"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(variables: &[(&str, &str)], library: &str) -> Result<()> {
        let step =
            [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "1")];
        let nodes = [("SLURM_STEP_NODELIST", "n1"), ("SLURM_JOB_NODELIST", "n1")];
        let place = [&[("SLURM_STEP_TASKS_PER_NODE", "2")][..], &nodes].concat();
        let all = [&step[..], &place, variables].concat();
        let lookup = |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        check(&Ranks::discover(&lookup).unwrap(), library, &lookup)
    }

    #[test]
    fn open_mpi_under_srun_needs_pmix() {
        let library = "Open MPI v4.1.4, package: Debian OpenMPI";
        for offered in ["none", "pmi2"] {
            let error = checked(&[("SLURM_MPI_TYPE", offered)], library).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let expected = format!(
                "srun --mpi={offered} does not tell Open MPI who its ranks are; hint: srun --mpi=pmix"
            );
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        let pmix = ("PMIX_NAMESPACE", "slurm.pmix.7.0");
        assert!(checked(&[("SLURM_MPI_TYPE", "pmix"), pmix], library).is_ok());
        assert!(checked(&[("SLURM_MPI_TYPE", "pmi2"), ("OMPI_MCA_pmix", "s2")], library).is_ok());
        // mpirun inside of a step.
        let inner = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let place = [("OMPI_COMM_WORLD_LOCAL_RANK", "0"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        assert!(checked(&[&inner[..], &place].concat(), library).is_ok());
    }

    #[test]
    fn other_libraries_are_not_asked() {
        assert!(checked(&[("SLURM_MPI_TYPE", "pmi2")], "MPICH Version:      5.0.2").is_ok());
    }
}
