"""The plugin's list of forms, of the table in ropeexport/onnx_ops/forms.py.

``python scripts/forms.py > plugins/src/forms.h`` after a change of that table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ropeexport.onnx_ops.forms import FORMS
from ropeexport.onnx_ops.names import APPLY_ROPE

HEAD = """\
// Made by scripts/forms.py of the table in ropeexport/onnx_ops/forms.py; do not edit.
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
    for name, form in FORMS.items():
        end = name.removeprefix(APPLY_ROPE)
        text = f'ROPEEXPORT_PLUGIN_NAME "{end}"' if end else "ROPEEXPORT_PLUGIN_NAME"
        facts = (form.tables == "cos_sin", form.pairing == "half", form.partial)
        values = ", ".join(str(fact).lower() for fact in facts)
        lines.append(f"    {{{text}, {values}, {form.tensors}}},\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(HEAD + rows() + TAIL)
