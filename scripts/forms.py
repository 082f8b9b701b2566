"""The plugin's list of forms, of the table in ropeexport/ops/forms.py.

``python scripts/forms.py > plugins/src/forms.h`` after a change of that table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ropeexport.ops.forms import PLUGIN_FORMS

HEAD = """\
// Made by scripts/forms.py of the table in ropeexport/ops/forms.py; do not edit.
#pragma once

#include "form.h"

namespace ropeexport {

constexpr Form kForms[] = {
"""
TAIL = """\
};
constexpr int kFormCount = sizeof(kForms) / sizeof(kForms[0]);

}  // namespace ropeexport
"""


def rows() -> str:
    """Return a row of C++ for each form: its name's end, and what ``Form`` asks."""
    lines = []
    for form in PLUGIN_FORMS.values():
        end = f' "{form.suffix}"' if form.suffix else ""
        partial, normed = (str(flag).lower() for flag in (form.partial, form.normed))
        tensors = f"{form.coefficients.plugin}, {form.pairs.plugin}, {partial}, {form.tensors}"
        name = "ROPEEXPORT_NORM_PLUGIN_NAME" if form.normed else "ROPEEXPORT_PLUGIN_NAME"
        lines.append(f"    {{{name}{end}, {tensors}, {normed}}},\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(HEAD + rows() + TAIL)
