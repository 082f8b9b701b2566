#include "registry.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "generation.h"
#include "identity.h"
#include "log.h"

namespace ropeexport {
namespace {

using nvinfer1::IPluginCreatorInterface;
using Severity = nvinfer1::ILogger::Severity;

bool equal(const char* a, const char* b) noexcept { return a && std::strcmp(a, b) == 0; }

// Of a name, and of our version and namespace; creators of another generation are of another class.
bool is_ours(const IPluginCreatorInterface& creator, const char* name) noexcept {
  if (!equal(creator.getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE")) return false;
  const auto& known = static_cast<const nvinfer1::IPluginCreatorV3One&>(creator);
  return equal(known.getPluginName(), name) && equal(known.getPluginVersion(), kPluginVersion) &&
         equal(known.getPluginNamespace(), kPluginNamespace);
}

struct Registry {
  void* object = nullptr;
  const Generation* generation = nullptr;

  // Not getCreator, which logs an error where there is none.
  bool has_creator(const char* name) const noexcept {
    std::int32_t count = 0;
    auto* const* const creators = call<IPluginCreatorInterface* const*>(
        object, generation->registry_get_all_creators, &count);
    for (std::int32_t i = 0; creators && i < count; ++i) {
      if (is_ours(*creators[i], name)) return true;
    }
    return false;
  }
  bool add(IPluginCreatorInterface* creator) const noexcept {
    return call<bool>(object, generation->registry_register_creator, creator, kPluginNamespace);
  }
  void remove(IPluginCreatorInterface* creator) const noexcept {
    call<bool>(object, generation->registry_deregister_creator, creator);
  }
};

// The registry of a library of TensorRT's, none where it has none or is of an unknown generation.
Registry registry_of(void* library) noexcept {
  const auto get = reinterpret_cast<void* (*)()>(dlsym(library, "getPluginRegistry"));
  if (!get) return {};
  const Generation* const generation = generation_of_library(library);
  if (!generation) {
    log(Severity::kWARNING,
        "this TensorRT is of an unknown generation: load the library with "
        "IPluginRegistry::loadLibrary");
    return {};
  }
  return {get(), generation};
}

constexpr const char* kLibraries[] = {
    "libnvinfer.so.10",     "libnvinfer_lean.so.10", "libnvinfer_dispatch.so.10",
    "libnvinfer.so.11",     "libnvinfer_lean.so.11", "libnvinfer_dispatch.so.11",
    "libtensorrt_rtx.so.1",
};
constexpr int kMost = 1 + sizeof(kLibraries) / sizeof(kLibraries[0]);

// What register_everywhere registered, and where. Loading libraries is serial, by the loader.
struct Registration {
  Registry registry;
  IPluginCreatorInterface* creator = nullptr;
};
Registration registered[kMost * kFormCount];
int registered_count = 0;
void* held = nullptr;  // a reference to this library

void add_to(void* library, const Creators& creators) noexcept {
  const Registry registry = registry_of(library);
  if (!registry.object) return;
  for (int i = 0; i < kFormCount; ++i) {
    if (!registry.has_creator(kForms[i].name) && registry.add(creators[i])) {
      registered[registered_count++] = {registry, creators[i]};
    }
  }
}

// A registry that knows the creator must never see it unloaded.
void* hold_this_library() noexcept {
  Dl_info self;
  if (!dladdr(&registered, &self)) return nullptr;
  return dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

}  // namespace

void register_everywhere(const Creators& creators) noexcept {
  add_to(RTLD_DEFAULT, creators);
  for (const char* const name : kLibraries) {
    // only a library that is loaded already; held from now on, so that it outlives this one
    void* const library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (library) add_to(library, creators);
  }
  if (registered_count > 0) held = hold_this_library();
}

void deregister_everywhere() noexcept {
  while (registered_count > 0) {
    const Registration& last = registered[--registered_count];
    last.registry.remove(last.creator);
  }
  if (held) dlclose(std::exchange(held, nullptr));
}

}  // namespace ropeexport
