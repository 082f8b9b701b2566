// A library of the version of the headers.
#include "stand_in.h"

#include <cstdint>

namespace {

struct Finder final : nvinfer1::ILoggerFinder {
  nvinfer1::ILogger* findLogger() override { return logger; }
  nvinfer1::ILogger* logger = nullptr;
};

Finder finder;

}  // namespace

extern "C" std::int32_t getInferLibMajorVersion() { return NV_TENSORRT_MAJOR; }
extern "C" std::int32_t getInferLibMinorVersion() { return NV_TENSORRT_MINOR; }

extern "C" nvinfer1::ILoggerFinder* stand_in_finder(nvinfer1::ILogger* logger) {
  finder.logger = logger;
  return &finder;
}
