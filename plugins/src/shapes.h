// What the tensors of a rotary op must look like beside one another.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "form.h"
#include "parameters.h"

namespace ropeexport {

// Of the largest form: q, k, cos, sin and the scales of q and k.
constexpr std::int32_t kMostInputs = 6;

// Say whether the counts are those of the form; log what is wrong.
bool check_counts(const Form& form, std::int32_t inputs, std::int32_t outputs) noexcept;

// A tensor's shape with its heads before its length, (B, H, L, D), however it comes.
nvinfer1::Dims heads_first(const Parameters& parameters, const nvinfer1::Dims& given) noexcept;

// Say whether the inputs' shapes agree: q (B, Hq, L, D), k (B, Hk, L, D), each with its heads first
// or not, pe (B or 1, H or 1, L, D/2, 2, 2) or cos and sin (B or 1, L, P), scales (D,) or (H, D).
// -1 is a size that is not known yet and agrees with any.
bool check_shapes(const Form& form, const Parameters& parameters,
                  const nvinfer1::Dims* inputs) noexcept;

// Say whether the data are of one type that the kernel has, the coefficients float32, and the
// scales of either.
bool check_types(const Form& form, const nvinfer1::DataType* inputs) noexcept;

bool is_data_type(nvinfer1::DataType type) noexcept;

// Whether a scale may be of a type beside data of another.
bool is_scale_type(nvinfer1::DataType type, nvinfer1::DataType data) noexcept;

}  // namespace ropeexport
