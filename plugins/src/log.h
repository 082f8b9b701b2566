// Messages to TensorRT's logger, or to standard error where TensorRT gave none
// or is of an unknown generation.
#pragma once

#include <NvInferRuntime.h>

namespace ropeexport {

// Ask this for a logger from now on; null: standard error.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Never allocates, so that it can report anything; a message is cut at 512 bytes.
void log(nvinfer1::ILogger::Severity severity, const char* format, ...) noexcept
    __attribute__((format(printf, 2, 3)));

// Log an error and return false, the answer of every refusal.
bool refuse(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));

}  // namespace ropeexport
