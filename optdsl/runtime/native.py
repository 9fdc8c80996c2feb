"""C text to a loaded library, by the system's compiler, through a cache on disk.

Input: C source without includes, and flags. Output: a `ctypes.CDLL`, or NativeError in one line.

A library is found again by the hash of everything that went into it: text, flags, the compiler's
path and version, the processor. It is written under a temporary name and renamed, with its
checksum beside it, all under a file lock: processes that start together build once, and what a
crash or a full disk left behind is built again instead of being mapped into memory.

Relies on: a POSIX system, the standard library. Does not do: what the functions are called with.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    # Without it sqrt must set errno: a call per element instead of one vector instruction.
    "-fno-math-errno",
    # Nobody reads the floating point exception flags; with it gcc may compute both sides of a
    # select and so vectorise it. Values, NaN and Inf included, are the same.
    "-fno-trapping-math",
    # x * y + z rounds twice where it is written so, on every machine; fma is written where it is
    # meant. gcc's default would fuse, and differ between processors with and without fma.
    "-ffp-contract=off",
    # `omp simd` alone, no threads: lets a sum be split into lanes and nothing else be reordered.
    # (-ffast-math was measured at 0.85 to 1.0 of the speed of these flags, and breaks NaN.)
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    # What one function calls of the same library is that function, and may be written out there.
    "-fno-semantic-interposition",
    # Where a processor has vectors of 512 bits, gcc takes those of 256. AdamW with parameters
    # and states in bfloat16, which costs more rounding than memory, was 1.2 times as fast so.
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)
DTYPES = ("float32", "float64", "bfloat16", "float16")
"""Parameter dtypes that generated kernels can be built for."""
COMPILE_SECONDS = 120


class NativeError(RuntimeError):
    """A library could not be built or loaded; the message is one line and names the log, if any."""


@dataclass(frozen=True)
class Compiler:
    """`command` may carry arguments, as in CC="ccache gcc"; `version` is its first line."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler | None:
    """The C compiler to use: $CC, else cc, gcc or clang. None where there is no working one."""
    chosen = os.environ.get("CC")
    for command in [chosen] if chosen else ["cc", "gcc", "clang"]:
        compiler = _probe(command)
        if compiler is not None:
            return compiler
    return None


