// How the library is found: the two functions that IPluginRegistry::loadLibrary calls, and
// registration by itself for whoever loads it with plain dlopen.
#include <NvInferRuntime.h>

#include "creator.h"
#include "log.h"
#include "registry.h"

namespace {

__attribute__((constructor)) void register_when_loaded() {
  ropeexport::register_everywhere(ropeexport::creators());
}

}  // namespace

#define ROPEEXPORT_EXPORT extern "C" __attribute__((visibility("default")))

// loadLibrary registers what this returns, and refuses a creator that is registered already: from
// here on the registration is its own.
ROPEEXPORT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) noexcept {
  ropeexport::deregister_everywhere();
  count = ropeexport::kFormCount;
  return ropeexport::creators().data();
}

ROPEEXPORT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  ropeexport::set_logger_finder(finder);
}
