"""`optdsl explain`: what a rule costs, or what an error code means.

Input: a rule file, the name of a shipped rule, or a code. Output: text or JSON on stdout.
Relies on: explain, compiler; codes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from optdsl import codes
from optdsl.cli.terminal import Fault, color_wanted
from optdsl.diagnostics import did_you_mean

if TYPE_CHECKING:
    from optdsl.explain import Moved, PassReport, Report, VariantReport

EXAMPLES = """\
Bytes and flops are per parameter element in float32; the time is what moving the bytes takes.

examples:
  optdsl explain E301
  optdsl explain my_rule.opt
  optdsl explain LAMB --params 7B --bandwidth 3.35TB/s
  optdsl explain SWAN --shape 4096x1024     flops of matrix work are counted for this matrix
  optdsl explain AdamW --model llama-2-7b --dtype bf16 --storage int8
                                            memory, from the shapes of the model
  optdsl explain AdamW --json               passes, bytes_per_param, state_bytes_per_param,
                                            flops_per_param; a list where the file has many rules
"""

UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", metavar="FILE|CODE", help="a rule file, a shipped rule, or a code such as E301"
    )
    parser.add_argument(
        "--rule", action="append", metavar="NAME", help="only this rule of the file (repeatable)"
    )
    parser.add_argument(
        "--params", type=_number, default=124e6, metavar="N", help="parameters (default: 124M)"
    )
    parser.add_argument(
        "--bandwidth",
        type=_bandwidth,
        default=4.3e12,
        metavar="B",
        help="bytes a second (default: 4.3TB/s, what one H200 moves)",
    )
    parser.add_argument("--shape", type=_shape, metavar="RxC", help="default: 1024x1024")
    parser.add_argument(
        "--storage", metavar="[KEY=]S,…", help="of states, such as int8 or exp_avg_sq=int8"
    )
    memory = parser.add_argument_group("memory, instead of costs")
    memory.add_argument(
        "--model",
        metavar="MODEL",
        help="gpt2, gpt2-xl, llama-7b, llama-2-7b, or a JSON file of shapes by parameter name",
    )
    memory.add_argument(
        "--dtype",
        choices=("float32", "bf16", "fp16", "float64"),
        default="float32",
        help="of parameters and gradients (default: float32)",
    )
    memory.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="a hyperparameter (repeatable)"
    )
    memory.add_argument(
        "--attribute",
        action="append",
        metavar="NAME=VALUE@PATTERN",
        help="an attribute of the parameters whose names match (repeatable)",
    )
    parser.add_argument("--all", action="store_true", help="the passes of all variants")
    parser.add_argument("--json", action="store_true", help="data instead of text")


def _number(text: str) -> float:
    match = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?)([KMBGT]?)", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 124M or 7B")
    return float(match[1]) * UNITS[match[2].upper()]


def _bandwidth(text: str) -> float:
    try:
        return _number(re.sub(r"(B(/s)?)?$", "", text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no bandwidth such as 900GB/s") from None


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape such as 4096x1024")
    return int(match[1]), int(match[2])


def run(options: argparse.Namespace) -> int:
    if re.fullmatch(r"[EW]\d+", options.subject):
        return _explain_code(options.subject)
    if options.model is not None:
        return int(importlib.import_module("optdsl.cli.memory").run(options))
    if options.set or options.attribute:
        raise Fault("--set and --attribute are for --model")
    # The compiler takes 0.2 s to import, which a code does not need.
    reports: list[Report] = importlib.import_module("optdsl.cli.costs").reports(options)
    if options.json:
        data = [report.to_json() for report in reports]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=2))
        return 0
    paint = _Paint(color_wanted(sys.stdout))
    for number, report in enumerate(reports):
        if number:
            print()
        for line in _report(report, options, paint):
            print(line.rstrip())
    return 0


def _explain_code(code: str) -> int:
    try:
        print(codes.explain(code), end="")
    except KeyError:
        meant = did_you_mean(code, codes.CODES)
        mend = f"did you mean {meant}?" if meant else "codes are E101 to E5.., W601 to W6.."
        raise Fault(f"there is no code {code}; {mend}") from None
    return 0


# ---------------------------------------------------------------- text


class _Paint:
    def __init__(self, on: bool) -> None:
        self.on = on

    def bold(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self.on else text


def _report(report: Report, options: argparse.Namespace, paint: _Paint) -> Iterator[str]:
    steady = report.steady
    head = f"{report.rule} ({report.file})"
    yield f"{paint.bold(head)}: {_costs(steady)}, {_plain(steady.state_bytes)} bytes of state"
    seconds = options.params * steady.bytes / options.bandwidth
    yield (
        f"{_big(options.params)} parameters at {_big(options.bandwidth)}B/s: "
        f"{_time(seconds)} a step where memory is the limit"
    )
    if report.told is not None:
        yield (
            "in a module that stands alone, told so when an optimizer is made: "
            f"{_plain(report.told.bytes)} bytes per parameter, with copies for the whole step of "
            f"{', '.join(report.told.copied) or 'nothing'}"
        )
    rows, cols = report.shape
    if any(each.kind == "library" for each in steady.passes):
        yield f"matrix work is counted for a matrix of {rows} x {cols}"
    if len(report.variants) > 1:
        yield f"this is the step in the long run: {steady.condition}"
    yield from _passes(steady)
    others = report.variants[1:]
    if others:
        yield ""
        yield "other steps, and other options:"
    for each in others:
        yield f"  {each.condition}"
        yield f"      {_costs(each)}, {_plain(each.state_bytes)} bytes of state"
        if options.all:
            yield from _passes(each)


def _costs(variant: VariantReport) -> str:
    passes = variant.over_memory
    launches = f"{variant.launches} launch{'' if variant.launches == 1 else 'es'}"
    matrices = sum(each.kind == "library" for each in variant.passes)
    more = f" and {matrices} of matrix work" if matrices else ""
    return (
        f"{passes} pass{'' if passes == 1 else 'es'} over memory{more}, {launches}, "
        f"{_plain(variant.bytes)} bytes and {_plain(variant.flops)} flops per parameter"
    )


def _passes(variant: VariantReport) -> Iterator[str]:
    for each in variant.passes:
        yield ""
        kinds = {"library": "matrix work", "packing": "copies for the whole step"}
        over = kinds.get(each.kind, f"over {each.over}")
        lines = f": line{'' if each.lines.isdigit() else 's'} {each.lines}" if each.lines else ""
        yield f"  {each.name}, {over}{lines}"
        for title, text in _facts(each):
            yield f"      {title:<10} {text}"


def _facts(each: PassReport) -> Iterator[tuple[str, str]]:
    if each.waits:
        yield "waits for", ", ".join(each.waits)
    yield "reads", _moved(each.reads)
    if each.writes:
        yield "writes", _moved(each.writes)
    if each.reduces:
        counts = {text: each.reduces.count(text) for text in each.reduces}
        yield "reduces", ", ".join(f"{n} x {text}" if n > 1 else text for text, n in counts.items())
    if each.again:
        yield "again", f"{', '.join(each.again)}: computing is cheaper than storing"
    if each.bytes or each.flops:
        yield "costs", f"{_plain(each.bytes)} bytes, {_plain(each.flops)} flops"


def _moved(moved: tuple[Moved, ...]) -> str:
    texts = [f"{each.name} {_plain(each.bytes)}" if each.bytes else each.name for each in moved]
    return ", ".join(texts) or "nothing of a parameter's size"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:.3g}"


def _big(number: float) -> str:
    for unit in ("T", "G", "M", "K"):
        if number >= UNITS[unit]:
            return f"{number / UNITS[unit]:.4g}{unit}"
    return f"{number:.4g}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
