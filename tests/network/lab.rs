//! Four machines and a hub: network namespaces of this test program, removed when dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::errors;

/// What the hub does to frames.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// Each way.
    pub(crate) delay_ms: u32,
    pub(crate) loss_percent: u32,
}

pub(crate) const GOOD: Line = Line { delay_ms: 0, loss_percent: 0 };

/// Number of machines.
pub(crate) const HOSTS: usize = 4;

pub(crate) struct Lab {
    name: String,
    hub: Child,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/network").join(name)
}

fn ip(arguments: &str) {
    let mut ip = Command::new("ip");
    ip.args(arguments.split(' '));
    let output = ip.output().unwrap_or_else(|error| panic!("ip: {error}; hint: apt-get install iproute2"));
    assert!(output.status.success(), "ip {arguments}: {}; hint: namespaces need root", errors(&output));
}

impl Lab {
    pub(crate) fn new(line: Line) -> Lab {
        static LABS: AtomicUsize = AtomicUsize::new(0);
        remove_those_of_the_dead();
        let name = format!("lab-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}-hub"));
        for host in 0..HOSTS {
            ip(&format!("netns add {name}-{host}"));
            ip(&format!("link add to{host} netns {name}-hub type veth peer name eth0 netns {name}-{host}"));
            ip(&format!("-n {name}-hub link set to{host} up"));
            ip(&format!("-n {name}-{host} addr add {}/24 dev eth0", Lab::address(host)));
            ip(&format!("-n {name}-{host} link set lo up"));
            ip(&format!("-n {name}-{host} link set eth0 up"));
            let mut offload = within(&format!("{name}-{host}"));
            let output = offload.arg("python3").arg(script("offload.py")).arg("eth0").output().unwrap();
            assert!(output.status.success(), "{}", errors(&output));
        }
        let mut hub = within(&format!("{name}-hub"));
        hub.arg("python3").arg(script("line.py"));
        hub.args([line.delay_ms.to_string(), line.loss_percent.to_string(), "1".to_owned()]);
        hub.args((0..HOSTS).map(|host| format!("to{host}")));
        let mut hub = hub.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(hub.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Lab { name, hub }
    }

    pub(crate) fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// A command on one of the machines, which has a host name of its own; its words follow.
    pub(crate) fn on(&self, host: usize) -> Command {
        let mut command = within(&format!("{}-{host}", self.name));
        command.args([
            "unshare",
            "--uts",
            "sh",
            "-c",
            r#"hostname "$0" && exec "$@""#,
            &format!("lab{host}"),
        ]);
        for name in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// mpirun on the first machine, with a rank on each.
    pub(crate) fn mpirun(&self) -> Command {
        let mut command = self.on(0);
        command.args(["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", &HOSTS.to_string()]);
        let hosts: Vec<String> = (0..HOSTS).map(|host| format!("{}:1", Lab::address(host))).collect();
        command.args(["--host", &hosts.join(",")]);
        let agent = format!("{} {}", script("agent.sh").display(), self.name);
        for (key, value) in [
            ("plm", "rsh"),
            ("plm_rsh_agent", agent.as_str()),
            ("btl", "tcp,self"),
            ("btl_tcp_if_include", "eth0"),
            ("oob_tcp_if_include", "eth0"),
        ] {
            command.args(["--mca", key, value]);
        }
        command.args(["-x", &format!("MASTER_ADDR={}", Lab::address(0)), "-x", "MASTER_PORT=12345"]);
        command
    }

    /// Pulls the cable of a machine, at the hub: the machine learns nothing of it but silence.
    pub(crate) fn cut(&self, host: usize) {
        ip(&format!("-n {}-hub link set to{host} down", self.name));
    }

    pub(crate) fn mend(&self, host: usize) {
        ip(&format!("-n {}-hub link set to{host} up", self.name));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let _ = self.hub.wait();
        remove(&format!("{}-", self.name));
    }
}

/// A command in a namespace.
fn within(namespace: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command
}

/// What test programs that were killed have left.
fn remove_those_of_the_dead() {
    for name in namespaces() {
        let owner = name.strip_prefix("lab-").and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner.filter(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&format!("lab-{pid}-"));
        }
    }
}

fn namespaces() -> Vec<String> {
    let list = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Removes the namespaces whose names begin so, and first what runs in them.
fn remove(prefix: &str) {
    for name in namespaces().iter().filter(|name| name.starts_with(prefix)) {
        let pids = Command::new("ip").args(["netns", "pids", name]).output().unwrap();
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter_map(|pid| pid.parse().ok())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
}
