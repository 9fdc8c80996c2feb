"""Random damage to good programs: the outcome is a legal rule or diagnostics, never a traceback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from optdsl.codes import CODES
from optdsl.diagnostics import Sink, render_json, render_text
from optdsl.frontend.check import check
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.ir.verify import verify_rule
from optdsl.source import Source
from optdsl.syntax import ast
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
NAME = re.compile(r"[A-Za-z_]\w*|[0-9.]+(?:e-?[0-9]+)?")
PIECES = sorted({piece for text in PROGRAMS for piece in WORD.findall(text)})
NAMES = [piece for piece in PIECES if NAME.fullmatch(piece)]
NAMES += ["1e400", "0", "-1", "none", "inf", "t", "rows", "workers", "all"]


def compile_front(text: str) -> bool:
    """What is under test. Raises only if it is at fault itself; says whether all of it is good."""
    source = Source("fuzz.opt", text)
    sink = Sink()
    module = parse(source, sink)
    assert all(diagnostic.severity == "error" for diagnostic in sink.diagnostics)
    found = check(source)
    for diagnostic in found:
        assert diagnostic.message
        assert diagnostic.code in CODES
        for label in diagnostic.labels:
            assert 0 <= label.span.start <= label.span.end <= len(label.span.source.text)
    shown = render_text(found, color=False)
    assert all(char.isprintable() for char in shown.replace("\n", ""))
    render_json(found)
    if sink.has_errors:
        return False
    same_when_formatted(source, module)
    legal = [is_legal(source, item.name) for item in module.items]
    return all(legal)


def is_legal(source: Source, name: str) -> bool:
    """Whether the item has no error; then what it is lowered to must be legal, too."""
    sink = Sink()
    scope = make_scope(source, sink)
    item = scope.own[name]
    if not isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias):
        return True
    rule = lower_rule(name, scope, sink)
    if rule is None:
        assert sink.has_errors
        return False
    verify_rule(rule, "lower")
    return True


def same_when_formatted(source: Source, module: ast.Module) -> None:
    sink = Sink()
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


def damage_names(text: str, rng: random.Random) -> str:
    """A name or number in the place of another: what the parser does not mind."""
    words = WORD.findall(text)
    places = [at for at, word in enumerate(words) if NAME.fullmatch(word)]
    if not places:
        return text
    known = [words[at] for at in places]
    for at in rng.sample(places, min(len(places), rng.choice([1, 1, 2, 5]))):
        words[at] = rng.choice(known if rng.random() < 0.5 else NAMES)
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
    damage_names,
    damage_names,
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
        good += compile_front(mutant(rng))
    assert 20 < good < 150
