"""Loading rule files: classes, the cache that keeps them, copies and pickles of what they make."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl import cache as cache_files
from optdsl import generated, loading, zoo
from optdsl.frontend.scope import shipped_index

ROOT = Path(__file__).parents[2]
RULE = """\
optimizer Mine(lr = 0.1, beta = 0.5):
    \"\"\"Momentum.\"\"\"
    state m
    m = beta * m + g
    p -= lr * m
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache and nothing loaded from another; what other tests loaded is put back."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPTDSL_CACHE", str(folder))
    cache_files.modules_folder.cache_clear()
    shipped = {name: vars(zoo).pop(name) for name in shipped_index() if name in vars(zoo)}
    before = {name: each for name, each in sys.modules.items() if is_generated(name)}
    forget()
    yield folder
    cache_files.modules_folder.cache_clear()
    forget()
    for name in shipped_index():
        vars(zoo).pop(name, None)
    sys.modules.update(before)
    vars(zoo).update(shipped)


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.opt"
    path.write_text(RULE)
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that were compiled since."""
    names: list[str] = []
    compile_source = loading.compile_source

    def counted(source, *rest):  # type: ignore[no-untyped-def]
        names.append(source.name)
        return compile_source(source, *rest)

    monkeypatch.setattr(loading, "compile_source", counted)
    return names


def is_generated(module: str) -> bool:
    return module.startswith(generated.PREFIX)


def forget() -> None:
    """What another process would not know."""
    for name in [name for name in sys.modules if is_generated(name)]:
        del sys.modules[name]
    importlib.invalidate_caches()


def parameter() -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3))
    p.grad = torch.ones_like(p)
    return p


# ---------------------------------------------------------------- classes


def test_a_class_for_each_rule(rule_file: Path) -> None:
    rules = optdsl.load(rule_file)
    assert (rules.__name__, rules.__file__) == ("mine", str(rule_file))
    assert issubclass(rules.Mine, torch.optim.Optimizer)
    assert rules.__all__ == ["Mine"]
    assert "Momentum." in (rules.Mine.__doc__ or "")
    assert list(inspect.signature(rules.Mine).parameters)[:3] == ["params", "lr", "beta"]
    p = parameter()
    rules.Mine([p], lr=0.5, backend="reference").step()
    assert torch.equal(p, torch.arange(6.0).reshape(2, 3) - 0.5)


def test_the_reference_is_the_interpreter(rule_file: Path) -> None:
    mine = optdsl.load(str(rule_file)).Mine
    p = parameter()
    optimizer = mine([p], lr=1.0, backend="reference")
    optimizer.step()
    optimizer.step()
    assert torch.equal(p, torch.arange(6.0).reshape(2, 3) - 1.0 - 1.5)
    assert isinstance(mine.interpreter, generated.Reference)


def test_compile_text() -> None:
    rules = optdsl.compile_text(RULE.replace("Mine", "Other"))
    assert rules.__name__ == "text"
    assert rules.Other([parameter()]).defaults["beta"] == 0.5
    assert optdsl.compile_text(RULE, name="a/b.opt").__name__ == "b"


@pytest.mark.parametrize("name", ["lambda", "State", "Optimizer", "torch", "div", "None"])
def test_a_rule_of_any_name(name: str) -> None:
    text = f"optimizer {name}(lr = 0.5):\n    require lr > 0\n    p -= lr * (g @ g.T @ g) / t\n"
    rules = optdsl.compile_text(text)
    p = parameter()
    optimizer = getattr(rules, name)([p])
    assert type(optimizer).__name__ in (name, f"{name}_")
    assert getattr(rules, type(optimizer).__name__) is type(optimizer)
    optimizer.step()
    assert float(p.detach()[0, 0]) == -0.5 * 6
    pickle.loads(pickle.dumps(optimizer)).step()


def test_a_wrapper_says_that_it_wants_a_rule() -> None:
    text = RULE + "\nwrapper Twice(inner):\n    step inner\n    p -= 0 * p\n"
    rules = optdsl.compile_text(text)
    assert rules.__all__ == ["Mine", "Twice"]
    with pytest.raises(TypeError, match=r"Twice wraps a rule: write `optimizer NAME = Twice\("):
        rules.Twice([parameter()])


def test_a_wrong_file_says_where(rule_file: Path) -> None:
    rule_file.write_text(RULE.replace("lr * m", "lr * mm"))
    with pytest.raises(optdsl.CompileError) as caught:
        optdsl.load(rule_file)
    assert f"{rule_file}:5:15: error[E202]: `mm` is not defined" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        optdsl.load(rule_file.with_name("absent.opt"))
    with pytest.raises(optdsl.CompileError, match="cannot import"):
        optdsl.compile_text('import "a.opt"\n' + RULE)


def test_a_text_that_failed_is_not_kept(rule_file: Path, cache: Path) -> None:
    rule_file.write_text(RULE.replace("lr * m", "lr * mm"))
    for _ in range(2):
        with pytest.raises(optdsl.CompileError):
            optdsl.load(rule_file)
    assert not list((cache / "rules").glob("*.json"))


# ---------------------------------------------------------------- the cache


def test_the_second_load_builds_nothing(rule_file: Path, built: list[str], cache: Path) -> None:
    first = optdsl.load(rule_file).Mine
    files = {path: path.stat().st_mtime_ns for path in (cache / "rules").glob("*.*")}
    assert {path.suffix for path in files} >= {".json", ".py", ".ir"}
    again = optdsl.load(rule_file).Mine
    assert again is first
    forget()
    assert optdsl.load(rule_file).Mine.__module__ == first.__module__
    assert built == [str(rule_file)]
    for path, time in files.items():
        assert path.stat().st_mtime_ns == time


def test_a_change_of_the_text_is_seen(rule_file: Path, built: list[str]) -> None:
    first = optdsl.load(rule_file).Mine
    rule_file.write_text(RULE.replace("0.1", "0.2"))
    second = optdsl.load(rule_file).Mine
    assert (first([parameter()]).defaults["lr"], second([parameter()]).defaults["lr"]) == (0.1, 0.2)
    assert len(built) == 2


def test_a_change_of_an_import_is_seen(tmp_path: Path, built: list[str]) -> None:
    deep, block, rule = (tmp_path / name for name in ("deep.opt", "block.opt", "rule.opt"))
    deep.write_text("def scale():\n    return 2\n")
    block.write_text('import "deep.opt"\n\ndef half(x):\n    return x / scale()\n')
    rule.write_text('import "block.opt"\n\noptimizer A(lr = 1.0):\n    p -= lr * half(g)\n')

    def moved() -> float:
        p = parameter()
        optdsl.load(rule).A([p], backend="reference").step()
        return float(p.detach()[0, 0])

    assert moved() == moved() == -0.5
    deep.write_text("def scale():\n    return 4\n")
    assert moved() == -0.25
    assert built == [str(rule)] * 2


def test_a_change_of_the_compiler_is_seen(
    rule_file: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    optdsl.load(rule_file)
    monkeypatch.setattr(cache_files, "compiler", lambda: "another")
    optdsl.load(rule_file)
    assert len(built) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "bytes", "other"])
@pytest.mark.parametrize("suffix", [".json", ".py", ".ir"])
def test_what_is_damaged_is_made_anew(
    damage: str, suffix: str, rule_file: Path, built: list[str], cache: Path
) -> None:
    name = optdsl.load(rule_file).Mine.__module__
    forget()
    (path,) = (cache / "rules").glob(f"*{suffix}")
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": whole[: len(whole) // 2], "empty": b"", "bytes": b"\xff\xfe", "other": b"{}"}[
                damage
            ]
        )
    assert optdsl.load(rule_file).Mine.__module__ == name
    assert path.read_bytes() == whole
    assert len(built) == 2


def test_nothing_half_written_is_left(
    rule_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            optdsl.load(rule_file)
    assert {path.suffix for path in (cache / "rules").iterdir()} <= {".lock"}
    assert optdsl.load(rule_file).Mine


def test_the_cache_is_private(rule_file: Path, cache: Path) -> None:
    optdsl.load(rule_file)
    for path in (cache, cache / "rules"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_without_a_cache_the_process_has_its_own(
    rule_file: Path, cache: Path, built: list[str]
) -> None:
    cache.mkdir()
    cache.chmod(0o777)  # somebody else could put code there
    cache_files.modules_folder.cache_clear()
    first = optdsl.load(rule_file).Mine
    assert optdsl.load(rule_file).Mine is first
    assert len(built) == 1
    assert not list(cache.iterdir())
    assert stat.S_IMODE(cache_files.modules_folder().stat().st_mode) == 0o700


def test_processes_share_what_one_has_built(rule_file: Path, cache: Path) -> None:
    code = (
        "import sys, optdsl\n"
        "from optdsl import loading\n"
        "compiled = []\n"
        "real = loading.compile_source\n"
        "loading.compile_source = lambda *a: (compiled.append(1), real(*a))[1]\n"
        f"rules = optdsl.load({str(rule_file)!r})\n"
        "print(len(compiled), rules.Mine.__module__)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                         env=environment)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0].split() for process in running]
    assert sorted(int(count) for count, _ in said) == [0, 1]
    assert len({name for _, name in said}) == 1


# ---------------------------------------------------------------- copies and pickles


def test_copies_and_pickles(rule_file: Path) -> None:
    optimizer = optdsl.load(rule_file).Mine([parameter()], lr=0.25, backend="reference")
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is type(optimizer)
        ours, theirs = optimizer.param_groups[0], other.param_groups[0]
        assert theirs["lr"] == 0.25
        assert torch.equal(ours["params"][0], theirs["params"][0])
        theirs["params"][0].grad = torch.ones(2, 3)
        other.step()
        assert not torch.equal(ours["params"][0], theirs["params"][0])


UNPICKLE = """\
import pickle, sys, torch
optimizer = pickle.load(open(sys.argv[1], "rb"))
p = optimizer.param_groups[0]["params"][0]
p.grad = torch.ones_like(p)
optimizer.step()
print(p.tolist())
"""


def test_a_pickle_is_read_by_another_process(rule_file: Path, tmp_path: Path) -> None:
    p = parameter()
    optimizer = optdsl.load(rule_file).Mine([p], lr=1.0, backend="reference")
    optimizer.step()
    pickled = tmp_path / "optimizer.pkl"
    pickled.write_bytes(pickle.dumps(optimizer))
    optimizer.step()
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLE, str(pickled)],
        capture_output=True, text=True, check=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == str(p.tolist())


def test_a_module_that_is_gone_is_named(rule_file: Path, cache: Path) -> None:
    name = optdsl.load(rule_file).Mine.__module__
    pickled = pickle.dumps(optdsl.load(rule_file).Mine)
    forget()
    for path in (cache / "rules").glob("*.py"):
        path.unlink()
    with pytest.raises(ModuleNotFoundError, match=f"{name} is not in the cache .*load its rule"):
        pickle.loads(pickled)
    assert optdsl.load(rule_file).Mine is pickle.loads(pickled)


def test_the_text_of_a_class_can_be_read(rule_file: Path) -> None:
    mine = optdsl.load(rule_file).Mine
    assert inspect.getsource(mine).startswith("class Mine(Optimizer):")
    assert (inspect.getsourcefile(mine) or "").endswith(".py")


# ---------------------------------------------------------------- optdsl, optdsl.zoo


def test_the_zoo_has_what_the_files_define() -> None:
    assert zoo.__all__ == list(shipped_index())
    assert set(shipped_index()) <= set(dir(zoo))
    namespace: dict[str, object] = {}
    exec("from optdsl.zoo import AdamW, LookaheadAdamW, Lookahead", namespace)
    assert namespace["AdamW"] is zoo.AdamW is zoo.__getattr__("AdamW")
    assert issubclass(zoo.LookaheadAdamW, torch.optim.Optimizer)
    with pytest.raises(TypeError, match="Lookahead wraps a rule"):
        zoo.Lookahead([parameter()])
    with pytest.raises(AttributeError, match="did you mean AdamW"):
        _ = zoo.Adamw
    with pytest.raises(ImportError, match="Nothing"):
        exec("from optdsl.zoo import Nothing", {})


@pytest.mark.parametrize(
    "code",
    [
        "import optdsl",
        "import optdsl; optdsl.__version__, dir(optdsl)",
        "from optdsl import CompileError, __version__",
    ],
)
def test_importing_optdsl_is_light(code: str) -> None:
    check = f"import sys\n{code}\nassert not {{'torch', 'lark'}} & set(sys.modules)\n"
    subprocess.run(
        [sys.executable, "-c", check], check=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_public_names() -> None:
    assert set(optdsl.__all__) <= set(dir(optdsl))
    assert all(getattr(optdsl, name) is not None for name in optdsl.__all__)
    with pytest.raises(AttributeError, match="module 'optdsl' has no attribute 'lode'"):
        _ = optdsl.lode
    assert f'version = "{optdsl.__version__}"' in (ROOT / "pyproject.toml").read_text()
