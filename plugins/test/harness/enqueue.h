#pragma once

#include <string>

#include "report.h"

namespace harness {

// Run every case of a folder on the GPU through the plugin's runtime capability, each three ways:
// on one stream, on several streams at once, and captured in a CUDA graph that is launched twice.
// The outputs must equal the case's files bit for bit, NaN any NaN, and nothing around them may
// have been written.
//
// FOLDER/cases.txt has a line a case:
//   NAME TYPE B Hq Hk L D Bp Hp OFFSET
// TYPE is float32, float16 or bfloat16; OFFSET is by how many elements the data, and by how many
// floats pe, lie beside an aligned address. The arrays are NAME.q, NAME.k, NAME.pe, NAME.q_out and
// NAME.k_out, raw and dense.
void enqueue_cases(const std::string& library, const std::string& folder, Report& report);

}  // namespace harness
