#include "launch.h"
#include "ropeexport/apply_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_neighbours(const Form& form, const ApplyRopeParams& params,
                               cudaStream_t stream) noexcept {
  // cosines and sines know no heads
  return form.partial ? launch_rope<Tables, Interleaved, true, false>(params, stream)
                      : launch_rope<Tables, Interleaved, false, false>(params, stream);
}

}  // namespace ropeexport
