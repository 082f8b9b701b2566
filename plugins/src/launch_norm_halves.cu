#include "launch.h"
#include "ropeexport/norm_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_norm_halves(const NormRopeParams& params, cudaStream_t stream,
                                const Tuning& tuning) noexcept {
  return launch_norm_rope<Tables, Half>(params, stream, tuning);
}

}  // namespace ropeexport
