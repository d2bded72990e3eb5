//! The binary `tisserand`.

fn main() -> std::process::ExitCode {
    tisserand_launch::main()
}
