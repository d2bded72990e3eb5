// The gate of the feed-forward layer. gate_up [tokens, 2 · width], gate before up; out, dout [tokens, width].
//
//   forward     out = gate · s · up, s = sigmoid(gate)       bytes: 3 elements for each of out; 5 FLOPs
//   backward    dgate = dout · up · (s · (1 + gate · (1 - s))), dup = dout · (gate · s)
//                                                            bytes: 5 elements; 11 FLOPs
//
// Floor: bytes / bandwidth. With bf16 it is near: the bits of the CPU's sigmoid take about 30 instructions for 6 bytes,
// which is what a GPU has time for, hence sigmoid_of_number. It is wrong only of NaN, which the factor `gate` keeps.
// Geometry: 256 threads, blocks in a grid-stride loop over groups of out; a group lies in one row. No shared memory.
#include "isa/isa.cuh"
#include "math.cuh"
#include "vector.cuh"

DEVICE f32 gated(f32 gate, f32 up) { return gate * sigmoid_of_number(gate) * up; }

struct GateGradients {
    f32 gate, up;
};

DEVICE GateGradients gradients(f32 gate, f32 up, f32 dout) {
    const f32 s = sigmoid_of_number(gate);
    return GateGradients{dout * up * (s * fma(gate, 1.0f - s, 1.0f)), dout * (gate * s)};
}

// The index in gate_up of the gate that belongs to element i of out; up is `width` elements further. GPUs divide by
// software, 64 bits by a call, so groups are counted in 32.
DEVICE u64 gate_index(By by, u64 i, u32 width) {
    const u64 row = by == By::Packs ? u32(i / GROUP) / (width / GROUP) : i / width;
    return i + row * width;
}

template <class X>
DEVICE void forward(Global<const X> gate_up, Global<X> out, u64 len, u32 width) {
    const auto some = [&](By by, u64 i) {
        const u64 at = gate_index(by, i, width);
        const Packed<X> gate = load_packed(by, gate_up, at), up = load_packed(by, gate_up, at + width);
        f32 results[GROUP];
        UNROLL for (u32 j = 0; j < GROUP; j++) { results[j] = gated(gate[j], up[j]); }
        store_packed(by, out, i, round_group<X>(results));
    };
    const bool aligned = is_aligned(gate_up) && is_aligned(out) && width % GROUP == 0;
    for_each_group(aligned, len, [&](u64 i) { some(By::Elements, i); }, [&](u64 i) { some(By::Packs, i); });
}

template <class X>
DEVICE void backward(Global<const X> gate_up, Global<const X> dout, Global<X> dgate_up, u64 len, u32 width) {
    const auto some = [&](By by, u64 i) {
        const u64 at = gate_index(by, i, width);
        const Packed<X> gate = load_packed(by, gate_up, at), up = load_packed(by, gate_up, at + width);
        const Packed<X> d = load_packed(by, dout, i);
        f32 dgate[GROUP], dup[GROUP];
        UNROLL for (u32 j = 0; j < GROUP; j++) {
            const GateGradients both = gradients(gate[j], up[j], d[j]);
            dgate[j] = both.gate;
            dup[j] = both.up;
        }
        store_packed(by, dgate_up, at, round_group<X>(dgate));
        store_packed(by, dgate_up, at + width, round_group<X>(dup));
    };
    const bool aligned = is_aligned(gate_up) && is_aligned(dout) && is_aligned(dgate_up) && width % GROUP == 0;
    for_each_group(aligned, len, [&](u64 i) { some(By::Elements, i); }, [&](u64 i) { some(By::Packs, i); });
}

#define ENTRIES(X)                                                                                           \
    KERNEL(swiglu_forward_##X, 256, Global<const X> gate_up, Global<X> out, u64 len, u32 width) {              \
        forward(gate_up, out, len, width);                                                                     \
    }                                                                                                          \
    KERNEL(swiglu_backward_##X, 256, Global<const X> gate_up, Global<const X> dout, Global<X> dgate_up,        \
           u64 len, u32 width) {                                                                               \
        backward(gate_up, dout, dgate_up, len, width);                                                         \
    }
ENTRIES(f32)
ENTRIES(bf16)
