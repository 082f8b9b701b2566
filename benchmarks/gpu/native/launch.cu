#include "launch.h"

#include "ropeexport/apply_rope.cuh"

using namespace ropeexport;

extern "C" int ropeexport_launch(const ApplyRopeParams* params, const Tuning* tuning,
                                 std::int32_t form, cudaStream_t stream) {
  switch (form) {
    case bench::kMatrices:
      return launch_rope<Matrices, Interleaved>(*params, stream, *tuning);
    case bench::kTables:
      return launch_rope<Tables, Interleaved>(*params, stream, *tuning);
    case bench::kTablesHalf:
      return launch_rope<Tables, Half>(*params, stream, *tuning);
    default:
      return cudaErrorInvalidValue;
  }
}

extern "C" const char* ropeexport_error_text(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

extern "C" std::int64_t ropeexport_params_bytes() { return sizeof(ApplyRopeParams); }
