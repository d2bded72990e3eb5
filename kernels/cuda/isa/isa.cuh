// The instruction layer: everything by which a kernel touches its machine. One function per instruction, named by what
// it does, with two bodies: PTX for the GPU, and a call into the emulator for the host. Nothing outside of this folder
// has `asm`, intrinsics, `threadIdx` or `__shared__`.
//
//   platform.cuh    compilers, numeric types, KERNEL
//   thread.cuh      who am I: block, thread, warp, lane
//   bf16.cuh        the 16-bit type and its roundings
//   arithmetic.cuh  single instructions on registers
//   global.cuh      device memory
//   shared.cuh      memory of a block
//   barrier.cuh     barriers of a block, fences
//   warp.cuh        shuffles and votes
//   atomic.cuh      atomic operations, acquire and release
//   async.cuh       asynchronous copies into shared memory (sm_80)
//   matrix.cuh      fragments and products of the tensor cores (sm_80)
//
// Section numbers are those of the PTX ISA 9.0 manual, "Instruction Set".
#pragma once

#include "platform.cuh"

#include "arithmetic.cuh"
#include "async.cuh"
#include "atomic.cuh"
#include "barrier.cuh"
#include "bf16.cuh"
#include "global.cuh"
#include "matrix.cuh"
#include "shared.cuh"
#include "thread.cuh"
#include "warp.cuh"
