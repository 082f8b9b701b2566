// Rotary position embedding of q and k in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include "ropeexport/column.cuh"
#include "ropeexport/dispatch.cuh"
#include "ropeexport/params.cuh"
#include "ropeexport/resident.cuh"

namespace ropeexport {

#if defined(__CUDACC__)

template <class V>
__global__ void __launch_bounds__(kThreads, V::kResidentBlocks)
    rotate_kernel(const __grid_constant__ Work work) {
  rotate_column<V>(work, blockIdx.x, threadIdx.x);
}

template <class V>
inline KnownWaves known_waves{};

struct DeviceExecutor {
  cudaStream_t stream;

  template <class V>
  static const void* kernel() {
    return reinterpret_cast<const void*>(&rotate_kernel<V>);
  }

  // A wave of the current device, which is the stream's.
  template <class V>
  std::int64_t resident_blocks() const {
    return wave_of(kernel<V>(), known_waves<V>, V::kResidentBlocks);
  }

  template <class V>
  cudaError_t run(const Work& work) const {
    void* arguments[] = {const_cast<Work*>(&work)};
    // not <<<>>>: its error would have to be asked for, and an older one could be the answer
    return cudaLaunchKernel(kernel<V>(), dim3(work.blocks), dim3(kThreads), arguments, 0, stream);
  }
};

// Enqueue x' = rotate(x) for q and k, for any form of coefficients and either pairing, of all of a
// row or of its leading part (kPartial, rotary_size), the rest of which is copied. Without kPerHead
// no kernel is compiled for coefficients of each head's own, and such are an invalid value.
// The stream must be of the current device.
//
// Arithmetic is float32, both products and the sum rounded one by one, then rounded to the type of
// the tensor. Empty tensors launch nothing. Neither synchronises nor allocates, keeps no state
// but how many blocks each device holds, and may be captured in a CUDA graph.
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
