//! Writes the table of predictions against published runs into `docs/planner.md`:
//! `cargo run -p tisserand-runtime --example published_runs`

#[path = "../tests/planner/published.rs"]
mod published;

fn main() -> std::io::Result<()> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/planner.md");
    let text = published::insert(&std::fs::read_to_string(page)?);
    print!("{}", published::table());
    std::fs::write(page, text)
}
