// What the tensors of a rotary op must look like beside one another.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "form.h"

namespace ropeexport {

// Inputs and outputs of the largest form, q, k, cos and sin; q' and k'.
constexpr std::int32_t kMostInputs = 4;

// Say whether the counts are those of the form; log what is wrong.
bool check_counts(const Form& form, std::int32_t inputs, std::int32_t outputs) noexcept;

// Say whether the inputs' shapes agree: q (B, Hq, L, D), k (B, Hk, L, D), pe (B or 1, H or 1, L,
// D/2, 2, 2) or cos and sin (B or 1, L, P). -1 is a size that is not known yet and agrees with any.
bool check_shapes(const Form& form, const nvinfer1::Dims* inputs) noexcept;

// Say whether the data are of one type that the kernel has, and the coefficients float32.
bool check_types(const Form& form, const nvinfer1::DataType* inputs) noexcept;

bool is_data_type(nvinfer1::DataType type) noexcept;

}  // namespace ropeexport
