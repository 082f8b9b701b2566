"""What `make mutation` does to a source, and that its configuration is of files that exist."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from types import ModuleType

import pytest
from command_line import ROOT

CONFIG = tomllib.loads((ROOT / "scripts" / "mutation.toml").read_text())


@pytest.fixture(scope="module")
def mutation() -> ModuleType:
    pytest.importorskip("cosmic_ray", reason="needs cosmic-ray: pip install 'ropeexport[dev]'")
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "scripts" / "mutation.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation"] = module
    spec.loader.exec_module(module)
    return module


def test_modules_and_tests_are_there_and_no_module_of_fusion_is_left_out() -> None:
    modules = [module for group in CONFIG["groups"] for module in group["modules"]]
    tests = [test.partition("::")[0] for group in CONFIG["groups"] for test in group["tests"]]
    assert all((ROOT / path).is_file() for path in (*modules, *tests))
    fusion = {str(path.relative_to(ROOT)) for path in (ROOT / "ropeexport/fusion").glob("*.py")}
    assert fusion - set(modules) == {"ropeexport/fusion/__init__.py"}
    assert len(modules) == len(set(modules))


@pytest.mark.parametrize("name", ["GuardOff", "OneChoice"])
def test_operators_do_what_their_examples_say(mutation, name: str) -> None:
    from cosmic_ray.mutating import mutate_code

    kind = getattr(mutation, name)
    for example in kind.examples():
        code = example.pre_mutation_code
        assert mutate_code(code, kind(), example.occurrence) == example.post_mutation_code


def test_every_guard_is_tried_and_a_seed_draws_the_same_others(mutation, tmp_path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from __future__ import annotations\n"
        "def f(x: int | None) -> int | None:\n"
        "    if x == 1:\n        return 2\n"
        "    if x == 3:\n        x = 4\n"
        "    elif x:\n        raise ValueError\n"
        "    return x + 1 if x > 2 else x - 1\n"
    )
    mutants = list(mutation.mutants_of(path, 0))
    drawn = mutation.drawn(mutants, 5, seed=1)
    guards = [m.lines for m in drawn if m.operator == mutation.GUARD]
    assert guards == [("if x == 1:", "if False:"), ("elif x:", "elif False:")]
    others = [m for m in drawn if m.operator != mutation.GUARD]
    assert len(others) == len({m.place for m in others}) == 5
    assert drawn == mutation.drawn(mutants, 5, seed=1)
    assert drawn != mutation.drawn(mutants, 5, seed=2)
    whole = mutation.drawn(mutants, 1000, seed=1)
    assert all(any(m.lines) for m in whole)
    assert not any("->" in m.lines[0] for m in whole)  # an annotation is not evaluated
