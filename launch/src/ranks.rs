//! Which rank this process is: what its launcher put into the environment.
//!
//! Asked in this order: `SLURM_*` (srun), `OMPI_*`, `PMI_*`, `PMIX_*` (mpirun), `RANK` and `WORLD_SIZE`
//! (torchrun, and our own `launch`). Without any of them, one rank. An empty variable counts as unset.
//!
//! **Not every Slurm variable is a rank.** The script of `sbatch` and the shell of `salloc` see
//! `SLURM_PROCID = 0` and the task count of the job, but are no rank of a step. As in idr_torch, a rank needs
//! `SLURM_STEP_ID`; the numbers that Slurm reserves for scripts and shells do not count.
//!
//! **Launchers inside a step.** mpirun and torchrun may themselves be started by srun, as one task a node;
//! their ranks then see both. The inner one is believed if it has more ranks than the step has tasks, or as
//! many and it is MPI. Any other contradiction is left over from elsewhere, and refused.

mod variables;

use std::fmt;

use variables::Variables;

/// This process among the others, and where they meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranks {
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// This rank among those of its machine.
    pub local_rank: usize,
    /// Number of ranks of this machine.
    pub local_size: usize,
    /// Who said so.
    pub source: Source,
    /// The machine of rank 0.
    pub first_host: String,
    /// The port of rank 0.
    pub port: u16,
}

/// Who started this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// srun.
    Slurm,
    /// An MPI launcher; how its variables begin.
    Mpi(&'static str),
    /// `RANK` and `WORLD_SIZE`.
    Variables,
    /// Nobody that says so.
    Alone,
    /// The script or shell of a Slurm job of so many tasks, without srun: one rank, surely by mistake.
    Script {
        /// Tasks that srun would start.
        tasks: usize,
    },
}

/// Variables that contradict each other or cannot be read, in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RanksError(String);

impl fmt::Display for RanksError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for RanksError {}

type Result<T> = std::result::Result<T, RanksError>;

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(RanksError(why.into()))
}

impl Ranks {
    /// What the variables that `lookup` finds say.
    ///
    /// # Errors
    /// They are incomplete, contradict each other, or are no numbers.
    pub fn discover(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Ranks> {
        let variables = Variables(lookup);
        let slurm = variables.slurm()?;
        let inner = match variables.mpi(slurm.is_some())? {
            Some(seat) => Some(seat),
            None => variables.plain()?,
        };
        let seat = match (slurm, inner) {
            (Some(slurm), Some(inner)) if !is_believed(slurm, inner)? => slurm,
            // Asked only now: who agrees with Slurm need not say where on the machine it is.
            (_, Some(inner)) => variables.on_machine(inner)?,
            (Some(slurm), None) => slurm,
            (None, None) => variables.alone()?,
        };
        let Seat { rank, world_size, local_rank, local_size, source, .. } = seat;
        let first_host = variables.first_host(&seat)?;
        Ok(Ranks { rank, world_size, local_rank, local_size, source, first_host, port: variables.port()? })
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        let Ranks { rank, world_size, local_rank, local_size, source, first_host, port } = self;
        let place = format!("rank {rank} of {world_size} (local {local_rank} of {local_size})");
        let by = match source {
            Source::Slurm => "SLURM_*",
            Source::Mpi(prefix) => prefix,
            Source::Variables => "RANK and WORLD_SIZE",
            Source::Alone => return format!("{place}, without a launcher"),
            Source::Script { tasks } => {
                let hint = "hint: start it with srun";
                return format!("{place}, in a Slurm job of {tasks} tasks but not started by srun; {hint}");
            }
        };
        format!("{place} by {by}, first host {first_host}:{port}")
    }
}

/// What one launcher says.
#[derive(Clone, Copy)]
struct Seat {
    rank: usize,
    world_size: usize,
    local_rank: usize,
    local_size: usize,
    source: Source,
    /// Names of rank and number of ranks, for messages.
    names: (&'static str, &'static str),
}

impl Seat {
    /// Where on its machine it is, is not asked yet.
    fn off_machine(
        rank: usize,
        world_size: usize,
        source: Source,
        names: (&'static str, &'static str),
    ) -> Self {
        Seat { rank, world_size, local_rank: 0, local_size: 0, source, names }
    }

    fn checked(self) -> Result<Self> {
        let Seat { rank, world_size, local_rank, local_size, names: (name, size_name), .. } = self;
        if rank >= world_size {
            return refuse(format!("{name} = {rank} is not below {size_name} = {world_size}"));
        }
        if local_rank >= local_size || local_rank > rank || local_size > world_size {
            let of = format!("{name} = {rank} of {size_name} = {world_size}");
            return refuse(format!("{of} cannot be number {local_rank} of {local_size} on its machine"));
        }
        Ok(self)
    }

    fn describe(&self) -> String {
        let (name, size_name) = self.names;
        format!("{name} = {} of {size_name} = {}", self.rank, self.world_size)
    }
}

/// Whether a launcher inside a step is, against Slurm. See the module.
fn is_believed(slurm: Seat, inner: Seat) -> Result<bool> {
    let mpi = matches!(inner.source, Source::Mpi(_));
    if (slurm.rank, slurm.world_size) == (inner.rank, inner.world_size) {
        Ok(false)
    } else if inner.world_size > slurm.world_size || (mpi && inner.world_size == slurm.world_size) {
        Ok(true)
    } else {
        let hint = format!("hint: unset {}, if it is left over", inner.names.0);
        refuse(format!("{}, but {}; {hint}", slurm.describe(), inner.describe()))
    }
}

#[cfg(test)]
mod tests;
