"""Wings know only the wings above them, and nothing but the command line knows the study."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import xir_lib

PACKAGE = Path(__file__).resolve().parents[1] / "xir_lib"
WINGS = [  # from the ground up: each may import what stands before it
    *("errors", "paths", "record", "metrics", "data", "samplers"),
    *("encoders", "options", "repair", "training", "evaluation", "study", "cli"),
]
OUTSIDE = {"__init__", "__main__"}
KEPT = {
    "corpora",
    "evaluator",
    "training_data",
    "losses",
}  # old names in README's examples, for one release


def wing_of(module: str) -> str:
    """Return the wing of a module's dotted name behind `xir_lib`."""
    return module.split(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import of the package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xir_lib"):
            name = node.module.removeprefix("xir_lib").removeprefix(".")
            yield from ((node.lineno, name or alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            known = (a.name for a in node.names if a.name.startswith("xir_lib."))
            yield from ((node.lineno, name.removeprefix("xir_lib.")) for name in known)


OLD = {  # what README's examples imported in the last release: old module, name, new module
    ("evaluator", "MultilingualRetrievalEvaluator", "evaluation.evaluator"),
    ("study", "load_task", "data.tasks"),
    ("corpora.pairs", "from_dataset", "data.readers"),
    ("samplers", "PairIndex", "samplers.index"),
    ("samplers", "StrategyBatchSampler", "samplers.strategies"),
    ("training_data", "PairDataset", "samplers.dataset"),
    ("training_data", "batch_sampler_factory", "samplers.dataset"),
    ("losses", "ParallelQueryLoss", "training.loss"),
}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_every_module_is_in_a_wing() -> None:
    found = {wing_of(name.removesuffix(".py").replace("/", ".")) for name in MODULES}
    assert found - OUTSIDE - KEPT == set(WINGS)


@pytest.mark.parametrize("name", [name for name in MODULES if Path(name).stem not in OUTSIDE])
def test_a_module_imports_its_own_wing_and_those_above_it_alone(name: str) -> None:
    wing = wing_of(name.removesuffix(".py").replace("/", "."))
    if wing in KEPT:
        return
    above = WINGS[: WINGS.index(wing) + 1]
    wrong = [
        (line, module) for line, module in imports(PACKAGE / name) if wing_of(module) not in above
    ]
    assert not wrong


def test_the_check_sees_an_import_upwards(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from xir_lib.study import profile\n    import xir_lib.cli\n")
    assert sorted(imports(path)) == [(2, "study"), (3, "cli")]


@pytest.mark.parametrize(("old", "name", "new"), sorted(OLD))
def test_names_of_the_last_release_still_import(old: str, name: str, new: str) -> None:
    modules = [import_module(f"xir_lib.{module}") for module in (old, new)]
    assert getattr(modules[0], name) is getattr(modules[1], name)


@pytest.mark.parametrize(("name", "module"), sorted(xir_lib.EXPORTS.items()))
def test_the_package_gives_what_the_readme_uses(name: str, module: str) -> None:
    assert getattr(xir_lib, name) is getattr(import_module(f"xir_lib.{module}"), name)
    assert name in dir(xir_lib)
