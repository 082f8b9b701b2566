#include "launch.h"

#include "ropeexport/apply_rope.cuh"

namespace ropeexport {

cudaError_t enqueue_apply_rope(const ApplyRopeParams& params, cudaStream_t stream) noexcept {
  return launch_apply_rope(params, stream);
}

}  // namespace ropeexport
