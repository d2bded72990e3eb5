//! Where every rank is: gathered once at rank 0, which prints a table, keeps it in `hosts.json`, and refuses what
//! cannot be meant.
//!
//! - `cpus`: what this process may use. `check`: ranks that share what they should not. `table`: the lines.

mod check;
pub(crate) mod cpus;
mod table;

use tisserand_collectives::control::host_name;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::run::HostRow;
use tisserand_runtime::train::{DeviceChoice, TrainOptions};
use tisserand_runtime::{Error, Result};

/// What rank 0 learns.
pub struct Placement {
    /// One row for each rank, in their order.
    pub hosts: Vec<HostRow>,
    /// Lines for the log; none for one process, which is where it was started.
    pub table: Vec<String>,
    /// Ranks that have less than a CPU each.
    pub warning: Option<String>,
}

impl Placement {
    /// Hands it to the run.
    pub fn tell(self, options: &mut TrainOptions) {
        options.notices.extend(self.table);
        options.warnings.extend(self.warning);
        options.hosts = self.hosts;
    }
}

/// Gathers where the ranks are, at rank 0. Every rank calls it, with its device and Slurm's name of its machine.
///
/// # Errors
/// At rank 0: two processes on one GPU; ranks that were bound to CPUs and have less than one each, unless they
/// `may_oversubscribe`.
pub fn settle(
    control: &dyn ControlPlane,
    device: &DeviceChoice,
    node: Option<&str>,
    may_oversubscribe: bool,
) -> Result<Option<Placement>> {
    let broken = |error: serde_json::Error| Error::fault(format!("table of ranks: {error}"));
    let row = serde_json::to_vec(&row(control.rank(), device, node)).map_err(broken)?;
    let Some(rows) = control.gather(Channel::Setup, row)? else { return Ok(None) };
    let hosts: Vec<HostRow> =
        rows.iter().map(|row| serde_json::from_slice(row)).collect::<Result<_, _>>().map_err(broken)?;
    check::gpus(&hosts)?;
    let warning = check::cpus(&hosts, may_oversubscribe)?;
    let several = hosts.iter().any(|row| (&row.host, row.pid) != (&hosts[0].host, hosts[0].pid));
    let table = if several { table::lines(&hosts) } else { Vec::new() };
    Ok(Some(Placement { hosts, table, warning }))
}

fn row(rank: usize, device: &DeviceChoice, node: Option<&str>) -> HostRow {
    let allowed = cpus::allowed();
    HostRow {
        rank,
        local_rank: device.local_rank,
        host: host_name(),
        node: node.map(str::to_owned),
        pid: std::process::id(),
        device: device.description.clone(),
        gpu: device.gpu.clone(),
        bound: allowed.len() < cpus::online().len(),
        numa: cpus::list(&cpus::numa_nodes(&allowed)),
        cpus: cpus::list(&allowed),
    }
}
