//! The parts of the build that judge what ptxas reports, on logs of NVRTC 12.4 and 13.0.

#[path = "../build/nvrtc/accepted.rs"]
mod accepted;
#[path = "../build/nvrtc/log.rs"]
mod log;

const LOG_12: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function 'gemm'
ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
ptxas         .     800 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, 800 bytes cumulative stack size, 400 bytes smem, 380 bytes cmem[0]
ptxas info    : Function properties for _Z4deepPfi
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function 'add' for 'sm_90a'
ptxas info    : Function properties for add
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, 376 bytes cmem[0]
";

const LOG_13: &str = "\
cuda/gemm.cu(12): warning #177-D: variable \"unused\" was declared but never referenced
ptxas info    : 12 bytes gmem, 24 bytes cmem[4]
ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 400 bytes smem
ptxas info    : Compile time = 46.530 ms
";

fn function(name: &str, registers: Option<u32>, bytes: [u32; 4]) -> log::Function {
    let [shared_bytes, stack_bytes, spill_store_bytes, spill_load_bytes] = bytes;
    let name = name.to_owned();
    log::Function { name, registers, shared_bytes, stack_bytes, spill_store_bytes, spill_load_bytes }
}

#[test]
fn resources_are_read_from_logs_of_both_versions() {
    let expected = [
        function("gemm", Some(255), [400, 800, 12, 20]),
        function("_Z4deepPfi", None, [0, 8, 4, 4]),
        function("add", Some(10), [0; 4]),
    ];
    assert_eq!(log::parse(LOG_12).functions, expected);
    let report = log::parse(LOG_13);
    assert_eq!(report.functions, [function("add", Some(32), [400, 0, 0, 0])]);
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[test]
fn spills_stack_frames_and_remarks_are_findings_unless_listed() {
    let findings = accepted::findings(&log::parse(LOG_12), "sm_90a");
    let kinds: Vec<_> = findings.iter().map(|f| (f.function.as_str(), f.kind.as_str())).collect();
    assert_eq!(kinds, [("gemm", "spill"), ("gemm", "stack"), ("_Z4deepPfi", "spill"), ("gemm", "C7510")]);

    let list = "# comment\n\ngemm sm_90a spill once per tile\ngemm sm_90a stack the same bytes\n\
                _Z4deepPfi sm_90a spill cold\ngemm sm_90a C7510 known\n";
    let all = accepted::parse(list).unwrap();
    assert_eq!(accepted::unlisted(&findings, &all), [""; 0]);
    assert_eq!(accepted::stale(&findings, &all), [""; 0]);

    let other = accepted::parse("gemm sm_80 spill for another architecture\n").unwrap();
    assert_eq!(accepted::unlisted(&findings, &other).len(), 4);
    assert_eq!(accepted::stale(&findings, &other), ["line 1: gemm sm_80 spill does not happen any more"]);
}

#[test]
fn an_entry_without_a_reason_is_refused() {
    let message = accepted::parse("\ngemm sm_80 spill\n").unwrap_err();
    assert_eq!(message, "line 2: not `function architecture kind reason`: gemm sm_80 spill");
}
