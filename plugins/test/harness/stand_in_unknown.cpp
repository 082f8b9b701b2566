// A library of a version that does not exist yet. Nobody knows where the functions of its classes
// are: each place of a table ends the process.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "stand_in.h"

namespace {

void crash() {
  std::fprintf(stderr, "a function was called by a layout that is not known\n");
  std::abort();
}

using Function = void (*)();
constexpr Function kTable[] = {crash, crash, crash, crash, crash, crash, crash, crash,
                               crash, crash, crash, crash, crash, crash, crash, crash,
                               crash, crash, crash, crash, crash, crash, crash, crash};

struct Object {
  const Function* table = kTable;
};
Object object;

}  // namespace

extern "C" std::int32_t getInferLibMajorVersion() { return 12; }
extern "C" std::int32_t getInferLibMinorVersion() { return 3; }
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  return reinterpret_cast<nvinfer1::IPluginRegistry*>(&object);
}

extern "C" nvinfer1::ILoggerFinder* stand_in_finder(nvinfer1::ILogger*) {
  return reinterpret_cast<nvinfer1::ILoggerFinder*>(&object);
}
