#include "log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace ropeexport {
namespace {

using Severity = nvinfer1::ILogger::Severity;

constexpr char kPrefix[] = "ropeexport::ApplyRope: ";
constexpr std::size_t kPrefixLength = sizeof(kPrefix) - 1;

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

void write(Severity severity, const char* format, std::va_list arguments) noexcept {
  char message[512];
  std::snprintf(message, sizeof(message), "%s", kPrefix);
  std::vsnprintf(message + kPrefixLength, sizeof(message) - kPrefixLength, format, arguments);
  nvinfer1::ILoggerFinder* const known = finder.load();
  nvinfer1::ILogger* const logger = known ? known->findLogger() : nullptr;
  if (logger) {
    logger->log(severity, message);
  } else if (severity <= Severity::kWARNING) {
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
