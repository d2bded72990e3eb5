// Gradients of RMS norms of rows up to a width of 4096: rms_norm_backward.cuh tells formula, bytes, floor, and how a block
// is divided. A thread has one group of each of 2 rows. Blocks have up to 512 threads; 128 if a row is for a warp or less.
// Shared memory: 2 f32 for every 32 threads, and GROUP f32 for every thread if there are several teams.
#include "isa/isa.cuh"
#include "rms_norm_backward.cuh"

constexpr u32 NARROW_ROWS = 2;
constexpr u32 MAX_THREADS = 512;

// Rows of which a thread has one group.
template <class X, class W>
DEVICE void backward(const Tensors<X, W>& t, Extents e, u32 team_threads) {
    const Team team = team_of(team_threads);
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps<NARROW_ROWS>(memory);
    const Shared<f32> of_threads = memory.take<f32>(team.teams > 1 ? num_threads() * GROUP : 0);
    if (moves_packs(t, e.width)) {
        backward_of_part<NARROW_ROWS, 1, sizeof(X) == 2>(t, e, team, of_warps, of_threads);
    } else {
        backward_of_any_part(t, e, team, of_warps, of_threads);
    }
}

#define ENTRY(X, W)                                                                                         \
    KERNEL(rms_norm_backward_##X##_##W, MAX_THREADS, Global<const X> dout, Global<const X> x,               \
           Global<const W> weight, Global<const f32> rstd, Global<X> dx, Global<f32> partials, u32 rows,    \
           u32 width, u32 adds, u32 team) {                                                                 \
        const Tensors<X, W> tensors{dout, x, weight, rstd, dx, partials};                                   \
        backward(tensors, extents(rows, width, adds), team);                                                \
    }
ENTRY(f32, f32)
ENTRY(f32, bf16)
ENTRY(bf16, f32)
ENTRY(bf16, bf16)
