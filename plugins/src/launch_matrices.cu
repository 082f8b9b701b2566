#include "launch.h"
#include "ropeexport/apply_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_matrices(const Form& form, const ApplyRopeParams& params, cudaStream_t stream,
                             const Tuning& tuning) noexcept {
  return form.halves ? launch_rope<Matrices, Half>(params, stream, tuning)
                     : launch_rope<Matrices, Interleaved>(params, stream, tuning);
}

}  // namespace ropeexport
