"""Random programs of all constructs: refused with a reason, or lowered to a legal rule that runs.

They are grown from the grammar's words with names that are in reach, so that most get past the
parser and a good part past the types: what fuzzing by damage hardly ever does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from optdsl.diagnostics import Sink, render_text
from optdsl.frontend.check import check
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.interpreter import Member, run
from optdsl.ir.nodes import Rule
from optdsl.ir.verify import verify_rule
from optdsl.source import Source

SHAPES = [(), (3,), (2, 3), (3, 3), (2, 2, 2), (0,), (1, 1)]
LIBRARY = """
def pair(x, y = 2):
    if ndim == 2:
        return x, y
    return y, x

transform kept(x, beta = 0.5):
    state low, high = x
    low = min(low, x)
    high = lerp(high, x, beta)
    if t % 2 == 0:
        return high - low
    return high

"""


@dataclass
class Grower:
    rng: random.Random
    names: list[str] = field(default_factory=lambda: ["p", "g", "lr", "k", "n"])
    states: list[str] = field(default_factory=list)
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def number(self) -> str:
        numbers = ["0", "1", "2", "0.5", "lr", "k", "n", "t", "steps", "rows", "cols", "numel"]
        return self.rng.choice([*numbers, "ndim", "1e-8", "(t - 1) // k", "min(k, rows)"])

    def tensor(self, text: str) -> str:
        return f"({self.rng.choice(['g', 'p'])} * {text})" if self.rng.random() < 0.9 else text

    def condition(self, depth: int) -> str:
        rng = self.rng
        host = ["t == 1", "flag", "not flag", "ndim == 2", "t % k == 0", "rows > cols", "n > 0"]
        host += ['name matches "a"', 'kind == "one"', 'kind in ("one", "two")', "steps > 2"]
        if rng.random() < 0.6:
            return rng.choice(host)
        over = rng.choice(["", ", over = all"])
        tensor = f"norm({self.tensor(self.value(depth - 1))}{over}) > {self.number()}"
        return rng.choice([tensor, f"{rng.choice(host)} and {tensor}", f"{self.number()} > 0"])

    def value(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0:
            return rng.choice([rng.choice(self.names), rng.choice(self.names), self.number()])
        a = self.value(depth - 1)
        match rng.randrange(16):
            case 0 | 1 | 2:
                return f"({a} {rng.choice('+-*/')} {self.value(depth - 1)})"
            case 3:
                return f"{a}^{rng.choice(['2', '3', '-1', '0', '0.5', 'k'])}"
            case 4:
                return f"{rng.choice(['sqrt', 'abs', 'sign', 'exp', 'tanh', 'round'])}({a})"
            case 5 | 6:
                name = rng.choice(["sum", "mean", "norm", "rms", "max", "min", "std"])
                more = ["", "", ", axis = 0", ", axis = 1", ", over = all", ", over = group"]
                more += [", blocks = 2", ", where = g > 0"]
                return f"{name}({self.tensor(a)}{rng.choice(more)})"
            case 7:
                return f"where({self.condition(depth - 1)}, {a}, {self.value(depth - 1)})"
            case 8:
                return f"lerp({a}, {self.value(depth - 1)}, {self.number()})"
            case 9:
                b = self.tensor(self.value(depth - 1))
                return f"({self.tensor(a)} @ {b}.T{rng.choice([' @ g', ' @ p', ''])})"
            case 10:
                turned = f"unwide({rng.choice(['', '2 * '])}wide({self.tensor(a)}))"
                return rng.choice([f"{self.tensor(a)}.T.T", turned, f"clamp({a}, -1, 1)"])
            case 11:
                return rng.choice(["randn()", "rand([rows, 1])", "rand([], over = all)"])
            case 12:
                return f"{rng.choice(['ema', 'kept', 'debias'])}({a}, 0.5)"
            case 13:
                return f"pair({a})[{rng.choice(['0', '1'])}]"
            case 14:
                return f"min({a}, {self.value(depth - 1)})"
        return a

    def statement(self, depth: int) -> list[str]:
        rng = self.rng
        match rng.randrange(14):
            case 0 | 1:
                name = self.fresh()
                line = f"{name} = {self.value(2)}"
                self.names.append(name)
                return [line]
            case 2:
                a, b = self.fresh(), self.fresh()
                line = f"{a}, {b} = pair({self.value(1)})"
                self.names += [a, b]
                return [line]
            case 3 | 4 | 5:
                target = rng.choice([*self.names[:2], *self.states, *self.names[6:]])
                return [f"{target} {rng.choice(['=', '+=', '-=', '*='])} {self.value(2)}"]
            case 6:
                return self.state()
            case 7 | 8 | 9 if depth:
                return self.branch(depth)
            case 10 if depth:
                head = rng.choice(
                    ["repeat k:", "repeat 2:", "for i in range(n):", "for i in (1, 2):"]
                )
                return [head, *self.block(depth)]
            case 11 if depth:
                return [f"every {rng.choice(['2', 'k', '2 from 1'])}:", *self.block(depth)]
            case 12:
                size = f"norm(g * {self.value(0)}, over = all)"
                return [rng.choice([f"report {size}", "require lr > 0", f"eval {self.value(1)}"])]
        return [f"p -= lr * {self.value(2)}"]

    def state(self) -> list[str]:
        name, rng = self.fresh(), self.rng
        shape = rng.choice(["", "", ": []", ": [rows, 1]", ": [1, cols]", ": [2, *p]", ": [k, n]"])
        over = rng.choice(["", "", "", " over all", " over group"])
        initial = rng.choice(["", "", f" = {self.value(1)}"])
        self.states.append(name)
        self.names.append(name)
        return [f"state {name}{shape}{over}{initial}"]

    def branch(self, depth: int) -> list[str]:
        word = self.rng.choice(["if", "if", "when"])
        static = self.rng.choice(["flag", "ndim == 2", "rows > cols", 'name matches "a"'])
        condition = static if word == "when" else self.condition(1)
        lines = [f"{word} {condition}:", *self.block(depth)]
        if self.rng.random() < 0.5:
            lines += ["else:" if word == "if" else "otherwise:", *self.block(depth)]
        return lines

    def block(self, depth: int) -> list[str]:
        known = list(self.names), list(self.states)
        lines = [line for _ in range(self.rng.choice([1, 2])) for line in self.statement(depth - 1)]
        if self.rng.random() < 0.7:  # else names may be used that only this block knows
            self.names, self.states = known
        return [f"    {line}" for line in lines]

    def program(self) -> str:
        view = self.rng.choice([[], [], ["view last"], ["view flat"]])
        lines = [line for _ in range(self.rng.randrange(2, 7)) for line in self.statement(2)]
        head = 'optimizer X(lr = 0.5, k = 2, n = 3, flag = true, kind = "one"):'
        return "\n".join([LIBRARY + head, *(f"    {line}" for line in [*view, *lines])]) + "\n"


def stepped(rule: Rule, rng: random.Random) -> None:
    """Three steps of parameters of all shapes in two groups."""
    groups = [{hyper.name: hyper.default for hyper in rule.hypers} for _ in range(2)]
    states: list[dict[str, Tensor]] = [{} for _ in SHAPES]
    params = [torch.rand(shape, dtype=torch.float64) for shape in SHAPES]
    shared: dict[tuple[str, int | None], Tensor] = {}
    counts = [0] * len(SHAPES)
    for step in range(1, 4):
        taking = [i for i in range(len(SHAPES)) if rng.random() < 0.8]
        members = []
        for i in taking:
            counts[i] += 1
            member = Member(params[i], torch.rand_like(params[i]), groups[i % 2], counts[i], step)
            member.group_index, member.index, member.name = i % 2, i, "ab"[i % 2]
            member.states, member.shared = states[i], shared
            members.append(member)
        outcome = run(rule, members)
        for i, update in zip(taking, outcome.updates, strict=True):
            if update.p is not None:
                assert update.p.shape == params[i].shape
                params[i] = update.p
            for name, value in update.states.items():
                assert value.dtype is torch.float64
                states[i][name] = value
        shared |= outcome.shared


def grow(seed: int) -> bool:
    """Whether the program of `seed` is legal. Raises where the compiler is at fault."""
    rng = random.Random(seed)
    source = Source("x.opt", Grower(rng).program())
    found = check(source)
    render_text(found)
    sink = Sink()
    rule = lower_rule("X", make_scope(source, sink), sink)
    if rule is None:
        assert sink.has_errors, source.text
        return False
    verify_rule(rule, "lower")
    stepped(rule, rng)
    return True


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_random_programs(first: int) -> None:
    legal = 0
    for seed in range(first, first + 100):
        try:
            legal += grow(seed)
        except Exception as fault:
            text = Grower(random.Random(seed)).program()
            raise AssertionError(f"program {seed}:\n{text}") from fault
    assert 10 <= legal <= 90


@pytest.mark.slow
@pytest.mark.parametrize("first", range(300, 30_000, 1000))
def test_many_random_programs(first: int) -> None:
    for seed in range(first, first + 1000):
        try:
            grow(seed)
        except Exception as fault:
            text = Grower(random.Random(seed)).program()
            raise AssertionError(f"program {seed}:\n{text}") from fault
