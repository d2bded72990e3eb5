//! `tisserand config`

use tisserand_runtime::Result;
use tisserand_runtime::config::{self, ChangeKind, Config};

use super::{DONE, FAILED, load};
use crate::{cli, env, output};

/// Shows or compares run files.
pub(super) fn run(command: cli::Config) -> Result<u8> {
    match command {
        cli::Config::Show { run_file } => {
            output::piece(&load(&run_file, None)?.to_toml())?;
            Ok(DONE)
        }
        cli::Config::Diff { a, b } => {
            let [a, b] = [&a, &b].map(|path| Config::load(path, &[], None, &env::variable));
            let differences = config::diff(&a?, &b?);
            for difference in &differences {
                let kind = match difference.kind {
                    ChangeKind::Free => "",
                    ChangeKind::Identity => "  (another run)",
                };
                output::line(&format!("{}: {} -> {}{kind}", difference.key, difference.old, difference.new))?;
            }
            Ok(if differences.is_empty() { DONE } else { FAILED })
        }
    }
}