@functools.cache
def _probe(command: str) -> Compiler | None:
    words = tuple(shlex.split(command))
    path = shutil.which(words[0]) if words else None
    if path is None:
        return None
    try:
        answer = subprocess.run(
            [path, *words[1:], "--version"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    return Compiler((path, *words[1:]), answer.stdout.partition("\n")[0].strip())


def runtime_text(name: str) -> str:
    """A C file of the runtime, by its path in there."""
    # By the module's loader: a standalone file carries the runtime, its C too, within itself.
    loader: Any = cast(Any, __spec__).loader
    text: str = loader.get_data(str(Path(__file__).parent / name)).decode()
    return text


def load_kernels(source: str, dtype: str, *flags: str) -> ctypes.CDLL:
    """The generated kernels in `source` for parameters of `dtype`, one of DTYPES, built with
    `flags` besides.

    Raises NativeError for another dtype, without a compiler, or where the compiler fails.
    """
    if dtype not in DTYPES:
        raise NativeError(f"no kernels for parameters of dtype {dtype}; there are {DTYPES}")
    return load(source, f"-DPARAM_{dtype}", *flags)


def load(source: str, *flags: str) -> ctypes.CDLL:
    """The library built from `source` with FLAGS and `flags`. Raises NativeError."""
    return _open(str(build(source, *flags)))


@functools.cache
def _open(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise NativeError(f"cannot load {path}: {error}") from None


def build(source: str, *flags: str) -> Path:
    """The path of the library for `source`, built unless the cache has it. Raises NativeError."""
    compiler = find_compiler()
    if compiler is None:
        raise NativeError(f"no C compiler: set CC (now {os.environ.get('CC')!r}) or install gcc")
    return _build(source, flags, compiler, cache_folder())


@functools.cache
def _build(source: str, flags: tuple[str, ...], compiler: Compiler, folder: Path) -> Path:
    parts = (source, *FLAGS, *flags, *compiler.command, compiler.version, processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    library = folder / f"{key}.so"
    with _locked(folder / f"{key}.lock"):
        if not _intact(library):
            _compile(compiler, source, flags, library)
    return library


@functools.cache
def processor() -> str:
    """What `-march=native` depends on: a cache may be shared by the machines of a cluster."""
    facts = [platform.system(), platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return " ".join(facts)
    wanted = ("flags", "model name", "Features", "CPU part", "isa")
    lines = {line for line in text.splitlines() if line.startswith(wanted)}
    return " ".join([*facts, *sorted(lines)])


def cache_folder() -> Path:
    """A folder that only this user can write: what lies there is loaded as code.

    `$OPTDSL_CACHE/native`, else `$XDG_CACHE_HOME/optdsl/native` or `~/.cache/optdsl/native`; made
    if need be. Where a home cannot be written, as in many containers, one that lasts as long as
    the process. Raises NativeError if $OPTDSL_CACHE itself is unfit.
    """
    chosen = os.environ.get("OPTDSL_CACHE")
    if chosen:
        folder = Path(chosen) / "native"
        trouble = _trouble(folder)
        if trouble:
            raise NativeError(f"OPTDSL_CACHE={chosen} cannot hold libraries: {trouble}")
        return folder
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home at all
        return _passing_folder()
    folder = base / "optdsl" / "native"
    return _passing_folder() if _trouble(folder) else folder


@functools.cache
def _passing_folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="optdsl-")
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory[str]] = []
"""Keeps folders of `_passing_folder` until the interpreter ends."""


def _trouble(folder: Path) -> str | None:
    """Why libraries cannot be kept in `folder`, or None."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        return error.strerror or str(error)
    if status.st_uid != os.getuid():
        return "it belongs to another user"
    if status.st_mode & 0o022:
        return "other users can write there"
    return None if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among processes; threads of one process are told apart, too, by their descriptors."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NativeError(f"cannot lock {path}: {error.strerror}") from None
    try:
        with suppress(OSError):  # a file system without locks: the renames still keep files whole
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _intact(library: Path) -> bool:
    """Whether `library` is what was built: a cut-off file would crash the process when mapped."""
    try:
        wanted = _checksum_file(library).read_text()
        return hashlib.sha256(library.read_bytes()).hexdigest() == wanted
    except (OSError, UnicodeDecodeError):
        return False


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _compile(compiler: Compiler, source: str, flags: tuple[str, ...], library: Path) -> None:
    """Writes `library` and its checksum; its source stays beside it for debuggers and readers."""
    text = library.with_suffix(".c")
    try:
        _write(text, source.encode())
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as scratch:
            made = Path(scratch) / library.name
            _run(compiler, [*FLAGS, *flags, str(text), "-o", str(made), "-lm"], library)
            checksum = hashlib.sha256(made.read_bytes()).hexdigest()
            made.replace(library)
        _write(_checksum_file(library), checksum.encode())
    except OSError as error:
        raise NativeError(f"cannot write {error.filename or library}: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="write-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise


def _run(compiler: Compiler, arguments: list[str], library: Path) -> None:
    command = [*compiler.command, *arguments]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=COMPILE_SECONDS
        )
        failed, said = answer.returncode != 0, answer.stdout + answer.stderr
    except subprocess.TimeoutExpired:
        failed, said = True, f"error: no result after {COMPILE_SECONDS} s"
    except OSError as error:
        failed, said = True, f"error: {error.strerror}"
    if not failed:
        return
    log = library.with_suffix(".log")
    _write(log, f"{shlex.join(command)}\n\n{said}".encode())
    lines = said.strip().splitlines() or ["it said nothing"]
    first = next((line for line in lines if "error:" in line), lines[-1]).strip()
    raise NativeError(f"{compiler.command[0]} failed: {first} (log: {log})")
