//! This process as one rank of a run whose other ranks are processes too: it meets them, reaches them over MPI or NCCL,
//! and ends together with them.
//!
//! - `over_mpi`, `over_nccl`: the communicators, of CPUs and of GPUs.
//! - `secret`: the file by which the ranks of one run recognise each other. `cores`: how ranks of one machine share
//!   it. `pmi`: whether the launcher tells MPI what it needs. `watch`: what ends the process when a rank has failed.
//!
//! **Start.** The launcher says which rank this is ([`Ranks`]). The control plane comes first, over TCP, so that
//! everything later, MPI included, may fail and be told. MPI starts when the model is built; its idea of ranks
//! must be the launcher's.
//!
//! **End.** Nobody ends before all are done, since launchers take a process that ends with another code than 0
//! for a reason to end the others (75 is such a code, and rank 0 still has to rename its checkpoint). MPI ends after
//! that, when nothing that happens to another rank can be a failure of the run: MPI_Finalize hangs if mpirun itself
//! was told to stop and is ending the job.

mod cores;
#[cfg(feature = "mpi")]
mod over_mpi;
#[cfg(feature = "nccl")]
mod over_nccl;
#[cfg(feature = "mpi")]
mod pmi;
mod secret;
mod watch;

use std::any::Any;
#[cfg(feature = "nccl")]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use secret::SecretFile;
use tisserand_collectives::control::{Listener, Rendezvous, Secret, Tcp};
use tisserand_collectives::nccl::Sums;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;
use tisserand_runtime::config::Config;
use watch::Watch;

use crate::device::{self, Link, Place};
use crate::env;
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{attempt, patience};

/// How long ranks wait for each other at the start, if `run.collective_timeout_s` is not shorter.
const MEETING_MAX: Duration = Duration::from_secs(180);

/// Runs `body` as this process's rank. After a failure of any rank, from the meeting on, the process ends here:
/// all ranks with the same exit code, and one of them has told why.
///
/// # Errors
/// The ranks do not meet.
pub fn join<R>(
    ranks: &Ranks,
    node: &mut Node,
    config: &Config,
    body: impl FnOnce(Place, Arc<dyn ControlPlane>) -> Result<R>,
) -> Result<R> {
    let control = Arc::new(meet(ranks, node, config)?);
    let opener = node.opener();
    let watch = Watch::start(&control, config)?;
    let mut notices = vec![ranks.describe()];
    notices.extend(control.refused().iter().map(|who| format!("turned away at the start: {who}")));
    let world = World::default();
    let seat = Seat {
        control: Arc::downgrade(&control),
        ranks: ranks.clone(),
        timeout: Duration::from_secs_f64(config.run.collective_timeout_s),
        world: world.clone(),
        sums: device::sums(config),
        #[cfg(feature = "nccl")]
        library: config.run.nccl_library.clone(),
    };
    let ended = attempt(|| {
        let place = Place {
            local_rank: ranks.local_rank,
            cores: cores::share(control.as_ref())?,
            opener,
            link: Link::Processes(seat),
            progress: control.progress().clone(),
            notices,
        };
        let value = body(place, Arc::clone(&control) as Arc<dyn ControlPlane>)?;
        control.barrier(Channel::Step)?;
        Ok(value)
    });
    match ended {
        Ok(value) => {
            watch.dismiss();
            drop(world);
            Ok(value)
        }
        Err(error) => {
            control.fail(error.failure(ranks.rank));
            watch.end()
        }
    }
}

/// Brings the control plane up.
fn meet(ranks: &Ranks, node: &mut Node, config: &Config) -> Result<Tcp> {
    let timeout = Duration::from_secs_f64(config.run.collective_timeout_s).min(MEETING_MAX);
    let deadline = Instant::now() + timeout;
    let file = SecretFile::new(&config.run.dir, &env::job_id());
    let meeting = |secret: &[u8]| Rendezvous {
        rank: ranks.rank,
        world_size: ranks.world_size,
        host: ranks.first_host.clone(),
        port: ranks.port,
        secret: Secret::new(secret),
        timeout: deadline.saturating_duration_since(Instant::now()),
        dead_after: Rendezvous::DEAD_AFTER,
        patience: Some(patience(Duration::from_secs_f64(config.run.collective_timeout_s))),
    };
    if ranks.rank == 0 {
        // The port first: a second launch into this folder fails here, and leaves the secret of the first alone.
        let listener = Listener::bind(ranks.port)?;
        let secret = file.write(config.run.group.as_deref())?;
        node.secret(deadline, || Ok(secret.bytes))?;
        return Ok(listener.accept(&meeting(&secret.bytes))?);
    }
    loop {
        let secret = node.secret(deadline, || file.wait(deadline, &ranks.first_host))?;
        match Tcp::connect(&meeting(&secret)) {
            Ok(tcp) => return Ok(tcp),
            // What was read was left behind by a launch that died while its ranks met.
            Err(_) if file.read().is_ok_and(|newer| newer != secret) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// A process's way to the others, once its device is there.
pub struct Seat {
    control: Weak<Tcp>,
    ranks: Ranks,
    timeout: Duration,
    world: World,
    sums: Sums,
    /// `run.nccl_library`.
    #[cfg(feature = "nccl")]
    library: Option<PathBuf>,
}

/// What has started: MPI does not end while this is there.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Option<Started>>>);

struct Started {
    /// Kept until all ranks are done.
    _world: Box<dyn Any + Send>,
    /// Ends the comparison of calls before they move anything.
    trust: Box<dyn Fn() + Send>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Option<Started>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Who adds up what GPUs have.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Ends the comparison of calls before they move anything.
    pub fn trust(&self) -> Box<dyn FnOnce() + Send> {
        let world = self.world.clone();
        Box::new(move || {
            if let Some(started) = world.lock().as_ref() {
                (started.trust)();
            }
        })
    }
}
