#include "registry.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "identity.h"
#include "log.h"

namespace ropeexport {
namespace {

using nvinfer1::IPluginCreatorInterface;
using Severity = nvinfer1::ILogger::Severity;

// Where IPluginRegistry's virtual functions lie in its table, which is its binary interface (that
// of C++ on Linux: declaration order, two places for a destructor). TensorRT 11 removed those of
// IPluginV2 before them. Source: NvInferRuntimeCommon.h of TensorRT 10.14 and 11.1.
struct Layout {
  int register_creator;
  int get_all_creators;
  int deregister_creator;
};
constexpr Layout kLayout10{12, 13, 15};
constexpr Layout kLayout11{8, 9, 11};

// TensorRT-RTX counts its versions on its own; 1.7 is the first whose layout is known.
const Layout* layout_of(std::int32_t major, std::int32_t minor) noexcept {
  if (major == 10) return &kLayout10;
  if (major == 11 || (major == 1 && minor >= 7)) return &kLayout11;
  return nullptr;
}

bool equal(const char* a, const char* b) noexcept { return a && std::strcmp(a, b) == 0; }

// Of our name, version and namespace; creators of another generation are of another class.
bool is_ours(const IPluginCreatorInterface& creator) noexcept {
  if (!equal(creator.getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE")) return false;
  const auto& known = static_cast<const nvinfer1::IPluginCreatorV3One&>(creator);
  return equal(known.getPluginName(), kPluginName) &&
         equal(known.getPluginVersion(), kPluginVersion) &&
         equal(known.getPluginNamespace(), kPluginNamespace);
}

struct Registry {
  void* object = nullptr;
  const Layout* layout = nullptr;

  template <typename Result, typename... Arguments>
  Result call(int place, Arguments... arguments) const noexcept {
    using Function = Result (*)(void*, Arguments...);
    void* const* const table = *static_cast<void* const* const*>(object);
    return reinterpret_cast<Function>(table[place])(object, arguments...);
  }
  // Not getCreator, which logs an error where there is none.
  bool has_creator() const noexcept {
    std::int32_t count = 0;
    auto* const* const creators =
        call<IPluginCreatorInterface* const*>(layout->get_all_creators, &count);
    for (std::int32_t i = 0; creators && i < count; ++i) {
      if (is_ours(*creators[i])) return true;
    }
    return false;
  }
  bool add(IPluginCreatorInterface* creator) const noexcept {
    return call<bool>(layout->register_creator, creator, kPluginNamespace);
  }
  void remove(IPluginCreatorInterface* creator) const noexcept {
    call<bool>(layout->deregister_creator, creator);
  }
};

template <typename F>
F function(void* library, const char* name) noexcept {
  return reinterpret_cast<F>(dlsym(library, name));
}

// The registry of a library of TensorRT's, none where it has none or one of another layout.
Registry registry_of(void* library) noexcept {
  const auto registry = function<void* (*)()>(library, "getPluginRegistry");
  const auto major = function<std::int32_t (*)()>(library, "getInferLibMajorVersion");
  const auto minor = function<std::int32_t (*)()>(library, "getInferLibMinorVersion");
  if (!registry || !major || !minor) return {};
  const Layout* const layout = layout_of(major(), minor());
  if (!layout) {
    log(Severity::kWARNING,
        "TensorRT %d.%d has a registry of unknown layout: load this library with "
        "IPluginRegistry::loadLibrary",
        static_cast<int>(major()), static_cast<int>(minor()));
    return {};
  }
  return {registry(), layout};
}

constexpr const char* kLibraries[] = {
    "libnvinfer.so.10",      "libnvinfer.so.11",      "libtensorrt_rtx.so.1",
    "libnvinfer_lean.so.10", "libnvinfer_lean.so.11",
};
constexpr int kMost = 1 + sizeof(kLibraries) / sizeof(kLibraries[0]);

// Where register_everywhere registered. Loading libraries is serial, by the loader.
Registry registered[kMost];
int registered_count = 0;
void* held = nullptr;  // a reference to this library

void add_to(void* library, IPluginCreatorInterface& creator) noexcept {
  const Registry registry = registry_of(library);
  if (registry.object && !registry.has_creator() && registry.add(&creator)) {
    registered[registered_count++] = registry;
  }
}

// A registry that knows the creator must never see it unloaded.
void* hold_this_library() noexcept {
  Dl_info self;
  if (!dladdr(&registered, &self)) return nullptr;
  return dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

}  // namespace

void register_everywhere(IPluginCreatorInterface& creator) noexcept {
  add_to(RTLD_DEFAULT, creator);
  for (const char* const name : kLibraries) {
    // only a library that is loaded already; held from now on, so that it outlives this one
    void* const library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (library) add_to(library, creator);
  }
  if (registered_count > 0) held = hold_this_library();
}

void deregister_everywhere(IPluginCreatorInterface& creator) noexcept {
  while (registered_count > 0) registered[--registered_count].remove(&creator);
  if (held) dlclose(std::exchange(held, nullptr));
}

}  // namespace ropeexport
