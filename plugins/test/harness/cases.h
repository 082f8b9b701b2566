#pragma once

#include <string>
#include <vector>

#include "tensors.h"

namespace harness {

using Bytes = std::vector<unsigned char>;

// A line of cases.txt with its arrays, see enqueue.h.
struct Case {
  std::string name;
  nvinfer1::DataType type;
  Sizes sizes;
  std::size_t offset;  // in elements
  Bytes q, k, pe, q_out, k_out;
};

std::size_t element_bytes(nvinfer1::DataType type);

// Throws Unusable for a folder without cases, a malformed line, an array of another size.
std::vector<Case> read_cases(const std::string& folder);

// How many elements of two arrays of one size differ; NaN equals any NaN.
std::size_t differences(const Bytes& expected, const Bytes& got, nvinfer1::DataType type);

}  // namespace harness
