// Who a thread is. Blocks are one-dimensional and a multiple of the warp; grids have up to three dimensions.
#pragma once

#include "platform.cuh"

#if ON_GPU

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 num_threads() { return blockDim.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 grid_x() { return gridDim.x; }
DEVICE u32 grid_y() { return gridDim.y; }
DEVICE u32 grid_z() { return gridDim.z; }

#else

DEVICE u32 thread_index() { return emulator::position().thread; }
DEVICE u32 num_threads() { return emulator::position().threads; }
DEVICE u32 block_x() { return emulator::position().block[0]; }
DEVICE u32 block_y() { return emulator::position().block[1]; }
DEVICE u32 block_z() { return emulator::position().block[2]; }
DEVICE u32 grid_x() { return emulator::position().grid[0]; }
DEVICE u32 grid_y() { return emulator::position().grid[1]; }
DEVICE u32 grid_z() { return emulator::position().grid[2]; }

#endif

// Place in the warp, and the warp's place in the block.
DEVICE u32 lane_index() { return thread_index() % WARP; }
DEVICE u32 warp_index() { return thread_index() / WARP; }
DEVICE u32 num_warps() { return num_threads() / WARP; }
