// How many blocks of a kernel the current device holds at once: a wave, by which a launch is cut.
//
// Asked of the device once a kernel. Nothing here waits, allocates or touches a stream, so that a
// launch stays cheap and may be captured in a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

#include "ropeexport/work.cuh"

namespace ropeexport {

constexpr int kKnownDevices = 64;             // further ones are asked at each launch
constexpr int kAssumedMultiprocessors = 132;  // an H100's, where a device does not answer

// Of one kernel, by device; 0: not asked yet. Threads that ask at once write the same number.
struct KnownWaves {
  std::atomic<std::int32_t> blocks[kKnownDevices];
};

// 0 where the device does not answer.
inline std::int32_t ask_wave(const void* kernel, int device) {
  int multiprocessors = 0;
  int blocks = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess) {
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0);
  }
  if (status == cudaSuccess) return multiprocessors * blocks;
  cudaGetLastError();  // ours: nobody is to take it for an error of a launch
  return 0;
}

// The answer of a device, kept in `known`; where there is none, `assumed_blocks` a multiprocessor.
inline std::int64_t wave_of(const void* kernel, KnownWaves& known, int assumed_blocks) {
  const std::int64_t assumed = std::int64_t{kAssumedMultiprocessors} * assumed_blocks;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();
    return assumed;
  }
  const bool is_kept = device >= 0 && device < kKnownDevices;
  const std::int32_t kept = is_kept ? known.blocks[device].load(std::memory_order_relaxed) : 0;
  if (kept > 0) return kept;
  const std::int32_t answer = ask_wave(kernel, device);
  if (answer <= 0) return assumed;
  if (is_kept) known.blocks[device].store(answer, std::memory_order_relaxed);
  return answer;
}

}  // namespace ropeexport
