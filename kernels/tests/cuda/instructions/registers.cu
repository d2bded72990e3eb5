// One launch for each group of instructions on registers: each writes what every instruction answers, one row of `out` for
// each, to compare with plain expectations (registers.rs) on the GPU and in the emulator.
#include "isa/isa.cuh"

constexpr u32 THREADS = 128;

// Every function of arithmetic.cuh and bf16.cuh that is exact, on the numbers a, b, c; rows of `len` bit patterns.
KERNEL(instruction_arithmetic, 128, Global<const f32> a, Global<const f32> b, Global<const f32> c, Global<u32> out, u32 len) {
    const u32 i = block_x() * num_threads() + thread_index();
    if (i >= len) {
        return;
    }
    const f32 x = load(a, i), y = load(b, i), z = load(c, i);
    const auto put = [&](u32 row, u32 result) { store(out, row * len + i, result); };
    put(0, bits_of(fma(x, y, z)));
    put(1, bits_of(x * y + z));
    put(2, bits_of(square_root(x)));
    put(3, bits_of(divide(x, y)));
    put(4, bits_of(round_to_integer(x)));
    put(5, bits_of(larger(x, y)));
    put(6, bits_of(smaller(x, y)));
    put(7, multiply_high(bits_of(x), bits_of(y)));
    put(8, pack_bf16(x, y));
    put(9, round_to<bf16>(x).bits);
    put(10, bits_of(low_bf16(bits_of(x))));
    put(11, bits_of(high_bf16(bits_of(x))));
    put(12, bits_of(to_f32(bf16{u16(bits_of(x))})));
    put(13, bits_of(x + y));
    put(14, u32(is_nan(x)));
    put(15, bits_of(reciprocal(x)));
    put(16, lowest_set_bit(u64(bits_of(x)) << 20 | u64(1) << 63));
}

// 2^x, which is compared within its error.
KERNEL(instruction_exp2, 128, Global<const f32> x, Global<f32> out, u32 len) {
    const u32 i = block_x() * num_threads() + thread_index();
    if (i < len) {
        store(out, i, exp2_approximate(load(x, i)));
    }
}

// Who a thread is; a row for each word, of all threads of all blocks.
KERNEL(instruction_places, 128, Global<u32> out) {
    const u32 block = (block_z() * grid_y() + block_y()) * grid_x() + block_x();
    const u32 me = block * num_threads() + thread_index();
    const u32 all = grid_x() * grid_y() * grid_z() * num_threads();
    const auto put = [&](u32 row, u32 word) { store(out, row * all + me, word); };
    put(0, thread_index());
    put(1, num_threads());
    put(2, block_x());
    put(3, block_y());
    put(4, block_z());
    put(5, grid_x());
    put(6, grid_y());
    put(7, grid_z());
    put(8, lane_index());
    put(9, warp_index());
    put(10, num_warps());
}

// Every shuffle and vote of warp.cuh on a word of each thread.
KERNEL(instruction_shuffles, 128, Global<const u32> x, Global<u32> out) {
    const u32 me = thread_index();
    const u32 value = load(x, me);
    const auto put = [&](u32 row, u32 word) { store(out, row * THREADS + me, word); };
    u32 row = 0;
    for (u32 mask = 1; mask < WARP; mask *= 2) {
        put(row++, shuffle_xor(value, mask));
    }
    row = 6;
    put(row++, bits_of(shuffle_xor(f32_of_bits(value), WARP - 1)));
    put(row++, shuffle_down(value, 5));
    put(row++, bits_of(shuffle_down(f32_of_bits(value), 1)));
    put(row++, shuffle(value, (lane_index() * 7 + 3) % WARP));
    put(row++, bits_of(shuffle(f32_of_bits(value), WARP - 1 - lane_index())));
    const u64 votes = lanes_where(value % 3 == 0);
    put(row++, u32(votes));
    put(row++, u32(votes >> 32));
    put(row++, u32(all_lanes(value < 1000)) + 2 * u32(all_lanes(lane_index() != 9)));
    put(row++, u32(any_lane(value > 1000)) + 2 * u32(any_lane(lane_index() == 9)));
}
