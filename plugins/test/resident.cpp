// How a wave is asked of a device, with GPUs that are made up: CUDA's functions are those below.
// Link with -Bsymbolic, so that no CUDA runtime of the process takes their place.
#include "ropeexport/resident.cuh"

#include <cstdint>

namespace {

enum Failing : std::int32_t { kNothing, kGetDevice, kAttribute, kOccupancy };

struct Gpu {
  std::int32_t device;
  std::int32_t multiprocessors;
  std::int32_t blocks;  // a multiprocessor
  std::int32_t failing;
};

Gpu gpu{};
std::int64_t questions = 0;  // that take their time
cudaError_t last_error = cudaSuccess;
ropeexport::KnownWaves known{};
const int kernel = 0;

cudaError_t answer(bool fails) {
  const cudaError_t status = fails ? cudaErrorInvalidDeviceFunction : cudaSuccess;
  if (fails) last_error = status;
  return status;
}

}  // namespace

extern "C" cudaError_t cudaGetDevice(int* device) {
  *device = gpu.device;
  return answer(gpu.failing == kGetDevice);
}

extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  *value = gpu.multiprocessors;
  const bool is_known = attribute == cudaDevAttrMultiProcessorCount && device == gpu.device;
  return answer(gpu.failing == kAttribute || !is_known);
}

extern "C" cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* asked,
                                                                     int threads,
                                                                     std::size_t shared_bytes) {
  ++questions;
  *blocks = gpu.blocks;
  const bool is_ours = asked == &kernel && threads == ropeexport::kThreads && shared_bytes == 0;
  return answer(gpu.failing == kOccupancy || !is_ours);
}

extern "C" cudaError_t cudaGetLastError() {
  const cudaError_t status = last_error;
  last_error = cudaSuccess;
  return status;
}

// What a launch on this GPU would be cut by; `asked` counts the questions so far, `error` is what
// is left behind.
extern "C" std::int64_t ropeexport_wave(const Gpu* now, int assumed_blocks, std::int64_t* asked,
                                        std::int32_t* error) {
  gpu = *now;
  const std::int64_t wave = ropeexport::wave_of(&kernel, known, assumed_blocks);
  *asked = questions;
  *error = last_error;
  return wave;
}
