// Which TensorRT this library met: its binary interfaces changed from 10 to 11.
//
// What TensorRT calls of a plugin (IPluginV3, its capabilities, its creator) is the same in both.
// What a plugin calls of TensorRT is not: TensorRT 11 removed functions from IPluginRegistry and
// put two before those of ILogger and ILoggerFinder. TensorRT-RTX, from 1.7 at the latest, is
// like 11. So a call goes through the place of a function in its class's table, by the generation
// that is found at run time, and one library serves all of them, whichever headers it was compiled
// with.
#pragma once

namespace ropeexport {

// Places in the tables: those of C++ on Linux, declaration order, two for a destructor. Source:
// NvInferRuntime.h and NvInferRuntimeCommon.h of TensorRT 10.14 and 11.1.
struct Generation {
  int registry_register_creator;
  int registry_get_all_creators;
  int registry_deregister_creator;
  int finder_find_logger;
  int logger_log;
};

// The generation of a library of TensorRT's by its handle; null where it is none, or one that is
// not known.
const Generation* generation_of_library(void* library) noexcept;

// The generation of the library that an object's class is from; null as above. There is no guess: a
// call through the wrong place of a table ends the process.
const Generation* generation_of_object(const void* object) noexcept;

// Call the function at a place of an object's table.
template <typename Result, typename... Arguments>
Result call(const void* object, int place, Arguments... arguments) noexcept {
  using Function = Result (*)(const void*, Arguments...);
  void* const* const table = *static_cast<void* const* const*>(object);
  return reinterpret_cast<Function>(table[place])(object, arguments...);
}

}  // namespace ropeexport
