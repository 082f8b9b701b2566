// Device memory that notices writes beside it, and streams; every CUDA error is an exception.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cases.h"
#include "library.h"

namespace harness {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

inline void require_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    throw Unusable(std::string("no GPU: ") + cudaGetErrorString(status));
  }
}

// An array at an offset from an aligned address, between guards.
class DeviceArray {
 public:
  DeviceArray(std::size_t bytes, std::size_t offset) : bytes_(bytes), before_(kGuard + offset) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, before_ + bytes_ + kGuard), "cudaMalloc");
    base_ = static_cast<unsigned char*>(memory);
    clear();
  }
  DeviceArray(const Bytes& content, std::size_t offset) : DeviceArray(content.size(), offset) {
    check(cudaMemcpy(data(), content.data(), bytes_, cudaMemcpyHostToDevice), "copy to the GPU");
    // the copy may still be under way, and the streams here do not wait for it
    check(cudaDeviceSynchronize(), "copy to the GPU");
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(base_); }

  void* data() const { return base_ + before_; }
  void clear() {
    check(cudaMemset(base_, kMark, before_ + bytes_ + kGuard), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaMemset");
  }
  Bytes content() const {
    const Bytes all = everything();
    return {all.begin() + before_, all.begin() + before_ + bytes_};
  }
  bool guards_hold() const {
    const Bytes all = everything();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool inside = i >= before_ && i < before_ + bytes_;
      if (!inside && all[i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr unsigned char kMark = 0xa5;

  Bytes everything() const {
    Bytes all(before_ + bytes_ + kGuard);
    check(cudaMemcpy(all.data(), base_, all.size(), cudaMemcpyDeviceToHost), "copy from the GPU");
    return all;
  }

  unsigned char* base_ = nullptr;
  std::size_t bytes_;
  std::size_t before_;
};

class Stream {
 public:
  Stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "the kernel"); }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace harness
