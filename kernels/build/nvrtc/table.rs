//! The Rust expression that embeds the images: the values of the tables in `src/cuda/modules.rs`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::compile::{Family, Output};
use super::image;
use super::log::Function;

/// One module without a kernel.
pub(crate) const EMPTY: &str = r#"&[
Module { family: "", sm_80: &Aligned(*b"").0, sm_90a: &[], ptx: &[], kernels: &[] },
]
"#;

/// What `src/cuda/modules.rs` includes: the kernels, and those of tests.
pub(crate) const TABLES: [&str; 2] = ["cubins.rs", "instructions.rs"];

/// Writes the expression to where it is included.
pub(crate) fn write(out: &Path, file: &str, table: &str) -> Result<(), String> {
    fs::write(out.join(file), table).map_err(|e| format!("{}: {e}", out.join(file).display()))
}

/// A slice of `Module`. The outputs of a family are sm_80, sm_90a and PTX, in this order.
pub(crate) fn cubins(families: &[Family], outputs: &[Vec<Output>]) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    let mut text = String::from("&[\n");
    for (family, outputs) in families.iter().zip(outputs) {
        let [sm_80, sm_90a, ptx] = &outputs[..] else {
            return Err(format!("{}: {} outputs", family.name, outputs.len()));
        };
        let mut kernels = String::new();
        for name in entries(sm_80).union(&entries(sm_90a)) {
            if !seen.insert((*name).to_owned()) {
                return Err(format!("{}: another source has a kernel {name} too", family.path));
            }
            let missing = || format!("{}: {name} is not there for every architecture", family.path);
            let max_threads =
                image::max_threads(&String::from_utf8_lossy(&ptx.image), name).ok_or_else(missing)?;
            let (a, b) = (resources(sm_80, name)?, resources(sm_90a, name)?);
            let (a, b) = (a.ok_or_else(missing)?, b.ok_or_else(missing)?);
            writeln!(
                kernels,
                "    KernelResources {{ name: {name:?}, max_threads: {max_threads}, sm_80: {a}, sm_90a: {b} }},"
            )
            .expect("writing to a String succeeds");
        }
        writeln!(
            text,
            "Module {{ family: {:?}, sm_80: {}, sm_90a: {}, ptx: {}, kernels: &[\n{kernels}] }},",
            family.name,
            embed(sm_80),
            embed(sm_90a),
            embed(ptx)
        )
        .expect("writing to a String succeeds");
    }
    text.push_str("]\n");
    Ok(text)
}

fn embed(output: &Output) -> String {
    format!("&Aligned(*include_bytes!({:?})).0", output.file)
}

fn entries(output: &Output) -> BTreeSet<&str> {
    let functions = output.report.functions.iter();
    functions.filter(|function| function.registers.is_some()).map(|function| function.name.as_str()).collect()
}

fn resources(output: &Output, kernel: &str) -> Result<Option<String>, String> {
    let function = output.report.functions.iter().find(|function| function.name == kernel);
    let Some((function, registers)) = function.and_then(|found| Some((found, found.registers?))) else {
        return Ok(None);
    };
    let Function { shared_bytes, stack_bytes, .. } = function;
    let spill_bytes = function.spill_bytes();
    let code_bytes = image::code_bytes(&output.image, kernel).map_err(|e| format!("{}: {e}", output.file))?;
    Ok(Some(format!(
        "Resources {{ registers: {registers}, shared_bytes: {shared_bytes}, code_bytes: {code_bytes}, \
         stack_bytes: {stack_bytes}, spill_bytes: {spill_bytes} }}"
    )))
}
