#include "launch.h"
#include "ropeexport/norm_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_norm_matrices(const NormRopeParams& params, cudaStream_t stream,
                                  const Tuning& tuning) noexcept {
  return launch_norm_rope<Matrices, Interleaved>(params, stream, tuning);
}

}  // namespace ropeexport
