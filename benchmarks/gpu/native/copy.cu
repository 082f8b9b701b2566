// A copy with one access of 16 bytes a thread, a yardstick beside torch's copies.
#include "kernel.h"

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 0x7fffffff;

__global__ void copy_kernel(uint4* to, const uint4* from, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

}  // namespace

extern "C" int ropeexport_copy(void* to, const void* from, std::int64_t bytes,
                               cudaStream_t stream) {
  std::int64_t count = bytes / sizeof(uint4);
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  if (bytes % sizeof(uint4) != 0 || blocks < 1 || blocks > kMostBlocks) {
    return cudaErrorInvalidValue;
  }
  void* arguments[] = {&to, &from, &count};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&copy_kernel),
                          dim3(static_cast<unsigned>(blocks)), dim3(kThreads), arguments, 0,
                          stream);
}
