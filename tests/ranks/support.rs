//! Meshes, and runs on them.

use std::fs;
use std::path::Path;

use crate::run::{Random, Run, tisserand};

/// A data-parallel mesh and its ZeRO stage.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Mesh {
    pub(crate) replicate: usize,
    pub(crate) shard: usize,
    pub(crate) zero: u8,
}

/// `dp_replicate`, `dp_shard`, ZeRO stage.
pub(crate) const fn mesh(replicate: usize, shard: usize, zero: u8) -> Mesh {
    Mesh { replicate, shard, zero }
}

impl Mesh {
    pub(crate) fn ranks(self) -> usize {
        self.replicate * self.shard
    }

    /// Every mesh of 1, 2, 4 or 8 ranks, with every stage.
    pub(crate) fn all() -> Vec<Mesh> {
        let sizes = [1, 2, 4, 8];
        let shapes = sizes.iter().flat_map(|&r| sizes.iter().map(move |&s| (r, s)));
        let shapes = shapes.filter(|(r, s)| r * s <= 8);
        shapes.flat_map(|(r, s)| (0..4).map(move |zero| mesh(r, s, zero))).collect()
    }

    /// Any of those with more than one rank.
    pub(crate) fn any(random: &mut Random) -> Mesh {
        let all: Vec<Mesh> = Mesh::all().into_iter().filter(|mesh| mesh.ranks() > 1).collect();
        all[random.below(all.len() as u64) as usize]
    }
}

/// Whether all products are wanted.
pub(crate) fn full() -> bool {
    std::env::var_os("TISSERAND_FULL").is_some_and(|value| value == "1")
}

impl Run {
    /// Continues on `mesh` from now on.
    pub(crate) fn set_mesh(&mut self, mesh: Mesh) {
        let Mesh { replicate, shard, zero } = mesh;
        self.set(&[
            &format!("mesh.dp_replicate={replicate}"),
            &format!("mesh.dp_shard={shard}"),
            &format!("mesh.zero={zero}"),
        ]);
        self.set_ranks(mesh.ranks());
    }

    /// The same run on `mesh`, in a folder of its own.
    pub(crate) fn on(&self, mesh: Mesh) -> Run {
        let mut run = self.and(&[]);
        run.set_mesh(mesh);
        run
    }

    /// The same run with everything that it has written, in a folder of its own.
    pub(crate) fn copy(&self) -> Run {
        let copy = self.and(&[]);
        copy_folder(&self.dir(), &copy.dir());
        copy
    }

    /// Asserts that the newest checkpoint is whole.
    pub(crate) fn verify(&self) {
        tisserand(["checkpoint", "verify", &self.dir_name()]);
    }

    /// A numeric field of all records of a type.
    pub(crate) fn series(&self, of_type: &str, field: &str) -> Vec<f64> {
        self.records(of_type).iter().map(|record| record[field].as_f64().unwrap()).collect()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Largest relative difference of two series.
pub(crate) fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let relative = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs();
    let worst = a.iter().zip(b).map(relative).fold(0.0, f64::max);
    assert!(a.iter().chain(b).all(|value| value.is_finite()), "{a:?} {b:?}");
    worst
}
