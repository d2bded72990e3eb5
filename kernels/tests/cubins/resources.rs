//! What each kernel costs, against the table `cuda/resources.tsv`, so that a change that makes one dearer is a line of
//! a diff. `TISSERAND_UPDATE=1` writes the table anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use tisserand_kernels::cuda::modules::{KernelResources, MODULES, NVRTC_VERSION, Resources};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/resources.tsv");

/// The version of `cuda/toolchain.sh`. Others allocate registers in their own way.
const PINNED: &str = "12.4";

const HEAD: &str =
    "kernel\tarchitecture\tregisters\tstatic shared bytes\tcode bytes\tstack bytes\tspill bytes";

#[test]
fn every_kernel_costs_what_the_table_says() {
    if NVRTC_VERSION != PINNED {
        println!(
            "built with NVRTC {NVRTC_VERSION}; the table is that of {PINNED}: only the kernels are compared"
        );
        return expect_same_kernels(&fs::read_to_string(PATH).unwrap());
    }
    let actual = table();
    if std::env::var_os("TISSERAND_UPDATE").is_some() {
        fs::write(PATH, &actual).unwrap();
    }
    let committed = fs::read_to_string(PATH).unwrap_or_default();
    let lines = |text: &str, other: &str, sign: &str| -> String {
        let changed = text.lines().filter(|line| !other.lines().any(|found| found == *line));
        changed.map(|line| format!("{sign} {line}\n")).collect()
    };
    let changes = lines(&committed, &actual, "-") + &lines(&actual, &committed, "+");
    assert!(
        committed == actual,
        "kernels/cuda/resources.tsv differs:\n  {HEAD}\n{changes}hint: if the change is meant, run \
         TISSERAND_UPDATE=1 cargo test -p tisserand-kernels --features cuda --test cubins and commit the table"
    );
}

/// Every kernel and architecture, sorted.
fn table() -> String {
    let mut rows: Vec<String> = kernels().map(|(kernel, name, cost)| row(kernel.name, name, cost)).collect();
    rows.sort();
    let mut text = format!("{HEAD}\n");
    for row in rows {
        writeln!(text, "{row}").unwrap();
    }
    text
}

fn kernels() -> impl Iterator<Item = (&'static KernelResources, &'static str, Resources)> {
    let kernels = MODULES.iter().flat_map(|module| module.kernels);
    kernels.flat_map(|kernel| [(kernel, "sm_80", kernel.sm_80), (kernel, "sm_90a", kernel.sm_90a)])
}

fn row(kernel: &str, architecture: &str, cost: Resources) -> String {
    let Resources { registers, shared_bytes, code_bytes, stack_bytes, spill_bytes } = cost;
    format!(
        "{kernel}\t{architecture}\t{registers}\t{shared_bytes}\t{code_bytes}\t{stack_bytes}\t{spill_bytes}"
    )
}

/// Prints what spills, which the build has warned of.
fn expect_same_kernels(committed: &str) {
    let names = |table: &str| -> BTreeSet<String> {
        let columns =
            table.lines().skip(1).map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" "));
        columns.collect()
    };
    assert_eq!(
        names(&table()),
        names(committed),
        "hint: update kernels/cuda/resources.tsv with NVRTC {PINNED}"
    );
    for (kernel, architecture, cost) in kernels().filter(|(_, _, cost)| cost.spill_bytes > 0) {
        println!("{} {architecture} spills {} bytes", kernel.name, cost.spill_bytes);
    }
}
