// RMS norm and rotary position embedding of q and k in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include "ropeexport/norm_column.cuh"
#include "ropeexport/norm_dispatch.cuh"
#include "ropeexport/norm_span.cuh"
#include "ropeexport/params.cuh"
#include "ropeexport/resident.cuh"

namespace ropeexport {

#if defined(__CUDACC__)

template <class V>
__global__ void __launch_bounds__(kThreads, V::kResidentBlocks)
    norm_rope_columns(const __grid_constant__ NormWork work) {
  norm_rope_column<V>(work, blockIdx.x, threadIdx.x);
}

template <class V>
__global__ void __launch_bounds__(kMostSpanThreads, 2)
    norm_rope_spans(const __grid_constant__ NormWork work) {
  norm_rope_span<V>(work, blockIdx.x, threadIdx.x);
}

template <class V>
inline KnownWaves known_norm_waves{};

struct NormExecutor {
  using Kernel = void (*)(NormWork);

  cudaStream_t stream;

  // A wave of the current device, which is the stream's.
  template <class V>
  std::int64_t resident_blocks() const {
    const Kernel kernel = &norm_rope_columns<V>;
    return wave_of(reinterpret_cast<const void*>(kernel), known_norm_waves<V>, V::kResidentBlocks);
  }

  template <class V>
  cudaError_t run_columns(const NormWork& work) const {
    return launch(&norm_rope_columns<V>, kThreads, work);
  }

  template <class V>
  cudaError_t run_spans(const NormWork& work) const {
    return launch(&norm_rope_spans<V>, work.span_threads, work);
  }

  // not <<<>>>: its error would have to be asked for, and an older one could be the answer
  cudaError_t launch(Kernel kernel, std::uint32_t threads, const NormWork& work) const {
    void* arguments[] = {const_cast<NormWork*>(&work)};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(work.rope.blocks),
                            dim3(threads), arguments, 0, stream);
  }
};

// Enqueue x' = rotate(x / sqrt(mean(x * x) + epsilon) * scale) for q and k, of each row by itself
// or of all heads of a token together. What launch_rope says of its stream and its errors holds
// here, with coefficients of each head's own and a part of a row in every form.
//
// Arithmetic is float32: squares and their sum in a fixed order, so that results repeat bit for
// bit; the square root and the divisions rounded correctly; the normed number rounded to the type
// of the tensor, before the scale too where that is of this type; then the rotation as launch_rope
// has it.
template <class Form = Matrices, class Pairing = Interleaved>
cudaError_t launch_norm_rope(const NormRopeParams& params, cudaStream_t stream,
                             const Tuning& tuning = Tuning{}) {
  NormExecutor executor{stream};
  return dispatch_norm<Form, Pairing>(params, tuning, executor);
}

#endif  // __CUDACC__

}  // namespace ropeexport
