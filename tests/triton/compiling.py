"""Compiles a plan's Triton kernels ahead of time and reports what came out.

A process of its own: `python -m tests.triton.compiling` reads a list of jobs as JSON from its input
and writes a list of findings, since Triton either interprets or compiles, as decided at import.
No GPU is needed.
"""

from __future__ import annotations

import collections
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optdsl.codegen.prologue import triton_source
from optdsl.types import Storage
from tests.triton.addressing import narrow
from tests.triton.moving import moved
from tests.triton.sources import plan_of

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
RUNTIME = "optdsl.runtime.triton.finish"
"""The source of the kernel that finishes reductions."""
CODECS = "tests.triton.codec_kernels"
PLACE = "optdsl.runtime.triton.place"
KEYS = "optdsl.runtime.triton.keys"
WRITTEN = (RUNTIME, CODECS, PLACE, KEYS)
"""Modules of kernels; every other source is a plan's."""

DTYPES = {"bf16": ("bfloat16", 2), "fp16": ("float16", 2), "fp32": ("float32", 4)}
DTYPES["fp64"] = ("float64", 8)


@dataclass(frozen=True)
class Job:
    """One compilation. `source` names what defines the kernels: RUNTIME, or see `plan_of`. `tile`
    is (BLOCK,) or (ROWS, BLOCK), of the finish (COUNT, WIDTH); `operands` as
    runtime/triton/launch.py has it; `kept` are codecs of buffers that the rule does not say. With
    `moves` nothing but what the kernel moves is asked for; with `counts`, for NVIDIA, its
    instructions, too."""

    source: str
    kernel: str
    target: str
    dtype: str
    aligned: bool
    tile: tuple[int, ...]
    operands: int = 4
    kept: tuple[tuple[str, str], ...] = ()
    moves: bool = False
    counts: bool = False


@dataclass
class Finding:
    """`loads` and `stores`: accesses of global memory by their bits; `local`: bytes of stack and
    spills; `approximate`: instructions that do not round to nearest; `narrow` and `moved`: what
    addressing.py and moving.py found; `instructions`: those of the machine code, all paths."""

    job: Job
    warps: int
    instructions: int = 0
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    registers: int = 0
    local: int = 0
    approximate: list[str] = field(default_factory=list)
    fused: bool = False
    narrow: list[str] = field(default_factory=list)
    moved: dict[str, float] = field(default_factory=dict)


