"""Which nodes read an initializer, and of which of them a pass has computed the results.

A weight that one place reads no more, because its values went into a constant, cannot be exchanged
there; the initializer in the other places is no whole weight then.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ropeexport.operators import is_standard

# by an initializer's name: a node's name, and what it does
Readers = Mapping[str, Mapping[str, str]]


def readers_of(model: ir.Model) -> Readers:
    """Return what reads each initializer, through Identity: a node's name, and what it does.

    What reads its size alone is none.
    """
    found = {}
    for name, value in model.graph.initializers.items():
        readers = list(value.consumers())
        for node in readers:
            if is_standard(node, "Identity"):
                readers += node.outputs[0].consumers()
        readers = [n for n in readers if not is_standard(n, "Identity", "Shape", "Size")]
        found[name] = {
            str(n.name or n.outputs[0].name): f"{n.op_identifier()} {n.attributes}" for n in readers
        }
    return found


def read_less(former: Readers, now: Readers) -> set[str]:
    """Return the initializers that a place reads no more, where nothing took that place.

    A node that does the same, or one that is new, has taken it: what was merged, or fused.
    """
    found = set()
    for name in former.keys() & now.keys():
        done = now[name].values()
        lost = [node for node, does in former[name].items() if does not in done]
        if lost and now[name].keys() <= former[name].keys():
            found.add(name)
    return found
