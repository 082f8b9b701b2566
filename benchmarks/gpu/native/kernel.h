// The kernels behind a C interface, for Python and for the sanitizer's driver.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ropeexport/params.cuh"

namespace ropeexport::bench {

// The forms of the kernel that are measured; the first is the plugin's.
enum Form : std::int32_t {
  kMatrices = 0,    // general 2x2 matrices, pairs of neighbours
  kTables = 1,      // cosines and sines, pairs of neighbours
  kTablesHalf = 2,  // cosines and sines, pairs of halves
};

}  // namespace ropeexport::bench

// All else is hidden: another library of the same process may hold the same templates.
#define ROPEEXPORT_EXPORT __attribute__((visibility("default")))

extern "C" {

// Enqueue one launch; returns a cudaError_t.
ROPEEXPORT_EXPORT int ropeexport_launch(const ropeexport::ApplyRopeParams* params,
                                        const ropeexport::Tuning* tuning, std::int32_t form,
                                        cudaStream_t stream);
// The same of rows that are normed first.
ROPEEXPORT_EXPORT int ropeexport_launch_norm(const ropeexport::NormRopeParams* params,
                                             const ropeexport::Tuning* tuning, std::int32_t form,
                                             cudaStream_t stream);
// Enqueue a copy of a multiple of 16 bytes between aligned arrays; returns a cudaError_t.
ROPEEXPORT_EXPORT int ropeexport_copy(void* to, const void* from, std::int64_t bytes,
                                      cudaStream_t stream);
ROPEEXPORT_EXPORT const char* ropeexport_error_text(int status);
// By which a caller in another language checks its own description of the parameters.
ROPEEXPORT_EXPORT std::int64_t ropeexport_params_bytes();
ROPEEXPORT_EXPORT std::int64_t ropeexport_norm_params_bytes();
}
