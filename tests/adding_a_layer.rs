//! docs/adding-a-layer.md promises that a layer takes few lines in few files: its patch applies to these
//! sources and is no larger. Running the patched check is left to people: it compiles the model again.

use std::path::Path;
use std::process::Command;

const MOST_LINES: usize = 150;
const MOST_FILES: usize = 4;

#[test]
fn the_patch_of_the_walk_through_applies_and_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patch = std::fs::read_to_string(root.join("docs/adding-a-layer.patch")).unwrap();
    let files: Vec<&str> = patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
    let added = patch.lines().filter(|line| line.starts_with('+') && !line.starts_with("+++ ")).count();
    assert!((1..=MOST_FILES).contains(&files.len()), "{files:?}");
    assert!((1..=MOST_LINES).contains(&added), "{added} lines");
    assert!(files.iter().any(|file| file.contains("/tests/")), "the patch brings its test: {files:?}");

    let page = std::fs::read_to_string(root.join("docs/adding-a-layer.md")).unwrap();
    for file in files {
        assert!(page.contains(file), "docs/adding-a-layer.md does not speak of {file}");
    }
    let output = Command::new("git")
        .args(["apply", "--check", "--verbose", "docs/adding-a-layer.patch"])
        .current_dir(root)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
