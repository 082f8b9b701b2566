// What q, k and pe must look like beside one another.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

namespace ropeexport {

constexpr std::int32_t kInputs = 3;  // q (B, Hq, L, D), k (B, Hk, L, D), pe (Bp, Hp, L, D/2, 2, 2)
constexpr std::int32_t kOutputs = 2;

// Say whether the counts are those of the op; log what is wrong.
bool check_counts(std::int32_t inputs, std::int32_t outputs) noexcept;

// Say whether shapes agree; -1 stands for a size that is not known yet and agrees with any.
bool check_shapes(const nvinfer1::Dims& q, const nvinfer1::Dims& k,
                  const nvinfer1::Dims& pe) noexcept;

// Say whether q and k are of one type that the kernel has, and pe is float32.
bool check_types(nvinfer1::DataType q, nvinfer1::DataType k, nvinfer1::DataType pe) noexcept;

bool is_data_type(nvinfer1::DataType type) noexcept;

}  // namespace ropeexport
