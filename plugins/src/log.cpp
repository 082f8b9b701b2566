#include "log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

#include "generation.h"

namespace ropeexport {
namespace {

using Severity = nvinfer1::ILogger::Severity;

constexpr char kPrefix[] = "ropeexport plugin: ";
constexpr std::size_t kPrefixLength = sizeof(kPrefix) - 1;

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

// The finder is TensorRT's own; its logger is the user's, compiled for the same TensorRT. One of an
// unknown generation cannot be asked.
bool write_to_logger(Severity severity, const char* message) noexcept {
  nvinfer1::ILoggerFinder* const known = finder.load();
  if (!known) return false;
  const Generation* const generation = generation_of_object(known);
  if (!generation) return false;
  auto* const logger = call<nvinfer1::ILogger*>(known, generation->finder_find_logger);
  if (logger) call<void>(logger, generation->logger_log, severity, message);
  return logger != nullptr;
}

void write(Severity severity, const char* format, std::va_list arguments) noexcept {
  char message[512];
  std::snprintf(message, sizeof(message), "%s", kPrefix);
  std::vsnprintf(message + kPrefixLength, sizeof(message) - kPrefixLength, format, arguments);
  if (!write_to_logger(severity, message) && severity <= Severity::kWARNING) {
    std::fprintf(stderr, "%s\n", message);
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* new_finder) noexcept { finder = new_finder; }

void log(Severity severity, const char* format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  write(severity, format, arguments);
  va_end(arguments);
}

bool refuse(const char* format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  write(Severity::kERROR, format, arguments);
  va_end(arguments);
  return false;
}

}  // namespace ropeexport
