"""Where things live: rooms by data flow, small, documented, quick to enter."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rrvqlib

ROOT = Path(rrvqlib.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "rrvqlib."))
MODULES = [m for m in MODULES if not m.endswith("__main__")]
# What may be imported at the top of a module of each floor: itself and the floors before it.
FLOORS = (
    {"errors", "lazy", "files", "numerics", "paper", "words"},
    {"data"},
    {"settings"},
    {"nets"},
    {"latents"},
    {"likelihoods"},
    {"objectives"},
    {"models"},
    {"runs"},
    {"optimisation", "coding", "teaching"},
    {"cli", "remedies"},
    {"train", "evaluate", "sample", "reconstruct", "diagnose", "compress"},
)
PACKAGES = sorted(m.name for m in pkgutil.iter_modules([str(ROOT)]) if m.ispkg)
WITHOUT_TORCH = ["rrvqlib", "rrvqlib.settings.run", "rrvqlib.runs.named", "rrvqlib.train"]
TABLES = {"paper.py", "named.py"}


def floor(module):
    name = module.split(".")[1]
    return next(height for height, names in enumerate(FLOORS) if name in names)


def imported(module):
    """The modules of the library that a module imports at its top, type checking apart."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rrvqlib."):
            yield node.module
        if isinstance(node, ast.ImportFrom) and node.module == "rrvqlib":
            yield from (f"rrvqlib.{name.name}" for name in node.names if name.name[0] != "_")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for other in imported(module):
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_no_module_imports_itself_by_a_detour():
    graph = {module: set(imported(module)) & set(MODULES) for module in MODULES}
    while leaves := {m for m, others in graph.items() if not others & graph.keys()}:
        graph = {m: others for m, others in graph.items() if m not in leaves}
    assert not graph


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_is_over_300_lines_that_is_not_a_table(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300 or path.name in TABLES


@pytest.mark.parametrize("module", MODULES)
def test_every_public_class_function_and_method_has_a_docstring(module):
    found = importlib.import_module(module)
    assert found.__doc__
    for name, thing in vars(found).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module:
            continue
        if inspect.isclass(thing):
            assert thing.__doc__, name
            for attribute, value in vars(thing).items():
                is_method = inspect.isfunction(value) or isinstance(value, (property, classmethod))
                if is_method and not attribute.startswith("_"):
                    assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"
        elif inspect.isfunction(thing):
            assert thing.__doc__, name


@pytest.mark.parametrize(
    "package", sorted(m.name for m in pkgutil.iter_modules([str(ROOT)]) if m.ispkg)
)
def test_what_a_package_offers_is_there(package):
    found = importlib.import_module(f"rrvqlib.{package}")
    for name in dir(found):
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        found.no_such_name  # noqa: B018


def test_a_package_cannot_offer_a_name_that_one_of_its_modules_hides():
    from rrvqlib.lazy import offer

    with pytest.raises(ValueError, match="modules of these names"):
        offer("rrvqlib.models", build="build")


@pytest.mark.parametrize(
    "module", ["rrvqlib", "rrvqlib.settings.run", "rrvqlib.runs.named", "rrvqlib.train"]
)
def test_torch_is_not_imported_where_it_is_not_used(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_code_asks_for_a_kind_of_latents_by_its_name():
    """A new kind is a file, a class of settings and a line of the registry."""
    asks = re.compile(r"latent\.kind (==|!=|in|not in) ")
    for path in ROOT.rglob("*.py"):
        assert not asks.search(path.read_text(encoding="utf-8")), path


def rrvq(*words):
    return subprocess.run(
        [sys.executable, "-m", "rrvqlib", *words], capture_output=True, text=True, check=False
    )


def test_one_command_calls_the_six():
    done = rrvq("--help")
    assert done.returncode == 0 and all(
        verb in done.stdout
        for verb in ("train", "evaluate", "sample", "reconstruct", "diagnose", "compress")
    )
    assert rrvq("--version").stdout == f"rrvqlib {rrvqlib.__version__}\n"
    assert "--codebook_size" in rrvq("train", "--help").stdout


def test_an_unknown_verb_is_refused_in_a_line():
    done = rrvq("trian")
    assert done.returncode == 2
    assert "error: there is no command 'trian'" in done.stderr
    assert "Traceback" not in done.stderr
