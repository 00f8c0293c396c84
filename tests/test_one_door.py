"""Nothing in the sources can run what a file says, but one module that reads pickles safely."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOOR = Path("medseg/io/pickled.py")
# It reads back the archive that it wrote a moment ago, under a name of its own.
WRITER = Path("medseg/export/torch_export.py")
SOURCES = sorted(path for folder in ("medseg", "kernels") for path in (ROOT / folder).rglob("*.py"))

MODULES = {
    *("pickle", "cPickle", "_pickle", "pickletools", "marshal", "shelve", "copyreg"),
    *("dill", "cloudpickle", "joblib", "jsonpickle"),
}
CALLS = {
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url"),
    *("torch.package.PackageImporter", "torch.serialization.load", "torch.export.load"),
    *("torch.distributed.checkpoint.load", "torch.classes.load_library"),
    *("torch.utils.model_zoo.load_url", "pandas.read_pickle", "numpy.fromregex"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all"),
    *("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.Loader", "yaml.UnsafeLoader"),
    *("yaml.FullLoader", "runpy.run_path", "runpy.run_module", "code.interact"),
    *("ctypes.CDLL.LoadLibrary", "importlib.util.spec_from_file_location"),
    *("os.system", "os.popen", "torch.serialization.add_safe_globals"),
    *("torch.serialization.safe_globals", "zipimport.zipimporter"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"load_from_checkpoint"}


def offenses(text: str) -> list[str]:
    """What in a source could run what a file says, each as "line: what"."""
    tree = ast.parse(text)
    names = dict(_imported(tree))
    found = [
        f"{node.lineno}: {what}"
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.stmt)
        for what in _of(node, names)
    ]
    return sorted(set(found))


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each imported name and what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _of(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    else:
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    yield from (module for module in modules if module.partition(".")[0] in MODULES)
    if isinstance(node, ast.Attribute | ast.Name):
        full = _full_name(node, names)
        if full in CALLS or full.partition(".")[0] in MODULES & set(names.values()):
            yield full
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        if full.startswith("builtins.") and full.partition(".")[2] in BUILTINS:
            yield full
    if isinstance(node, ast.Call):
        yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        yield call.func.attr
    for keyword in call.keywords:
        is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg == "allow_pickle" and not is_false:
            yield "allow_pickle"
        if keyword.arg == "weights_only" and not is_true:
            yield "weights_only"
        if keyword.arg == "shell" and not is_false:
            yield "shell"


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    full = ".".join([names.get(node.id, node.id), *reversed(parts)])
    return full.replace("numpy.lib.npyio.", "numpy.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_runs_nothing_that_a_file_says(path: Path) -> None:
    found = offenses(path.read_text(encoding="utf-8"))
    if path.relative_to(ROOT) == DOOR:
        found = [offense for offense in found if "torch.load" not in offense]
        assert _named(found) <= {
            "pickle",
            "pickle.UnpicklingError",
            # Numbers of numpy alone, which nnU-Net's checkpoints hold.
            "torch.serialization.safe_globals",
        }
        return
    if path.relative_to(ROOT) == WRITER:
        assert _named(found) == {"torch.export.load"}
        return
    assert found == []


def _named(found: list[str]) -> set[str]:
    return {offense.partition(": ")[2] for offense in found}


def test_every_source_was_looked_at_and_the_door_is_one_of_them() -> None:
    assert len(SOURCES) > 100
    assert ROOT / DOOR in SOURCES
    assert "weights_only=True" in (ROOT / DOOR).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nt.load('x')",
        "from torch import load\nload('x')",
        "from torch import load as read\nread('x')",
        "import torch\nread = torch.load",
        "import torch.serialization\ntorch.serialization.load('x')",
        "import pickle",
        "from pickle import loads",
        "import pickle as p\np.loads(b'')",
        "def f():\n    import joblib",
        "from joblib import load",
        "import marshal",
        "import shelve",
        "eval('1')",
        "exec('1')",
        "f = eval",
        "import builtins\nbuiltins.exec('1')",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load\nunsafe_load('')",
        "import yaml\nclass L(yaml.UnsafeLoader): ...",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "Model.load_from_checkpoint('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import os\nos.system('x')",
    ],
)
def test_each_way_in_is_found(text: str) -> None:
    assert offenses(text)


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import numpy as np\nnp.load('x', mmap_mode='r', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "import json\njson.loads('x')",
        "from safetensors.torch import load_file\nload_file('x')",
        "model.load_state_dict(state)",
        "import torch\ntorch.compile(model)",
    ],
)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert offenses(text) == []
