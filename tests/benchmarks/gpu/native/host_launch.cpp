// The interface of benchmarks/gpu/native/kernel.h on the host: the kernel's grid is walked block by
// block and thread by thread, on memory of the host. Compile with -ffp-contract=off.
#include "kernel.h"

#include <cstring>

#include "host_norm.h"
#include "ropeexport/column.cuh"
#include "ropeexport/dispatch.cuh"

using namespace ropeexport;

namespace {

constexpr std::int64_t kWave = 1056;  // an H100's

struct HostExecutor {
  template <class V>
  std::int64_t resident_blocks() const {
    return kWave;
  }

  template <class V>
  cudaError_t run(const Work& work) const {
    for (std::uint32_t block = 0; block < work.blocks; ++block) {
      for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
        rotate_column<V>(work, block, thread);
      }
    }
    return cudaSuccess;
  }
};

cudaError_t launch(const ApplyRopeParams& params, const Tuning& tuning, std::int32_t form) {
  HostExecutor executor;
  switch (form) {
    case bench::kMatrices:
      return dispatch<Matrices, Interleaved, false>(params, tuning, executor);
    case bench::kTables:
      return dispatch<Tables, Interleaved, false>(params, tuning, executor);
    case bench::kTablesHalf:
      return dispatch<Tables, Half, false>(params, tuning, executor);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

extern "C" int ropeexport_launch(const ApplyRopeParams* params, const Tuning* tuning,
                                 std::int32_t form, cudaStream_t) {
#if defined(ROPEEXPORT_FAULT_LAST_ELEMENT)  // what a test of the tests breaks
  ApplyRopeParams shorter = *params;
  shorter.length = params->length - 1;
  return launch(shorter, *tuning, form);
#elif defined(ROPEEXPORT_FAULT_TOO_LONG)
  ApplyRopeParams longer = *params;
  longer.length = params->length + 1;
  return launch(longer, *tuning, form);
#else
  return launch(*params, *tuning, form);
#endif
}

extern "C" int ropeexport_launch_norm(const NormRopeParams* params, const Tuning* tuning,
                                      std::int32_t form, cudaStream_t) {
  host_norm::Seen seen;
  return host_norm::walk(*params, *tuning, form == bench::kTablesHalf, kWave, seen);
}

extern "C" int ropeexport_copy(void* to, const void* from, std::int64_t bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
  return cudaSuccess;
}

extern "C" const char* ropeexport_error_text(int) { return "an error of the host's launch"; }

extern "C" std::int64_t ropeexport_params_bytes() { return sizeof(ApplyRopeParams); }

extern "C" std::int64_t ropeexport_norm_params_bytes() { return sizeof(NormRopeParams); }
