// The first product of a feed-forward layer with its gate: [gate, up] = x · weightᵀ and out = silu(gate) · up. A tile has
// as many columns of gate as of up, the same ones, so that a block has both factors of its part of out.
#pragma once

#include "gemm_staging.cuh"
#include "gemm_tile.cuh"
#include "gemm_window.cuh"
#include "isa/isa.cuh"
#include "math.cuh"

// The window of the weight [2 · width, k]: half of it moves along rows of gate, half along rows of up.
template <class Half, u32 THREADS>
struct GateUpWindow {
    using Place = Window<bf16, Half, THREADS>;
    static constexpr u32 PASSES = 2 * Place::PASSES;

    Place gate, up;

    METHOD GateUpWindow(Global<const bf16> weight, u32 width, u32 k, u32 first)
        : gate(weight, width, k, first), up(from(weight, i64(u64(width) * k)), width, k, first) {}

    METHOD void advance() {
        gate.advance();
        up.advance();
    }

    METHOD void copy(Shared<bf16> tile, u32 begin, u32 end SITE) const {
        constexpr u32 SPLIT = Place::PASSES;
        gate.copy(tile, begin, end PASS_SITE);
        up.copy(from(tile, i32(Half::ROWS * Half::COLUMNS)), begin < SPLIT ? 0 : begin - SPLIT,
                end < SPLIT ? 0 : end - SPLIT PASS_SITE);
    }
};

// Writes a tile whose left half are sums of gate from column `first` on, and whose right half are those of up. They are
// rounded before they are multiplied, as where the two ops are apart: the bits are the same.
template <class Tile, class C>
DEVICE void write_gated(Staging<Tile> staging, Global<C> gate_up, Global<C> out, u32 tokens, u32 width, u32 first_row,
                        u32 first) {
    constexpr u32 HALF = Tile::N / 2;
    using Part = Rows<C, Tile::M, HALF, Tile::THREADS>;
    const bool whole = has_whole_packs(gate_up, width) && has_whole_packs(out, width);
    const Part part(first_row, first, tokens, width);
    for (u32 pass = 0; pass < Part::PASSES; pass++) {
        if (!part.has(pass)) {
            continue;
        }
        f32 gates[Part::LEN], ups[Part::LEN];
        staging.get(gates, part.row_of(pass), part.column);
        staging.get(ups, part.row_of(pass), HALF + part.column);
        Pack<C> gate, up, product;
        UNROLL for (u32 j = 0; j < Part::LEN; j++) {
            gate[j] = round_to<C>(gates[j]);
            up[j] = round_to<C>(ups[j]);
            const f32 g = to_f32(gate[j]);
            product[j] = round_to<C>(g * sigmoid(g) * to_f32(up[j]));
        }
        const u64 at = part.index(pass, 2 * u64(width));
        part.write(gate_up, at, gate, whole);
        part.write(gate_up, at + width, up, whole);
        part.write(out, part.index(pass, width), product, whole);
    }
}
