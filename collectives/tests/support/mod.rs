//! Worlds for tests of the control plane.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use tisserand_collectives::control::{Listener, Memory, Rendezvous, Secret, Tcp};
use tisserand_collectives::{ControlPlane, Failure};

pub(crate) type World = Vec<Box<dyn ControlPlane>>;

/// Every control plane, in sizes that are one, even, odd, and neither a power of two nor small.
pub(crate) fn worlds() -> Vec<(&'static str, World)> {
    let sizes = [1, 2, 3, 7];
    sizes.iter().flat_map(|&size| ["memory", "tcp"].map(|name| (name, again(name, size)))).collect()
}

/// A world by its name.
pub(crate) fn again(name: &str, size: usize) -> World {
    match name {
        "memory" => boxed(Memory::new(size)),
        _ => boxed(tcp(size)),
    }
}

/// A world whose ranks wait for each other for so long only, once steps have begun.
pub(crate) fn impatient(name: &str, size: usize, patience: Duration) -> World {
    match name {
        "memory" => boxed(Memory::with_patience(size, patience)),
        _ => boxed(met(size, Some(patience))),
    }
}

fn boxed(planes: Vec<impl ControlPlane + 'static>) -> World {
    planes.into_iter().map(|plane| Box::new(plane) as _).collect()
}

/// Runs `body` once a rank, each in a thread that owns its plane; what they return, by rank.
pub(crate) fn each_rank<T: Send>(world: World, body: impl Fn(&dyn ControlPlane) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = world.into_iter().map(|plane| scope.spawn(move || body(&*plane))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Where `rank` of `world_size` meets the others, on this machine.
pub(crate) fn meeting(rank: usize, world_size: usize, port: u16) -> Rendezvous {
    Rendezvous {
        rank,
        world_size,
        host: "localhost".to_owned(),
        port,
        secret: Secret::new(b"of the tests"),
        timeout: Duration::from_secs(20),
        dead_after: Rendezvous::DEAD_AFTER,
        patience: None,
    }
}

/// Ranks that have met on a free port.
pub(crate) fn tcp(world_size: usize) -> Vec<Tcp> {
    met(world_size, None)
}

fn met(world_size: usize, patience: Option<Duration>) -> Vec<Tcp> {
    let listener = Listener::bind(0).unwrap();
    let port = listener.port();
    let meeting = |rank| Rendezvous { patience, ..meeting(rank, world_size, port) };
    let joined: Vec<Result<Tcp, Failure>> = std::thread::scope(|scope| {
        let root = scope.spawn(|| listener.accept(&meeting(0)));
        let others = (1..world_size).map(|rank| scope.spawn(move || Tcp::connect(&meeting(rank))));
        let ranks: Vec<_> = std::iter::once(root).chain(others).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    joined.into_iter().map(Result::unwrap).collect()
}
