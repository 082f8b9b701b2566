// The forms of the rotary op, a plugin each. ropeexport/onnx_ops/forms.py makes the same names.
#pragma once

#include <cstdint>

#include "identity.h"

namespace ropeexport {

struct Form {
  const char* name;
  bool tables;   // cos and sin (B or 1, L, P), rotations; else pe, general 2x2 matrices
  bool halves;   // pairs of elements i and i + P; else of neighbours
  bool partial;  // 2P may be less than D: the first 2P elements are rotated, the rest passes
  std::int32_t rotated;  // tensors: 2, q and k, or 1

  constexpr std::int32_t inputs() const { return rotated + (tables ? 2 : 1); }
  constexpr std::int32_t outputs() const { return rotated; }
  // Where the coefficients begin among the inputs.
  constexpr std::int32_t coefficients() const { return rotated; }
};

constexpr Form kForms[] = {
    {ROPEEXPORT_PLUGIN_NAME, false, false, false, 2},
    {ROPEEXPORT_PLUGIN_NAME "Single", false, false, false, 1},
    {ROPEEXPORT_PLUGIN_NAME "Half", false, true, false, 2},
    {ROPEEXPORT_PLUGIN_NAME "HalfSingle", false, true, false, 1},
    {ROPEEXPORT_PLUGIN_NAME "CosSin", true, false, false, 2},
    {ROPEEXPORT_PLUGIN_NAME "CosSinSingle", true, false, false, 1},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalf", true, true, false, 2},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfSingle", true, true, false, 1},
    {ROPEEXPORT_PLUGIN_NAME "CosSinPartial", true, false, true, 2},
    {ROPEEXPORT_PLUGIN_NAME "CosSinPartialSingle", true, false, true, 1},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfPartial", true, true, true, 2},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfPartialSingle", true, true, true, 1},
};
constexpr int kFormCount = sizeof(kForms) / sizeof(kForms[0]);

}  // namespace ropeexport
