"""The build cache: what it keeps, rebuilds and refuses."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.runtime import native
from optdsl.runtime.native import NativeError

SOURCE = "int answer(void) { return %d; }\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone; what this process remembers of other builds is forgotten."""
    monkeypatch.setenv("OPTDSL_CACHE", str(tmp_path / "cache"))
    native._build.cache_clear()
    native._open.cache_clear()
    return tmp_path / "cache" / "native"


def answer(library: Path) -> int:
    """In a process of its own: dlopen gives back the old library for a path it has seen."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).answer())"
    return int(subprocess.check_output([sys.executable, "-c", code]))


def test_builds_once_and_keeps_the_source(cache: Path) -> None:
    library = native.build(SOURCE % 1)
    assert answer(library) == 1
    assert library.with_suffix(".c").read_text() == SOURCE % 1
    before = library.stat().st_mtime_ns
    native._build.cache_clear()
    assert native.build(SOURCE % 1) == library
    assert library.stat().st_mtime_ns == before
    assert not [path for path in cache.iterdir() if path.name.startswith(("write-", "build-"))]


def test_folder_is_private(cache: Path) -> None:
    native.build(SOURCE % 2)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_key_has_text_flags_compiler_and_processor(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {native.build(SOURCE % 3), native.build(SOURCE % 4), native.build(SOURCE % 3, "-DX")}
    monkeypatch.setattr(native, "processor", lambda: "another machine")
    native._build.cache_clear()
    made.add(native.build(SOURCE % 3))
    compiler = native.find_compiler()
    assert compiler is not None
    newer = native.Compiler(compiler.command, compiler.version + " patched")
    monkeypatch.setattr(native, "find_compiler", lambda: newer)
    made.add(native.build(SOURCE % 3))
    assert len(made) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "no checksum", "bad checksum"])
def test_damaged_entries_are_rebuilt(cache: Path, damage: str) -> None:
    library = native.build(SOURCE % 5)
    checksum = library.with_suffix(".sha256")
    content = library.read_bytes()
    if damage == "cut":
        library.write_bytes(content[:100])
    elif damage == "empty":
        library.write_bytes(b"")
    elif damage == "other":
        library.write_bytes(content.replace(b"answer", b"ANSWER"))
    elif damage == "no checksum":
        checksum.unlink()
    else:
        checksum.write_bytes(b"\xff\xfe")
    native._build.cache_clear()
    assert native.build(SOURCE % 5) == library
    assert answer(library) == 5


def test_compiler_error_is_one_line_with_a_log(cache: Path) -> None:
    with pytest.raises(NativeError) as caught:
        native.load("int answer(void) { return undefined_name; }\n")
    message = str(caught.value)
    assert "\n" not in message
    assert "undefined_name" in message
    log = Path(message.rpartition("log: ")[2].rstrip(")"))
    assert "-ffp-contract=off" in log.read_text()
    assert not list(cache.glob("*.so"))


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert native.find_compiler() is None
    with pytest.raises(NativeError, match=r"no C compiler: set CC \(now '/no/such/compiler'\)"):
        native.load(SOURCE % 6)


def test_compiler_from_the_environment_may_have_arguments(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = native.find_compiler()
    assert compiler is not None
    monkeypatch.setenv("CC", f"{compiler.command[0]} -DFROM_CC=7")
    assert native.load("int answer(void) { return FROM_CC; }\n").answer() == 7


def test_a_compiler_that_only_pretends(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It succeeds and writes nothing, as a wrapper with a full disk may."""
    script = tmp_path / "pretend"
    script.write_text("#!/bin/sh\necho pretend 1.0\n")
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(NativeError, match="cannot write"):
        native.load(SOURCE % 8)


def test_cache_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared" / "native"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("OPTDSL_CACHE", str(tmp_path / "shared"))
    with pytest.raises(NativeError, match="other users can write there"):
        native.load(SOURCE % 9)
    shared.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(NativeError, match="belongs to another user"):
        native.load(SOURCE % 9)


def test_unwritable_home_gives_a_passing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("OPTDSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = native.cache_folder()
    assert folder.is_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert native.load(SOURCE % 10).answer() == 10


def test_processes_that_start_together_build_once(cache: Path, tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    compiler = native.find_compiler()
    assert compiler is not None
    script = tmp_path / "counting"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) ;; *) echo run >> {counter}; sleep 0.2 ;; esac\n'
        f'exec {compiler.command[0]} "$@"\n'
    )
    script.chmod(0o700)
    code = f"from optdsl.runtime import native; print(native.load({SOURCE % 11!r}).answer())"
    environment = {**os.environ, "CC": str(script)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        for _ in range(3)
    ]
    assert [int(run.communicate()[0]) for run in runs] == [11, 11, 11]
    assert counter.read_text().splitlines() == ["run"]


def test_unknown_dtype(cache: Path) -> None:
    with pytest.raises(NativeError, match="complex64"):
        native.load_kernels(SOURCE % 12, "complex64")


def test_flags_round_every_operation(cache: Path) -> None:
    """No contraction, no reassociation: (x * x - y) of exact floats keeps its two roundings."""
    library = native.load("float f(float x, float y) { return x * x - y; }\n")
    library.f.restype = ctypes.c_float
    library.f.argtypes = [ctypes.c_float, ctypes.c_float]
    x = 1.0 + 2.0**-12  # x * x = 1 + 2^-11 + 2^-24: the last term is lost in float32
    assert library.f(x, 1.0 + 2.0**-11) == 0.0


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang here")
def test_clang(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "clang")
    assert native.load(SOURCE % 13).answer() == 13
