#include "launch.h"  // the plugin's: its objects are linked

#include "form.h"
#include "kernel.h"

using namespace ropeexport;

namespace {

// The plugin's form of one that is measured; null for an unknown number.
const Form* form_of(std::int32_t number) {
  static constexpr Form kMeasured[] = {
      {"matrices", false, false, false, 2, false},
      {"tables", true, false, false, 2, false},
      {"tables, halves", true, true, false, 2, false},
  };
  switch (number) {
    case bench::kMatrices:
      return &kMeasured[0];
    case bench::kTables:
      return &kMeasured[1];
    case bench::kTablesHalf:
      return &kMeasured[2];
    default:
      return nullptr;
  }
}

}  // namespace

extern "C" int ropeexport_launch(const ApplyRopeParams* params, const Tuning* tuning,
                                 std::int32_t number, cudaStream_t stream) {
  const Form* const form = form_of(number);
  return form ? enqueue_rope(*form, *params, stream, *tuning) : cudaErrorInvalidValue;
}

extern "C" int ropeexport_launch_norm(const NormRopeParams* params, const Tuning* tuning,
                                      std::int32_t number, cudaStream_t stream) {
  const Form* const form = form_of(number);
  return form ? enqueue_norm_rope(*form, *params, stream, *tuning) : cudaErrorInvalidValue;
}

extern "C" const char* ropeexport_error_text(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

extern "C" std::int64_t ropeexport_params_bytes() { return sizeof(ApplyRopeParams); }

extern "C" std::int64_t ropeexport_norm_params_bytes() { return sizeof(NormRopeParams); }
