// Every access to device and shared memory: each kernel moves the same values by each of them, so that all parts of the output
// must equal the input (memory.rs).
#include "isa/isa.cuh"

constexpr u32 THREADS = 64;

// Six copies of x, each of THREADS packs: element by element, pack by pack, and by halves of packs.
template <class T>
DEVICE void copy_in_every_way(Global<const T> x, Global<T> y) {
    constexpr u32 LEN = Pack<T>::LEN, ALL = THREADS * LEN;
    const u32 me = thread_index();
    for (u32 i = 0; i < LEN; i++) {
        const u32 at = i * THREADS + me;
        store(y, at, load(x, at));
        store(from(y, ALL), at, load(y, at));
    }
    const u32 at = me * LEN;
    store_pack(y, 2 * ALL + at, load_pack(x, at));
    store_pack_once(y, 3 * ALL + at, load_pack(y, 2 * ALL + at));
    store_pack(y, 4 * ALL + at, load_pack_once(read_only(from(y, 3 * i64(ALL))), at));
    store_half_pack(y, 5 * ALL + at, load_half_pack(x, at));
    store_half_pack(y, 5 * ALL + at + LEN / 2, load_half_pack(y, 4 * ALL + at + LEN / 2));
}

KERNEL(instruction_copies_bf16, 64, Global<const bf16> x, Global<bf16> y) { copy_in_every_way(x, y); }
KERNEL(instruction_copies_f32, 64, Global<const f32> x, Global<f32> y) { copy_in_every_way(x, y); }
KERNEL(instruction_copies_u32, 64, Global<const u32> x, Global<u32> y) { copy_in_every_way(x, y); }
KERNEL(instruction_copies_u8, 64, Global<const u8> x, Global<u8> y) { copy_in_every_way(x, y); }

// What a kernel can ask of a tensor.
KERNEL(instruction_tensors, 64, Global<const u32> present, Global<const u32> absent, Global<u32> out) {
    if (thread_index() == 0) {
        store(out, 0, u32(is_present(present)) + 2 * u32(is_present(absent)));
        store(out, 1, u32(is_aligned(present)) + 2 * u32(is_aligned(from(present, 1))) + 4 * u32(is_aligned(from(present, 4))));
    }
}

// Words of other threads through every access to shared memory. Bytes: 16 (3 rounded up), 4 · THREADS · 4, 2 · THREADS · 8.
KERNEL(instruction_shared, 64, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u8> bytes = memory.take<u8>(3);
    const Shared<u32> words = memory.take<u32>(THREADS * 4);
    const Shared<bf16> halves = memory.take<bf16>(THREADS * 8);
    const u32 me = thread_index(), other = THREADS - 1 - me;
    const auto put = [&](u32 row, u32 word) { store(out, row * THREADS + me, word); };
    if (me == 0) {
        for (u32 i = 0; i < 3; i++) {
            store(bytes, i, u8(load(x, i)));
        }
    }
    store(words, me, load(x, me));
    store_pair(halves, 2 * me, load(x, me));
    block_sync();
    put(0, load(words, other));
    put(1, load(bytes, me % 3));
    put(2, load_pair(halves, 2 * other));
    put(3, load(from(halves, 1), 2 * other).bits);
    block_sync();
    const Pack<u32> pack = load_pack(x, 4 * me);
    store_pack(words, 4 * me, pack);
    store_pair(view_as<f32>(halves), 2 * me, f32_of_bits(pack[0]), f32_of_bits(pack[1]));
    block_sync();
    const Pack<u32> read = load_pack(words, 4 * other);
    for (u32 i = 0; i < 4; i++) {
        put(4 + i, read[i]);
    }
    put(8, bits_of(load(view_as<f32>(halves), 2 * other)));
    put(9, bits_of(load(view_as<f32>(halves), 2 * other + 1)));
}

// Tiles of 16 bytes for each thread through a ring of stages, fetched ahead by asynchronous copies of which only the first
// `valid_bytes` are read; each thread adds up what another one fetched.
KERNEL(instruction_copy_async, 64, Global<const u32> x, Global<u32> out, u32 num_tiles, u32 valid_bytes) {
    constexpr u32 STAGES = 3;
    SharedMemory memory;
    const Shared<u32> ring = memory.take<u32>(STAGES * THREADS * 4);
    const u32 me = thread_index(), other = THREADS - 1 - me;
    const auto fetch = [&](u32 tile) {
        if (tile < num_tiles) {
            copy_async(ring, (tile % STAGES * THREADS + me) * 4, x, u64(tile * THREADS + me) * 4, valid_bytes);
        }
        copy_async_commit();
    };
    for (u32 tile = 0; tile < STAGES - 1; tile++) {
        fetch(tile);
    }
    u32 sum = 0;
    for (u32 tile = 0; tile < num_tiles; tile++) {
        copy_async_wait<STAGES - 2>();
        block_sync();
        fetch(tile + STAGES - 1);
        const Pack<u32> pack = load_pack(ring, (tile % STAGES * THREADS + other) * 4);
        sum += (tile + 1) * (pack[0] + 2 * pack[1] + 3 * pack[2] + 4 * pack[3]);
    }
    store(out, me, sum);
}
