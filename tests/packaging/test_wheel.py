"""The package works from a wheel, from an editable install and from a plain checkout.

Builds without a network (`--no-build-isolation`; the build backend comes with the test extra) from
a copy of the tree, and probes each form in a fresh interpreter that cannot see the checkout under
test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CARRIED = ("grammar", "templates")
"""Folders beside the package that a wheel carries inside it."""

RULE = '''
optimizer Halving(lr = 0.5):
    """Takes the fraction lr off the parameter."""
    p -= lr * p + 0 * g
'''

# -S: no .pth file of this environment is read, so that an editable install of the checkout under
# test cannot stand in for the form that is probed. The libraries are appended by hand.
PROBE = """
import site, sys
sys.path[1:1] = {first!r}
for folder in {site!r}:
    site.addsitedir(folder)
sys.path.append({libraries!r})
"""

WHERE = "import optdsl\nprint(optdsl.__file__)\n"

COMPILE = """
import optdsl, torch
rules = optdsl.load({rule!r})
p = torch.nn.Parameter(torch.tensor([2.0, -4.0]))
p.grad = torch.ones(2)
rules.Halving([p]).step()
print(optdsl.__file__)
assert p.tolist() == [1.0, -2.0], p
"""


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _run(*command: str, cwd: Path) -> str:
    environment = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache"), "PYTHONPATH": ""}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def _probe(code: str, cwd: Path, first: tuple[Path, ...] = (), site: tuple[Path, ...] = ()) -> Path:
    """Run `code` with the given paths in front; the file it prints."""
    start = PROBE.format(
        first=[str(path) for path in first],
        site=[str(path) for path in site],
        libraries=sysconfig.get_path("purelib"),
    )
    return Path(_run(sys.executable, "-S", "-c", start + code, cwd=cwd).splitlines()[-1])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain copy of what a build needs."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("optdsl", *CARRIED):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    _run(*pip, "--quiet", "-w", str(folder), str(checkout), cwd=folder)
    (built,) = folder.glob("optdsl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet")
    _run(*pip, "--target", str(folder), str(wheel), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an editable install puts into site-packages."""
    folder = tmp_path_factory.mktemp("editable")
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    _run(sys.executable, "-c", code, str(folder), cwd=checkout)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "halving.opt"
    path.write_text(RULE, encoding="utf-8")
    return path


def test_wheel_holds_the_package_and_what_stands_beside_it(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    found = {name for name in packed if not name.split("/")[0].endswith(".dist-info")}
    wanted = {f"optdsl/{name}" for name in _files(checkout / "optdsl")}
    for folder in CARRIED:
        inside = _files(checkout / folder)
        wanted |= {f"optdsl/{folder}/{name}" for name in inside}
        for name in inside:
            assert packed[f"optdsl/{folder}/{name}"] == (checkout / folder / name).read_bytes()
    assert found == wanted
    assert any(name.endswith("zoo/adamw.opt") for name in found)


def test_wheel_states_its_command_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = {
            Path(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "optdsl = optdsl.cli:main" in info["entry_points.txt"]
    assert "Apache License" in info["LICENSE"]
    assert "Requires-Python: >=3.11" in info["METADATA"]


def test_editable_install_copies_nothing(editable: Path, checkout: Path) -> None:
    files = {name for name in _files(editable) if ".dist-info/" not in name}
    assert files == {"_optdsl.pth"}
    assert (editable / "_optdsl.pth").read_text(encoding="utf-8").strip() == str(checkout)


def test_wheel_compiles_a_rule(installed: Path, rule: Path) -> None:
    code = COMPILE.format(rule=str(rule))
    assert _probe(code, rule.parent, first=(installed,)).is_relative_to(installed)


@pytest.mark.slow  # what `make test` itself stands on
def test_editable_install_compiles_a_rule(editable: Path, checkout: Path, rule: Path) -> None:
    code = COMPILE.format(rule=str(rule))
    assert _probe(code, rule.parent, site=(editable,)).is_relative_to(checkout)


def test_plain_checkout_compiles_a_rule(checkout: Path, rule: Path) -> None:
    code = COMPILE.format(rule=str(rule))
    assert _probe(code, rule.parent, first=(checkout,)).is_relative_to(checkout)


def test_command_runs_from_the_wheel(installed: Path, rule: Path) -> None:
    code = f"import runpy\nsys.argv = ['optdsl', 'check', {str(rule)!r}]\n"
    code += "try:\n    runpy.run_module('optdsl', run_name='__main__')\n"
    code += "except SystemExit as done:\n    assert not done.code\n"
    code += WHERE
    assert _probe(code, rule.parent, first=(installed,)).is_relative_to(installed)
