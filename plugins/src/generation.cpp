#include "generation.h"

#include <dlfcn.h>

#include <cstdint>

namespace ropeexport {
namespace {

constexpr Generation k10{12, 13, 15, 0, 0};
constexpr Generation k11{8, 9, 11, 4, 4};

// TensorRT-RTX counts its versions on its own; 1.7 is the first that this was tried with.
const Generation* generation_of(std::int32_t major, std::int32_t minor) noexcept {
  if (major == 10) return &k10;
  if (major == 11 || (major == 1 && minor >= 7)) return &k11;
  return nullptr;
}

}  // namespace

const Generation* generation_of_library(void* library) noexcept {
  using GetNumber = std::int32_t (*)();
  const auto major = reinterpret_cast<GetNumber>(dlsym(library, "getInferLibMajorVersion"));
  const auto minor = reinterpret_cast<GetNumber>(dlsym(library, "getInferLibMinorVersion"));
  return major && minor ? generation_of(major(), minor()) : nullptr;
}

const Generation* generation_of_object(const void* object) noexcept {
  Dl_info origin;
  if (!dladdr(*static_cast<const void* const*>(object), &origin)) return nullptr;
  void* const library = dlopen(origin.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return nullptr;
  const Generation* const known = generation_of_library(library);
  dlclose(library);
  return known;
}

}  // namespace ropeexport
