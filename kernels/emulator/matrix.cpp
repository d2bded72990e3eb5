// The tensor cores of a warp of 32: products of fragments, and matrices from and to shared memory. Fragment maps as in
// kernels/cuda/isa/matrix.cuh. The sums of one product are added in the order of k, then to the accumulator; a GPU adds
// them in an order of its own, so results agree within a tolerance.
#include "machine.h"

namespace emulator {
namespace {

constexpr uint32_t LANES = 32;

float half_of(uint32_t pair, uint32_t which) {
    return bit_cast<float>(which == 0 ? pair << 16 : pair & 0xffff0000u);
}

struct Product {
    float* d;
    const uint32_t *a, *b;
};

bool multiply(Warp& warp, Site) {
    float a[16][16], b[16][8], d[16][8];
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const auto* mine = static_cast<const Product*>(warp.operands[lane]);
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t half = 0; half < 2; half++) {
            for (uint32_t i = 0; i < 4; i++) {
                a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = half_of(mine->a[i], half);
            }
            for (uint32_t i = 0; i < 2; i++) {
                b[2 * t + 8 * i + half][g] = half_of(mine->b[i], half);
            }
            d[g][2 * t + half] = mine->d[half];
            d[g + 8][2 * t + half] = mine->d[2 + half];
        }
    }
    for (uint32_t m = 0; m < 16; m++) {
        float sums[8] = {};
        for (uint32_t k = 0; k < 16; k++) {
            for (uint32_t n = 0; n < 8; n++) {
                sums[n] += a[m][k] * b[k][n];
            }
        }
        for (uint32_t n = 0; n < 8; n++) {
            d[m][n] += sums[n];
        }
    }
    for (uint32_t lane = 0; lane < LANES; lane++) {
        auto* mine = static_cast<Product*>(warp.operands[lane]);
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t half = 0; half < 2; half++) {
            mine->d[half] = d[g][2 * t + half];
            mine->d[2 + half] = d[g + 8][2 * t + half];
        }
    }
    return true;
}

struct Matrices {
    uint32_t* r;
    uint32_t start;
    bool transposed;
};

constexpr uint32_t ROW_BYTES = 16;

// Row i of matrix m is at the address that lane 8m + i gave.
bool load_four(Warp& warp, Site site) {
    Block& block = *self().block;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const auto* mine = static_cast<const Matrices*>(warp.operands[lane]);
        if (mine->transposed != static_cast<const Matrices*>(warp.operands[0])->transposed) {
            fault(site, "divergence: load_matrices, transposed in some lanes only");
        }
        note_shared_read(mine->start, ROW_BYTES, warp.threads[lane], site);
    }
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const auto* mine = static_cast<const Matrices*>(warp.operands[lane]);
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t m = 0; m < 4; m++) {
            uint16_t halves[2];
            for (uint32_t half = 0; half < 2; half++) {
                const uint32_t row = mine->transposed ? 2 * t + half : g, column = mine->transposed ? g : 2 * t + half;
                const auto* of_row = static_cast<const Matrices*>(warp.operands[8 * m + row]);
                std::memcpy(&halves[half], block.shared + of_row->start + 2 * column, 2);
            }
            mine->r[m] = halves[0] | uint32_t(halves[1]) << 16;
        }
    }
    return true;
}

bool store_four(Warp& warp, Site site) {
    Block& block = *self().block;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const auto* mine = static_cast<const Matrices*>(warp.operands[lane]);
        note_shared_write(mine->start, ROW_BYTES, warp.threads[lane], site);
    }
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const auto* mine = static_cast<const Matrices*>(warp.operands[lane]);
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t m = 0; m < 4; m++) {
            const auto* of_row = static_cast<const Matrices*>(warp.operands[8 * m + g]);
            std::memcpy(block.shared + of_row->start + 4 * t, &mine->r[m], 4);
        }
    }
    return true;
}

}  // namespace

void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    Product mine{d, a, b};
    together(Together::Multiply, site, &mine, multiply);
}

void load_matrices(uint32_t (&r)[4], Range range, int64_t offset, bool transposed, Site site) {
    check_shared(range, offset, ROW_BYTES, site);
    Matrices mine{r, range.start + uint32_t(offset), transposed};
    count_access(Space::Shared, mine.start, ROW_BYTES, site);
    together(Together::LoadMatrices, site, &mine, load_four);
}

void store_matrices(const uint32_t (&r)[4], Range range, int64_t offset, Site site) {
    check_shared(range, offset, ROW_BYTES, site);
    Matrices mine{const_cast<uint32_t*>(r), range.start + uint32_t(offset), false};
    count_access(Space::Shared, mine.start, ROW_BYTES, site);
    together(Together::StoreMatrices, site, &mine, store_four);
}

}  // namespace emulator
