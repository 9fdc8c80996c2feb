"""Random damage to good programs: every outcome is a tree or diagnostics, never a traceback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from optdsl.diagnostics import Sink, render_json, render_text
from optdsl.source import Source
from optdsl.syntax.layout import format_module
from optdsl.syntax.parser import parse
from tests.syntax.snippets import bare, definitions

PROGRAMS = definitions()
WORD = re.compile(r"[A-Za-z_]\w*|[0-9.]+(?:e-?[0-9]+)?|\"+[^\"\n]*\"+|\n *|[-+*/<>=!]=|//|\S| +")
ODD = [
    "\t",
    "\r",
    "\x00",
    "\x0c",
    "\u2028",
    "\ufeff",
    "é",
    "β",
    "漢",
    "\ud800",
    '"',
    '"""',
    "#",
    "\\",
]
ODD += ["(", ")", "[", "]", ":", ",", "=", "^", "@", "*", ".", "-", "_", "'", "1e999", "9" * 30]
PIECES = sorted({piece for text in PROGRAMS for piece in WORD.findall(text)})


def compile_front(text: str) -> None:
    """What is under test. Raises only if it is at fault itself."""
    source = Source("fuzz.opt", text)
    sink = Sink()
    module = parse(source, sink)
    found = sink.diagnostics
    for diagnostic in found:
        assert diagnostic.severity == "error"
        assert diagnostic.message
        for label in diagnostic.labels:
            assert 0 <= label.span.start <= label.span.end <= len(text)
    shown = render_text(found, color=False)
    assert all(char.isprintable() for char in shown.replace("\n", ""))
    render_json(found)
    if found:
        return
    result = format_module(source)
    again = Source("fuzz.opt", result)
    assert format_module(again) == result
    assert bare(parse(again, sink)) == bare(module)


def damage_characters(text: str, rng: random.Random) -> str:
    a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    b = min(b, a + 1 + int(rng.expovariate(0.2)))
    match rng.randrange(6):
        case 0:
            return text[:a] + text[b:]
        case 1:
            return text[:a] + rng.choice(ODD) + text[a:]
        case 2:
            return (
                text[:a] + chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) + text[a:]
            )
        case 3:
            return text[:a] + text[a:b][::-1] + text[b:]
        case 4:
            return text[:b] + text[a:b] * rng.choice([1, 2, 50]) + text[b:]
        case _:
            return text[:a] if rng.random() < 0.5 else text[a:]


def damage_words(text: str, rng: random.Random) -> str:
    words = WORD.findall(text)
    at = rng.randrange(len(words))
    match rng.randrange(5):
        case 0:
            del words[at]
        case 1:
            words[at] = rng.choice(PIECES)
        case 2:
            words.insert(at, rng.choice(PIECES))
        case 3:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        case _:
            words[at : at + 1] = rng.choice(PROGRAMS[:40])[:200].split(" ")[:9]
    return "".join(words)


def damage_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, rng.choice(rng.choice(PROGRAMS).split("\n")))
        case 2:
            lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
        case 3:
            lines[at : at + 2] = ["".join(lines[at : at + 2])]
        case _:
            lines[at] = lines[at].replace("    ", "\t", 1)
    return "\n".join(lines)


DAMAGES: list[Callable[[str, random.Random], str]] = [
    damage_characters,
    damage_words,
    damage_lines,
]


def mutant(rng: random.Random) -> str:
    text = "\n".join(rng.choice(PROGRAMS) for _ in range(rng.choice([1, 1, 1, 2])))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if text:
            text = rng.choice(DAMAGES)(text, rng)
    return text


def run(seed: int, count: int) -> None:
    rng = random.Random(seed)
    for number in range(count):
        text = mutant(rng)
        try:
            compile_front(text)
        except Exception as fault:
            raise AssertionError(f"mutant {number} of seed {seed}:\n{text!r}") from fault


@pytest.mark.parametrize("seed", range(4))
def test_mutants(seed: int) -> None:
    run(seed, 250)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_many_mutants(seed: int) -> None:
    run(seed, 1000)


def test_mutants_are_neither_all_good_nor_all_bad() -> None:
    rng = random.Random(0)
    good = 0
    for _ in range(200):
        sink = Sink()
        parse(Source("fuzz.opt", mutant(rng)), sink)
        good += not sink.diagnostics
    assert 20 < good < 150
