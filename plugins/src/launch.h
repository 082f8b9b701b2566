// The one thing that nvcc compiles for the plugin.
#pragma once

#include <cuda_runtime_api.h>

#include "ropeexport/params.cuh"

namespace ropeexport {

cudaError_t enqueue_apply_rope(const ApplyRopeParams& params, cudaStream_t stream) noexcept;

}  // namespace ropeexport
