#include "launch.h"
#include "ropeexport/apply_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_neighbours(const Form& form, const ApplyRopeParams& params, cudaStream_t stream,
                               const Tuning& tuning) noexcept {
  // cosines and sines know no heads
  return form.partial ? launch_rope<Tables, Interleaved, true, false>(params, stream, tuning)
                      : launch_rope<Tables, Interleaved, false, false>(params, stream, tuning);
}

}  // namespace ropeexport
