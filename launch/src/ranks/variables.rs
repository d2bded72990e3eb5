//! The variables of each launcher, and where they say that rank 0 is.

use super::{RanksError, Result, Seat, Source, refuse};
use crate::hostlist;

pub(super) struct Variables<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        match self.text(name).map(|value| (value.parse(), value)) {
            None => Ok(None),
            Some((Ok(number), _)) => Ok(Some(number)),
            Some((Err(_), value)) => refuse(format!("{name} = \"{}\" is not a number", value.escape_debug())),
        }
    }

    /// The first of these that is set, with its name.
    fn first(&self, names: &[&'static str]) -> Result<Option<(&'static str, usize)>> {
        for name in names {
            if let Some(number) = self.number(name)? {
                return Ok(Some((name, number)));
            }
        }
        Ok(None)
    }

    pub(super) fn slurm(&self) -> Result<Option<Seat>> {
        /// slurm.h: numbers from here on are no steps of srun but pending, of adopted processes, of batch
        /// scripts and of interactive shells (SLURM_INTERACTIVE_STEP = 0xfffffffa and above).
        const RESERVED_MIN: u64 = 0xffff_fff0;
        let step = self.text("SLURM_STEP_ID").and_then(|step| step.parse::<u64>().ok());
        let (Some(rank), Some(0..RESERVED_MIN)) = (self.number("SLURM_PROCID")?, step) else {
            return Ok(None);
        };
        let sizes = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"];
        let Some((size_name, world_size)) = self.first(&sizes)? else {
            return refuse(format!("SLURM_PROCID = {rank} without SLURM_NTASKS; hint: start it with srun"));
        };
        let Some(local_rank) = self.number("SLURM_LOCALID")? else {
            return refuse(format!("SLURM_PROCID = {rank} without SLURM_LOCALID; hint: start it with srun"));
        };
        let (source, names) = (Source::Slurm, ("SLURM_PROCID", size_name));
        let local_size = self.slurm_local_size()?;
        Seat { rank, world_size, local_rank, local_size, source, names }.checked().map(Some)
    }

    /// Tasks of this node. Those of the step, if they are told: the job may have been asked for others.
    fn slurm_local_size(&self) -> Result<usize> {
        let node = self.number("SLURM_NODEID")?.unwrap_or(0);
        for name in ["SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"] {
            let Some(text) = self.text(name) else { continue };
            return match tasks_of_node(&text, node) {
                Some(tasks) => Ok(tasks),
                None => refuse(format!("{name} = \"{}\" tells no tasks of node {node}", text.escape_debug())),
            };
        }
        refuse("SLURM_PROCID without SLURM_STEP_TASKS_PER_NODE; hint: start it with srun")
    }

    pub(super) fn mpi(&self, in_step: bool) -> Result<Option<Seat>> {
        let launchers = [
            ("OMPI_*", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_*", "PMI_RANK", "PMI_SIZE"),
            ("PMIX_*", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE"),
        ];
        for (prefix, name, size_name) in launchers {
            let Some(rank) = self.number(name)? else { continue };
            let world_size = match self.number(size_name)? {
                Some(world_size) => world_size,
                // PMIx puts no size into the environment, but srun has told it.
                None if in_step => continue,
                None => {
                    let hint = "hint: set RANK, WORLD_SIZE and LOCAL_RANK instead";
                    return refuse(format!("{name} = {rank} without {size_name}; {hint}"));
                }
            };
            return Ok(Some(Seat::off_machine(rank, world_size, Source::Mpi(prefix), (name, size_name))));
        }
        Ok(None)
    }

    pub(super) fn plain(&self) -> Result<Option<Seat>> {
        // WORLD_SIZE alone is what job scripts export for others.
        let Some(rank) = self.number("RANK")? else { return Ok(None) };
        let Some(world_size) = self.number("WORLD_SIZE")? else {
            return refuse(format!("RANK = {rank} without WORLD_SIZE; hint: set both, or unset RANK"));
        };
        Ok(Some(Seat::off_machine(rank, world_size, Source::Variables, ("RANK", "WORLD_SIZE"))))
    }

    /// Fills in the place on the machine. If nothing is said of it, all ranks must be of one machine.
    pub(super) fn on_machine(&self, seat: Seat) -> Result<Seat> {
        let (ranks, sizes): (&[_], &[_]) = match seat.source {
            Source::Mpi(_) => (
                &["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
                &["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
            ),
            _ => (&["LOCAL_RANK"], &["LOCAL_WORLD_SIZE"]),
        };
        let one_machine = match self.text("MASTER_ADDR") {
            Some(host) => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
            None => self.text("SLURM_JOB_NODELIST").is_none(),
        };
        let (local_rank, local_size) = match (self.first(ranks)?, self.first(sizes)?) {
            (Some((_, rank)), Some((_, size))) => (rank, size),
            (rank, size) if one_machine => {
                (rank.map_or(seat.rank, |found| found.1), size.map_or(seat.world_size, |found| found.1))
            }
            (rank, _) => {
                let lacking = if rank.is_none() { ranks[0] } else { sizes[0] };
                return refuse(format!("{} without {lacking}; hint: set it", seat.describe()));
            }
        };
        Seat { local_rank, local_size, ..seat }.checked()
    }

    pub(super) fn alone(&self) -> Result<Seat> {
        let tasks = self.number("SLURM_NTASKS")?.unwrap_or(1);
        let in_job = self.text("SLURM_JOB_ID").is_some() && tasks > 1;
        let source = if in_job { Source::Script { tasks } } else { Source::Alone };
        Ok(Seat { rank: 0, world_size: 1, local_rank: 0, local_size: 1, source, names: ("", "") })
    }

    /// `MASTER_ADDR`; else as idr_torch has it, the first host of the step, with what `TISSERAND_FIRST_HOST_SUFFIX`
    /// adds: where hosts have a fast network under other names ("i" at JSC), site profiles set it.
    pub(super) fn first_host(&self, seat: &Seat) -> Result<String> {
        if let Some(host) = self.text("MASTER_ADDR") {
            return Ok(host);
        }
        let slurm = seat.source == Source::Slurm;
        if !slurm && seat.local_size == seat.world_size {
            return Ok("localhost".to_owned());
        }
        let lists: &[&str] = if slurm {
            &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"]
        } else {
            // mpirun in a job begins with its first host.
            &["SLURM_JOB_NODELIST", "SLURM_NODELIST"]
        };
        let Some((name, list)) = lists.iter().find_map(|name| self.text(name).map(|list| (name, list)))
        else {
            let hint = "hint: set it to the machine of rank 0";
            return refuse(format!("{} on several machines without MASTER_ADDR; {hint}", seat.describe()));
        };
        let mut hosts = hostlist::expand(&list).map_err(|error| RanksError(format!("{name}: {error}")))?;
        Ok(hosts.swap_remove(0) + &self.text("TISSERAND_FIRST_HOST_SUFFIX").unwrap_or_default())
    }

    /// `MASTER_PORT`; else 10000 + job id % 20000, as in idr_torch/api/slurm.py (github.com/idriscnrs/idr_torch,
    /// 2.0, `SlurmAPI.port`); else torchrun's 29500. The script before 2.0 took 12345 and the smallest of
    /// SLURM_STEP_GPUS, which differs between tasks that are bound to one GPU each. Two steps of one job at
    /// the same time share a port, and need `MASTER_PORT`.
    pub(super) fn port(&self) -> Result<u16> {
        if let Some(port) = self.number("MASTER_PORT")? {
            return match u16::try_from(port) {
                Ok(port) if port > 0 => Ok(port),
                _ => refuse(format!("MASTER_PORT = {port} is not a port; hint: 1 to 65535")),
            };
        }
        let job = self.number("SLURM_JOB_ID")?;
        Ok(job.map_or(29500, |job| 10000 + (job % 20000) as u16))
    }
}

/// Of `4(x2),3`: 4 on nodes 0 and 1, 3 on node 2. A single number is that of every node.
pub(super) fn tasks_of_node(text: &str, node: usize) -> Option<usize> {
    if let Ok(tasks) = text.parse() {
        return Some(tasks);
    }
    let mut before = 0_usize;
    for part in text.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        let tasks = tasks.parse().ok()?;
        before = before.checked_add(nodes)?;
        if node < before {
            return Some(tasks);
        }
    }
    None
}
