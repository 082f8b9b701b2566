// Rotary position embedding of q and k in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include "ropeexport/params.cuh"

namespace ropeexport {

// Enqueue q' = rotate(q, pe) and k' = rotate(k, pe), interleaved pairs, general 2x2 matrices:
//   x0' = m00 * x0 + m01 * x1,  x1' = m10 * x0 + m11 * x1
// in float32, both products and the sum rounded one by one, then rounded to the tensor's type.
// Returns cudaErrorInvalidValue for sizes that contradict one another; empty tensors launch
// nothing. Does not synchronise, allocates nothing, keeps no state.
inline cudaError_t launch_apply_rope(const ApplyRopeParams& params, cudaStream_t stream,
                                     const Tuning& tuning = Tuning{});

}  // namespace ropeexport
