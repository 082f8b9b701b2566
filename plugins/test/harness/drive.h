#pragma once

#include <string>

#include "library.h"
#include "report.h"

namespace harness {

// Check a library through its own interface; nothing is launched, so no GPU is needed.
void drive(const std::string& library, Report& report);

}  // namespace harness
