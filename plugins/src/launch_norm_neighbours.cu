#include "launch.h"
#include "ropeexport/norm_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_norm_neighbours(const NormRopeParams& params, cudaStream_t stream,
                                    const Tuning& tuning) noexcept {
  return launch_norm_rope<Tables, Interleaved>(params, stream, tuning);
}

}  // namespace ropeexport
