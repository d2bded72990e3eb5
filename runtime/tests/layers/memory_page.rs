//! The tables of docs/memory.md, read by the tests so that the page cannot differ from the program.

use tisserand_kernels::DType;
use tisserand_runtime::model::attention::Attention;
use tisserand_runtime::model::block::Recompute;

/// The cells of every row of the page's tables with that many columns, their heads left out.
pub(crate) fn rows(columns: usize) -> Vec<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/memory.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    rows.map(cells).filter(|row| row.len() == columns).skip(1).collect()
}

/// Bytes per token by the page's table of saved tensors: of the rows of one layer, or of all.
pub(crate) fn saved_bytes(
    layer: &str,
    recompute: Recompute,
    dtype: DType,
    attention: &Attention,
    intermediate_size: usize,
) -> usize {
    let shape = attention.shape;
    let value = |factor: &str| match factor.trim() {
        "hidden_size" => attention.query.in_features,
        "intermediate_size" => intermediate_size,
        "num_heads" => shape.num_heads,
        "num_kv_heads" => shape.num_kv_heads,
        "head_dim" => shape.head_dim,
        number => number.parse().unwrap_or_else(|_| panic!("docs/memory.md: {number:?} is no size")),
    };
    let product = |term: &str| term.split('·').map(value).product::<usize>();
    let mut bytes = 0;
    for row in rows(7) {
        let [of_layer, _, elements, element_type, none, selective, full] = &row[..] else { unreachable!() };
        let kept = match recompute {
            Recompute::None => none,
            Recompute::Selective => selective,
            Recompute::Full => full,
        };
        let counts = match kept.as_str() {
            "kept" => true,
            "q/k norms" => attention.head_norms.is_some(),
            "-" => false,
            other => panic!("docs/memory.md: {other:?}"),
        };
        if counts && (layer.is_empty() || of_layer == layer) {
            let size = if element_type == "f32" { 4 } else { dtype.size_bytes() };
            bytes += size * elements.split('+').map(product).sum::<usize>();
        }
    }
    assert!(bytes > 0, "docs/memory.md lists nothing for {layer:?}");
    bytes
}
