// The few functions of CUDA's runtime that the sanitizer's driver calls, on memory of the host, so
// that the driver itself runs under the host compiler's sanitizers.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::getenv("ROPEEXPORT_NO_GPU") ? 0 : 1;
  return *count ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  *memory = nullptr;  // exactly as long as asked for: what lies behind belongs to the sanitizer
  if (bytes == 0) return cudaErrorInvalidValue;  // an array of nothing is none
  const int failed = posix_memalign(memory, 256, bytes);
  return failed ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (bytes) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceReset() { return cudaSuccess; }
}
