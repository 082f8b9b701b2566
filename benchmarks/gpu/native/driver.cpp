// The kernel over small shapes, for compute-sanitizer: every array is exactly as long as it must be
// and outputs are uninitialised memory, so that a stray access or an element left out is noticed.
//
// Exit codes: 0 every result is right, 1 one is not, 3 there is no GPU.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel.h"
#include "reference.h"

namespace {

using namespace ropeexport;
using bench::Form;
using bench::Sizes;

void check(int status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + ropeexport_error_text(status));
}

// `count` elements that begin `offset` elements after an aligned address and end the allocation.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(std::size_t count, std::size_t offset) : count_(count), offset_(offset) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, (offset + count) * sizeof(T)), "cudaMalloc");
    base_ = static_cast<T*>(memory);
  }
  DeviceArray(const std::vector<T>& content, std::size_t offset)
      : DeviceArray(content.size(), offset) {
    check(cudaMemcpy(data(), content.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
          "copy to the GPU");
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(base_); }

  T* data() const { return base_ + offset_; }
  std::vector<T> content() const {
    std::vector<T> host(count_);
    check(cudaMemcpy(host.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost),
          "copy from the GPU");
    return host;
  }

 private:
  T* base_ = nullptr;
  std::size_t count_, offset_;
};

std::vector<float> random_floats(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-2.0F, 2.0F);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(generator);
  return values;
}

template <typename T>
std::vector<T> random_data(std::int64_t count, unsigned seed) {
  std::vector<T> data(static_cast<std::size_t>(count));
  const std::vector<float> values = random_floats(count, seed);
  for (std::size_t i = 0; i < data.size(); ++i) bench::narrow_to(data[i], values[i]);
  return data;
}

Rotated dense(const void* in, void* out, std::int64_t heads, const Sizes& s) {
  const Strides strides = dense_strides(heads, s.length, s.head_size);
  return {in, out, heads, strides, strides};
}

template <typename T>
bool run(DataType type, const Sizes& s, Form form, std::size_t offset) {
  const std::int64_t row = s.head_size / 2 * (form == bench::kMatrices ? 4 : 1);
  const std::int64_t entries = s.pe_batch * s.pe_heads * s.length * row;
  const auto first = random_floats(entries, 1);
  const auto second = form == bench::kMatrices ? std::vector<float>{} : random_floats(entries, 2);
  const auto q = random_data<T>(s.batch * s.q_heads * s.length * s.head_size, 3);
  const auto k = random_data<T>(s.batch * s.k_heads * s.length * s.head_size, 4);
  const DeviceArray<T> q_in(q, offset), k_in(k, offset);
  const DeviceArray<T> q_out(q.size(), offset), k_out(k.size(), offset);
  const DeviceArray<float> pe(first, offset);
  std::optional<DeviceArray<float>> sines;  // never an allocation of nothing
  if (!second.empty()) sines.emplace(second, offset);
  ApplyRopeParams params;
  params.type = type;
  params.batch = s.batch;
  params.length = s.length;
  params.head_size = s.head_size;
  params.q = dense(q_in.data(), q_out.data(), s.q_heads, s);
  params.k = dense(k_in.data(), k_out.data(), s.k_heads, s);
  params.pe = {pe.data(), sines ? sines->data() : nullptr, s.pe_batch, s.pe_heads,
               dense_strides(s.pe_heads, s.length, row)};
  const Tuning tuning;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  check(ropeexport_launch(&params, &tuning, form, stream), "the launch");
  check(cudaStreamSynchronize(stream), "the kernel");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  return bench::same_bits(q_out.content(), bench::rotated(q, s.q_heads, s, form, first, second)) &&
         bench::same_bits(k_out.content(), bench::rotated(k, s.k_heads, s, form, first, second));
}

bool run_type(DataType type, const Sizes& s, Form form, std::size_t offset) {
  switch (type) {
    case DataType::kFloat32:
      return run<float>(type, s, form, offset);
    case DataType::kFloat16:
      return run<__half>(type, s, form, offset);
    case DataType::kBFloat16:
      return run<__nv_bfloat16>(type, s, form, offset);
  }
  return false;
}

// B, Hq, Hk, L, D, Bp, Hp: broadcasts both ways, grouped heads, one token of many sequences, rows
// that are no whole number of 16 bytes, a last block that is not full.
constexpr Sizes kSizes[] = {
    {1, 24, 24, 65, 128, 1, 1}, {2, 6, 6, 33, 64, 1, 6}, {2, 32, 8, 17, 128, 2, 1},
    {16, 8, 2, 1, 128, 16, 1},  {1, 3, 3, 7, 66, 1, 1},  {3, 5, 5, 11, 2, 3, 5},
    {1, 70, 1, 5, 256, 1, 1},
};
constexpr DataType kTypes[] = {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16};

int run_all() {
  int wrong = 0;
  int done = 0;
  for (const Sizes& s : kSizes) {
    for (const DataType type : kTypes) {
      for (const Form form : {bench::kMatrices, bench::kTables, bench::kTablesHalf}) {
        for (const std::size_t offset : {0, 1, 2}) {
          ++done;
          if (run_type(type, s, form, offset)) continue;
          ++wrong;
          std::printf("FAIL type %d form %d offset %zu: %ld heads of q, L %ld, D %ld\n",
                      static_cast<int>(type), static_cast<int>(form), offset,
                      static_cast<long>(s.q_heads), static_cast<long>(s.length),
                      static_cast<long>(s.head_size));
        }
      }
    }
  }
  std::printf("%d launches, %d wrong\n", done, wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    std::fprintf(stderr, "error: no GPU: %s\n", ropeexport_error_text(status));
    return 3;
  }
  try {
    const int result = run_all();
    check(cudaDeviceReset(), "cudaDeviceReset");  // without it no leak is looked for
    return result;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
