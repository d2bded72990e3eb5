//! Which instructions each kernel consists of, against `cuda/disassembly.txt`: what no test on the emulator sees, and
//! what decides the speed on a GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tisserand_kernels::cuda::modules::MODULES;

/// Instructions of a kernel, each with its modifiers: `LDG.E.128.CONSTANT`.
type Instructions = BTreeMap<String, BTreeSet<String>>;

/// One instruction of a line of the list.
struct Rule {
    kernels: String,
    architecture: String,
    /// Name and modifiers.
    instruction: String,
    /// Whether it may not occur; else it must.
    forbidden: bool,
}

#[test]
fn every_kernel_consists_of_the_instructions_that_its_speed_needs() {
    let rules = rules();
    let mut used = vec![false; rules.len()];
    let mut errors = Vec::new();
    for (architecture, kernels) in [("sm_80", disassemble("sm_80")), ("sm_90a", disassemble("sm_90a"))] {
        for (kernel, instructions) in kernels {
            let mut covered = false;
            for (rule, used) in rules.iter().zip(&mut used) {
                if rule.applies(&kernel, architecture) {
                    *used = true;
                    covered |= !rule.forbidden;
                    errors.extend(
                        rule.broken_by(&instructions).map(|e| format!("{kernel} {architecture}: {e}")),
                    );
                }
            }
            if !covered {
                errors.push(format!("{kernel} {architecture}: no line says what it needs"));
            }
        }
    }
    for (rule, _) in rules.iter().zip(used).filter(|(_, used)| !used) {
        errors.push(format!("{} {}: there is no such kernel", rule.kernels, rule.architecture));
    }
    assert!(errors.is_empty(), "kernels/cuda/disassembly.txt:\n{}", errors.join("\n"));
}

impl Rule {
    fn applies(&self, kernel: &str, architecture: &str) -> bool {
        fits(&self.kernels, kernel) && fits(&self.architecture, architecture)
    }

    fn broken_by(&self, instructions: &BTreeSet<String>) -> Option<String> {
        let wanted: Vec<&str> = self.instruction.split('.').collect();
        let has = |found: &str| {
            let parts: Vec<&str> = found.split('.').collect();
            parts[0] == wanted[0] && wanted.iter().all(|part| parts.contains(part))
        };
        let found = instructions.iter().find(|found| has(found));
        match (self.forbidden, found) {
            (true, Some(found)) => Some(format!("has {found}")),
            (false, None) => {
                let kin: Vec<&str> = instructions
                    .iter()
                    .filter(|found| found.split('.').next() == Some(wanted[0]))
                    .map(String::as_str)
                    .collect();
                Some(format!("lacks {}, has [{}]", self.instruction, kin.join(" ")))
            }
            _ => None,
        }
    }
}

fn rules() -> Vec<Rule> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/disassembly.txt");
    let text = fs::read_to_string(path).unwrap();
    let mut rules = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kernels, architecture, instructions, ..] = words[..] else {
            panic!("kernels/cuda/disassembly.txt: not `kernels architecture instructions`: {line}");
        };
        rules.extend(instructions.split(',').map(|instruction| Rule {
            kernels: kernels.to_owned(),
            architecture: architecture.to_owned(),
            instruction: instruction.trim_start_matches('!').to_owned(),
            forbidden: instruction.starts_with('!'),
        }));
    }
    rules
}

/// Whether a name is a pattern's, in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    (0..=name.len()).any(|skipped| fits(rest, &name[skipped..]))
}

#[test]
fn a_star_stands_for_anything() {
    assert!(fits("*", "") && fits("gemm_*", "gemm_nt_small") && fits("*_small_*_f32", "gemm_small_a_f32"));
    assert!(!fits("gemm", "gemm_nt") && !fits("gemm_*_f32", "gemm_f32") && !fits("*_nt", "gemm_nt_f32"));
}

/// The instructions of every kernel.
fn disassemble(architecture: &str) -> Instructions {
    let mut kernels = Instructions::new();
    for module in MODULES {
        let image = if architecture == "sm_80" { module.sm_80 } else { module.sm_90a };
        let file = tempfile(&format!("{}.{architecture}.cubin", module.family), image);
        let output = Command::new(nvdisasm()).arg("-c").arg(&file).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nvdisasm {}: {errors}", file.display());
        let text = String::from_utf8(output.stdout).unwrap();
        for kernel in module.kernels {
            let found = instructions(&text, kernel.name);
            assert!(!found.is_empty(), "nvdisasm {}: no code of {}", file.display(), kernel.name);
            kernels.insert(kernel.name.to_owned(), found);
        }
    }
    kernels
}

/// Those of one kernel: from its label to the next section.
fn instructions(text: &str, kernel: &str) -> BTreeSet<String> {
    let label = format!(".text.{kernel}:");
    let code = text.lines().skip_while(|line| *line != label).skip(1);
    let code = code.take_while(|line| !line.starts_with("//----"));
    // A line is `/*0010*/ @P0 LDG.E R0, …`, and may be a label or empty.
    let words = code.filter_map(|line| line.trim_start().strip_prefix("/*")?.split_once("*/"));
    words
        .filter_map(|(_, instruction)| {
            let mut words = instruction.split([' ', ';']).filter(|word| !word.is_empty());
            words.find(|word| !word.starts_with('@')).map(str::to_owned)
        })
        .collect()
}

fn nvdisasm() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/toolchain.sh");
    let output = Command::new("sh").arg(script).args(["--disassembler", "--installed"]).output().unwrap();
    assert!(
        output.status.success(),
        "nvdisasm is missing; hint: run kernels/cuda/toolchain.sh --disassembler"
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()).join("nvdisasm")
}

fn tempfile(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).unwrap();
    path
}
