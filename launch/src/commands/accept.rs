//! `tisserand accept`

use tisserand_runtime::Result;

use super::{DONE, FAILED};
use crate::accept::record::Record;
use crate::accept::{self, Options};
use crate::doctor;
use crate::doctor::file_system::Scratch;
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{self, World};
use crate::{cli, env};

/// Seconds of measuring of the doctor.
const DOCTOR_S: f64 = 10.0;

/// Doctor, training with its loss, bytes and overlap, kill and resume.
const STAGES: usize = 5;

/// Runs all stages.
pub(super) fn run(arguments: &cli::Accept) -> Result<u8> {
    world::enter(arguments.ranks, |ranks, world| accept(arguments, ranks, world))
}

fn accept(arguments: &cli::Accept, ranks: &Ranks, world: World) -> Result<u8> {
    #[cfg(feature = "nccl")]
    if !matches!(world, World::Threads(_)) {
        env::start_again_with(&doctor::nccl::log_variables())?;
    }
    let (size, job) = (world.size(ranks), format!("accept-{}", env::job_id()));
    let folder = Scratch::place(&arguments.dir, &job);
    let lead = (ranks.rank == 0).then(|| Lead::new(arguments, &job, size)).transpose()?;
    let mut node = Node::of(ranks);
    let options = Options {
        config: node.config(|| accept::config(&folder, size))?,
        doctor: doctor::Options { folder: folder.clone(), seconds: DOCTOR_S, machine: None },
        folder,
    };
    let made = world.run(ranks, &mut node, &options.config, |place, control| {
        let record = lead.as_ref().filter(|_| control.rank() == 0).map(|lead| &lead.record);
        accept::on_ranks(place, &control, &options, record)
    });
    let Some(Lead { record, .. }) = &lead else { return made.map(|()| DONE) };
    match made {
        Ok(()) => accept::alone(&options, size, record)?,
        Err(error) => record.broken(&error)?,
    }
    let passed = record.passed(STAGES);
    record.close(passed)?;
    Ok(if passed { DONE } else { FAILED })
}

/// What rank 0 has.
struct Lead {
    record: Record,
    /// Removed at the end.
    _scratch: Scratch,
}

impl Lead {
    fn new(arguments: &cli::Accept, job: &str, ranks: usize) -> Result<Self> {
        let scratch = Scratch::make(&arguments.dir, job)?;
        let record = Record::new(arguments.out.clone(), ranks)?;
        accept::write_texts(&Scratch::place(&arguments.dir, job))?;
        Ok(Lead { record, _scratch: scratch })
    }
}