def compile_all(jobs: list[Job], python: str = sys.executable) -> list[Finding]:
    """Compiles `jobs` in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [python, "-m", "tests.triton.compiling"],
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = []
    for entry in json.loads(done.stdout):
        job = _job(entry.pop("job"))
        for key in ("loads", "stores"):
            entry[key] = {int(bits): count for bits, count in entry[key].items()}
        found.append(Finding(job, **entry))
    return found


def _job(entry: dict[str, Any]) -> Job:
    """A job that went through JSON, which knows no tuples."""
    kept = tuple((name, codec) for name, codec in entry["kept"])
    return Job(**{**entry, "tile": tuple(entry["tile"]), "kept": kept})


def compile_one(job: Job, function: Any) -> Finding:
    """Compiles `function` for `job`."""
    # Not at the top: the tests' own process interprets, and imports this module for its data.
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from optdsl.runtime.triton.codecs import BLOCKS
    from optdsl.runtime.triton.launch import OPTIONS, options_of

    pointers = dict.fromkeys(("tasks", "pointers", "shapes", "records", "live"), "*i64")
    pointers |= dict.fromkeys(("scalars", "partials", "results", "source"), "*fp64")
    pointers |= dict.fromkeys(("counts", "inputs", "gate"), "*fp64")
    pointers |= {"table": "*i64", "members": "*i64"}
    pointers = {name: pointers[name] for name in function.arg_names if name in pointers}
    numbers = dict.fromkeys(("first", "last", "column"), "i32") | dict.fromkeys("abcdefgh", "i64")
    numbers = {name: numbers[name] for name in function.arg_names if name in numbers}
    constants: dict[str, Any] = {
        "P": getattr(tl, DTYPES[job.dtype][0]),
        "REAL": tl.float64 if job.dtype == "fp64" else tl.float32,
        "ALIGNED": job.aligned,
        "K": 4,
        "COLUMN": 3,
    }
    own = constants["P"], constants["REAL"]
    constants |= {name: own[1] for name in function.arg_names if name.endswith("_type")}
    constants |= {"p_type": own[0], **storage_types(job, own)}
    constants |= {f"{name}_type": codec for name, codec in job.kept}
    constants["WHOLE"] = 256 if any(codec in BLOCKS for _, codec in job.kept) else 16
    tiles = ("COUNT", "WIDTH") if job.source == RUNTIME else ("ROWS", "BLOCK")
    constants |= dict(zip(tiles[-len(job.tile) :], job.tile, strict=True))
    constants = {name: constants[name] for name in function.arg_names if name in constants}
    names = [*pointers, *numbers, *constants]
    source = ASTSource(
        fn=function,
        signature={**pointers, **numbers, **dict.fromkeys(constants, "constexpr")},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(pointers))},
    )
    target = GPUTarget(*TARGETS[job.target])
    if job.moves:
        text = _ttir(source, target)
        return Finding(job, 0, moved=moved(text, math.prod(job.tile)))
    kept = {value for name, value in constants.items() if name == "P" or name.endswith("_type")}
    hip = TARGETS[job.target][0] == "hip"
    options = options_of(kept, job.operands, hip=hip) if kept else OPTIONS
    compiled = triton.compile(source, target=target, options=options)
    finding = Finding(job, options["num_warps"], fused=compiled.metadata.enable_fp_fusion)
    if job.source not in WRITTEN and "scalars" not in job.kernel:
        finding.narrow = narrow(compiled.asm["ttir"])
    (_read_ptx if "ptx" in compiled.asm else _read_amdgcn)(finding, compiled.asm)
    return finding


def _ttir(source: Any, target: Any) -> str:
    """The first text that the compiler makes of a kernel, and simplifies."""
    from triton._C.libtriton import ir
    from triton.compiler.compiler import make_backend

    backend = make_backend(target)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    implementation = backend.get_codegen_implementation(options)
    module = source.make_ir(target, options, implementation, backend.get_module_map(), context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](module, {}))


def storage_types(job: Job, own: tuple[Any, Any]) -> dict[str, Any]:
    """The `NAME_type` of each buffer that is declared as neither of `own`, P and REAL."""
    import triton.language as tl

    if job.source in WRITTEN:
        return {}
    types = {Storage.PARAM: own[0], Storage.FLOAT32: tl.float32}
    types |= {Storage.BF16: tl.bfloat16, Storage.FP16: tl.float16}
    buffers = [each for variant in plan_of(job.source).variants for each in variant.buffers]
    found = [each for each in buffers if each.storage in types]
    return {f"{each.name}_type": types[each.storage] for each in found}


def _read_ptx(finding: Finding, asm: Any) -> None:
    text = asm["ptx"]
    for kind, lanes, bits in re.findall(r"\b(ld|st)\.global[\w:.]*?(?:\.v(\d))?\.b(\d+)", text):
        counts = finding.loads if kind == "ld" else finding.stores
        width = int(lanes or 1) * int(bits)
        counts[width] = counts.get(width, 0) + 1
    # libdevice's float64 log starts from rcp.approx.ftz.f64 and refines it.
    approximate = set(re.findall(r"\b\w+\.(?:approx|full)[\w.]*", text))
    finding.approximate = sorted(approximate - {"rcp.approx.ftz.f64"})
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", _dump(asm["cubin"], "-res-usage")))
    finding.registers = int(usage["REG"])
    finding.local = int(usage["STACK"]) + int(usage["LOCAL"])
    if finding.job.counts:
        lines = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*)", _dump(asm["cubin"], "-sass"), re.M)
        finding.instructions = sum(not each.startswith("NOP") for each in lines)


def _dump(cubin: bytes, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_tool("cuobjdump"), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _read_amdgcn(finding: Finding, asm: Any) -> None:
    text = asm["amdgcn"]
    accesses = collections.Counter(
        re.findall(r"\b(?:global|buffer)_(load|store)_(dwordx\d|dword|ushort|short|ubyte)", text)
    )
    widths = {"dword": 32, "ushort": 16, "short": 16, "ubyte": 8}
    for (kind, size), count in accesses.items():
        bits = widths[size] if size in widths else 32 * int(size[-1])
        counts = finding.loads if kind == "load" else finding.stores
        counts[bits] = counts.get(bits, 0) + count
    finding.registers = int(re.findall(r"\.vgpr_count:\s*(\d+)", text)[0])
    finding.local = int(re.findall(r"\.private_segment_fixed_size:\s*(\d+)", text)[0])
    finding.approximate = sorted(set(re.findall(r"\bv_(?:exp|log)_f32\w*", text)))
    # A fixup ends every rounded division. `lo // rows`, on integers, takes a reciprocal or two.
    if text.count("v_rcp_f32") > text.count("v_div_fixup_f32") + 2:
        finding.approximate.append("v_rcp_f32")


def main() -> None:
    jobs = [_job(each) for each in json.load(sys.stdin)]
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        for source in dict.fromkeys(job.source for job in jobs):
            name = "kernels_of_" + re.sub(r"\W", "_", source)
            if source not in WRITTEN:
                Path(folder, f"{name}.py").write_text(triton_source(plan_of(source)))
            module = importlib.import_module(source if source in WRITTEN else name)
            for job in jobs:
                if job.source == source:
                    findings.append(asdict(compile_one(job, getattr(module, job.kernel))))
    json.dump(findings, sys.stdout)


if __name__ == "__main__":
    main()
