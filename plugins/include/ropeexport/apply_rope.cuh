// Rotary position embedding of q and k in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include "ropeexport/column.cuh"
#include "ropeexport/dispatch.cuh"
#include "ropeexport/params.cuh"

namespace ropeexport {

#if defined(__CUDACC__)

template <class V>
__global__ void __launch_bounds__(kThreads, V::kResidentBlocks)
    rotate_kernel(const __grid_constant__ Work work) {
  rotate_column<V>(work, blockIdx.x, threadIdx.x);
}

struct DeviceExecutor {
  cudaStream_t stream;

  template <class V>
  cudaError_t run(const Work& work) const {
    void* arguments[] = {const_cast<Work*>(&work)};
    const auto* const kernel = reinterpret_cast<const void*>(&rotate_kernel<V>);
    // not <<<>>>: its error would have to be asked for, and an older one could be the answer
    return cudaLaunchKernel(kernel, dim3(work.blocks), dim3(kThreads), arguments, 0, stream);
  }
};

// Enqueue x' = rotate(x) for q and k, for any form of coefficients and either pairing, of all of a
// row or of its leading part (kPartial, rotary_size), the rest of which is copied. Without kPerHead
// no kernel is compiled for coefficients of each head's own, and such are an invalid value.
//
// Arithmetic is float32, both products and the sum rounded one by one, then rounded to the type of
// the tensor. Empty tensors launch nothing. Neither synchronises nor allocates, keeps no state, and
// may be captured in a CUDA graph.
//
// Returns cudaErrorInvalidValue for sizes that contradict one another or a missing pointer, else
// what the launch returned.
//
// The defaults are FLUX's apply_rope: x0' = m00 * x0 + m01 * x1, x1' = m10 * x0 + m11 * x1.
template <class Form = Matrices, class Pairing = Interleaved, bool kPartial = false,
          bool kPerHead = true>
cudaError_t launch_rope(const ApplyRopeParams& params, cudaStream_t stream,
                        const Tuning& tuning = Tuning{}) {
  DeviceExecutor executor{stream};
  return dispatch<Form, Pairing, kPartial, kPerHead>(params, tuning, executor);
}

#endif  // __CUDACC__

}  // namespace ropeexport
