//! The machine code that the build embeds: what it costs and which instructions it consists of. Needs the feature
//! `cuda`, and no GPU.

mod disassembly;
mod resources;
