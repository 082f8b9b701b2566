// TensorRT's global plugin registries, as far as this process has any, found at run time.
//
// A library that needs the symbol getPluginRegistry cannot be loaded where TensorRT's own library
// is not visible to all, as under Python. So it is looked for.
#pragma once

#include "creator.h"

namespace ropeexport {

// Register the creators in every registry of this process that has none of their name. Where one
// took them, this library stays loaded. Nothing is undone when the process ends: TensorRT would
// report it to a logger that may be gone by then.
void register_everywhere(const Creators& creators) noexcept;

// Undo what register_everywhere did; the caller must hold the library.
void deregister_everywhere() noexcept;

}  // namespace ropeexport
