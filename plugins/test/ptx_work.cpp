// What the plugin would launch: its own launch_*.cu are compiled into this library, and CUDA's
// functions that they call are those below, which record a launch. For tests that run the kernel's
// PTX without a GPU.
//
// Link with hidden symbols, so that no CUDA runtime of the process takes the place of these, and
// with --no-undefined, so that what is asked of CUDA beside them is noticed.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "forms.h"
#include "launch.h"
#include "ropeexport/norm_column.cuh"
#include "ropeexport/work.cuh"

namespace {

using namespace ropeexport;

constexpr int kMultiprocessors = 132;  // of an H100
constexpr int kBlocks = 8;             // a multiprocessor, as of most variants

// As tests/plugin/ptx/launches.py has it.
struct Launch {
  const char* kernel;  // its symbol in the PTX
  const void* argument;
  std::int64_t argument_bytes;
  std::uint32_t grid[3];
  std::uint32_t block[3];
  std::int64_t shared_bytes;
  cudaStream_t stream;
};

using Record = void (*)(const Launch*);

Record record = nullptr;
std::int64_t argument_bytes = 0;  // of the kernels that are launched

// The kernels' symbols by the host functions that stand for them. Filled before this file's own
// variables are made, hence within a function.
std::map<const void*, const char*>& symbols() {
  static std::map<const void*, const char*> known;
  return known;
}

const Form* find_form(const char* name) {
  for (const Form& form : kForms) {
    if (std::strcmp(form.name, name) == 0) return &form;
  }
  return nullptr;
}

}  // namespace

// What the compiler calls when the library is loaded, and from code that is not reached: the
// kernels' own host functions, by which <<<>>> would launch.
extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* function, char*, const char* symbol, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  symbols()[function] = symbol;
}

unsigned __cudaPushCallConfiguration(dim3, dim3, std::size_t, void*) { std::abort(); }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { std::abort(); }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { std::abort(); }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) {
  std::abort();
}

}  // extern "C"

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = kMultiprocessors;
  return attribute == cudaDevAttrMultiProcessorCount ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int,
                                                          std::size_t) {
  *blocks = kBlocks;
  return symbols().count(kernel) ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             std::size_t shared_bytes, cudaStream_t stream) {
  const auto found = symbols().find(kernel);
  if (found == symbols().end()) return cudaErrorInvalidDeviceFunction;
  const Launch launch = {found->second,
                         arguments[0],
                         argument_bytes,
                         {grid.x, grid.y, grid.z},
                         {block.x, block.y, block.z},
                         static_cast<std::int64_t>(shared_bytes),
                         stream};
  record(&launch);
  return cudaSuccess;
}

namespace ropeexport {

// Of a launch_*.cu that was left out, because a test needs another one's kernels alone.
#define ROPEEXPORT_LEFT_OUT(enqueue)                                                           \
  __attribute__((weak)) cudaError_t enqueue(const Form&, const ApplyRopeParams&, cudaStream_t, \
                                            const Tuning&) noexcept {                          \
    return cudaErrorSymbolNotFound;                                                            \
  }
#define ROPEEXPORT_NORM_LEFT_OUT(enqueue)                                        \
  __attribute__((weak)) cudaError_t enqueue(const NormRopeParams&, cudaStream_t, \
                                            const Tuning&) noexcept {            \
    return cudaErrorSymbolNotFound;                                              \
  }
ROPEEXPORT_NORM_LEFT_OUT(enqueue_norm_matrices)
ROPEEXPORT_NORM_LEFT_OUT(enqueue_norm_neighbours)
ROPEEXPORT_NORM_LEFT_OUT(enqueue_norm_halves)
ROPEEXPORT_LEFT_OUT(enqueue_matrices)
ROPEEXPORT_LEFT_OUT(enqueue_neighbours)
ROPEEXPORT_LEFT_OUT(enqueue_halves)

}  // namespace ropeexport

// Enqueue as the plugin does, by the form's name. Without `tuning` it is the product's own.
extern "C" __attribute__((visibility("default"))) int ropeexport_record_launches(
    const char* form_name, const ApplyRopeParams* params, const Tuning* tuning, cudaStream_t stream,
    Record to) {
  const Form* form = find_form(form_name);
  if (form == nullptr) return cudaErrorInvalidValue;
  record = to;
  argument_bytes = sizeof(Work);
  return tuning ? enqueue_rope(*form, *params, stream, *tuning)
                : enqueue_rope(*form, *params, stream);
}

extern "C" __attribute__((visibility("default"))) int ropeexport_record_norm_launches(
    const char* form_name, const NormRopeParams* params, const Tuning* tuning, cudaStream_t stream,
    Record to) {
  const Form* form = find_form(form_name);
  if (form == nullptr) return cudaErrorInvalidValue;
  record = to;
  argument_bytes = sizeof(NormWork);
  return tuning ? enqueue_norm_rope(*form, *params, stream, *tuning)
                : enqueue_norm_rope(*form, *params, stream);
}
