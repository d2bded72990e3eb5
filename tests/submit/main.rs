//! `tisserand submit` as users and scripts use it: the scripts that it prints, what it refuses, and the
//! plain files of `launch/sbatch`, which are such scripts. Nothing is submitted here; `tests/slurm` does
//! that.

mod refusals;
mod scripts;
mod support;
