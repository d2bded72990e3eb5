//! What can be read out of a compiled image.

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

/// Bytes of machine code of a kernel of a cubin: the size of its section of the ELF file.
pub(crate) fn code_bytes(cubin: &[u8], kernel: &str) -> Result<u64, String> {
    let file: ElfFile64 = ElfFile64::parse(cubin).map_err(|e| format!("a cubin that is no ELF file: {e}"))?;
    let section = file.section_by_name(&format!(".text.{kernel}"));
    section.map(|section| section.size()).ok_or_else(|| format!("no code of {kernel} in its cubin"))
}

/// The most threads of a block for which a kernel is compiled: `.maxntid` of its entry in the PTX.
pub(crate) fn max_threads(ptx: &str, kernel: &str) -> Option<u32> {
    let entry = ptx.split(".entry ").find(|entry| {
        entry
            .strip_prefix(kernel)
            .is_some_and(|rest| rest.starts_with(|c: char| c == '(' || c.is_whitespace()))
    })?;
    let head = entry.split('{').next()?;
    head.split(".maxntid ").nth(1)?.split([',', '\n']).next()?.trim().parse().ok()
}
