"""A typed rule as formulas: what a step computes, in LaTeX.

Input: a typed rule, before any pass. Output: the lines of an `aligned` block, one for each value
that the rule names, down to the new states and the new parameter.

Old values carry the index t-1, new ones t. Static options are taken at their defaults and a state
is taken to exist; what depends on t stays a case. A linear interpolation is written out as the
average that it is, a root of a sum of squares as a norm. Relies on: the typed rule, hosteval for
static conditions. Does not do: simplify, or show how it is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from optdsl.hosteval import Facts, host_number
from optdsl.ir.coupling import ends_of
from optdsl.ir.nodes import LoopBody, Rule, Value, reachable
from optdsl.types import DType

GREEK = {
    **{name: rf"\{name}" for name in ("alpha", "beta", "gamma", "delta", "kappa", "lambda", "mu")},
    **{name: rf"\{name}" for name in ("nu", "omega", "phi", "psi", "rho", "sigma", "tau", "theta")},
    **{name: rf"\{name}" for name in ("xi", "zeta", "eta", "pi", "chi")},
    "eps": r"\epsilon",
    "lr": r"\eta",
    "weight_decay": r"\lambda",
    "momentum": r"\mu",
}
"""What the papers write for a name."""

SUM, SIGN, PRODUCT, POWER, ATOM = range(5)
"""How tightly a text binds."""

INFIX = {
    "lt": "<",
    "le": r"\le",
    "gt": ">",
    "ge": r"\ge",
    "eq": "=",
    "ne": r"\ne",
    "and": r"\wedge",
    "or": r"\vee",
}
AXES = {None: "", 0: r"\text{rows}", 1: r"\text{columns}"}
"""Along what a reduction runs: axis 0 goes over the rows of a column."""

LASTING = {"const", "hyper", "attribute", "size", "first", "name_matches", *INFIX, "not"}
LASTING |= {"add", "sub", "mul", "div", "max", "min"}
"""What a condition is made of that falls alike on every step."""

LEAVES = {"param": r"\theta_{t-1}", "grad": "g_t", "t": "t", "steps": "t", "g_scale": "1"}


@dataclass(frozen=True)
class Text:
    """LaTeX and how tightly it binds."""

    tex: str
    level: int = ATOM

    def at(self, level: int) -> str:
        """In a place that needs `level`."""
        return self.tex if self.level >= level else rf"\left({self.tex}\right)"


def formula(rule: Rule) -> str:
    """The rule as the lines of an `aligned` block."""
    return _Printer(rule).text()


def symbol(name: str) -> str:
    """A name as a symbol: Greek where papers use it, digits at its end as an index."""
    stem = name.rstrip("0123456789")
    digits, stem = name[len(stem) :], stem.removesuffix("_")
    if not stem:
        return name
    words = stem.replace("_", r"\_")
    tex = GREEK.get(stem) or (stem if len(stem) == 1 else rf"\mathrm{{{words}}}")
    return f"{tex}_{{{digits}}}" if digits else tex


@dataclass
class _Printer:
    rule: Rule
    names: dict[Value, str] = field(default_factory=dict)
    texts: dict[Value, Text] = field(default_factory=dict)
    loops: dict[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.facts = Facts.steady(self.rule, (4, 3))
        self.outputs = {name: self._taken(value) for name, value in self.rule.outputs()}

    # ---------------------------------------------------------------- the lines

    def text(self) -> str:
        """All lines, operands before users, the parameter last."""
        order = self._order()
        uses = Counter(arg for value in order for arg in map(self._taken, value.args))
        finals = {id(value): name for name, value in self.outputs.items()}
        taken: set[str] = set()
        for value in order:
            if id(value) in finals and not (value.op in LEAVES or value.op == "state"):
                self.names[value] = self._new(finals[id(value)])
            elif (
                value.name
                and value.op not in ("param", "grad", "state")
                and self._worth(value, uses)
            ):
                name = symbol(value.name) if value.name not in ("p", "g") else rf"\hat {value.name}"
                name = r"\hat \theta" if value.name == "p" else name
                while name in taken:
                    name = f"{name}'"
                taken.add(name)
                self.names[value] = name
        lines = [self._line(value) for value in order if value in self.names]
        lines += [
            f"{self._new(name)} &= {self._show(value).tex}"
            for name, value in self.outputs.items()
            if value not in self.names or self.names[value] != self._new(name)
        ]
        lines = [each for each in lines if not _unchanged(each)]
        last = [each for each in lines if each.startswith(r"\theta_t")]
        return " \\\\\n".join([*(each for each in lines if each not in last), *last])

    def _order(self) -> list[Value]:
        """What the outputs depend on, through the sides of conditions that are taken."""
        seen: dict[Value, None] = {}

        def visit(root: Value) -> None:
            stack = [(root, False)]
            while stack:
                value, done = stack.pop()
                if done:
                    seen.setdefault(value)
                elif value not in seen:
                    stack.append((value, True))
                    stack.extend((self._taken(arg), False) for arg in reversed(value.args))

        for value in self.outputs.values():
            visit(value)
        return list(seen)

    def _worth(self, value: Value, uses: Counter[Value]) -> bool:
        """Whether a value that has a name gets a line: what is short and used once does not."""
        if value.op in ("const", "hyper", "attribute", "size", "loop_arg", "t", "steps", "full"):
            return False
        return uses[value] > 1 or len(reachable([value])) > 6

    def _line(self, value: Value) -> str:
        name = self.names.pop(value)
        text = self._show(value).tex
        self.names[value] = name
        self.texts.pop(value, None)
        return f"{name} &= {text}"

    def _new(self, name: str) -> str:
        if name == "p":
            return r"\theta_t"
        if name.startswith("report "):
            return rf"\mathrm{{{name.removeprefix('report ')}}}"
        return self._state(name, "t")

    def _state(self, name: str, index: str) -> str:
        """A state at an index; one of a transform is known by its key."""
        state = self.rule.state(name)
        own = state.span is not None and state.span.source is self.rule.source
        shown = symbol(state.name if own else state.key)
        base, _, below = shown.partition("_{")
        return f"{base}_{{{below[:-1]},{index}}}" if below else f"{shown}_{{{index}}}"

    def _taken(self, value: Value) -> Value:
        """The side of a condition that holds by default; `value` where that depends on t."""
        while value.op in ("choose", "where"):
            condition = value.args[0]
            if not LASTING.issuperset(each.op for each in reachable([condition])):
                return value
            value = value.args[1 if host_number(condition, self.facts) else 2]
        return value

    # ---------------------------------------------------------------- expressions

    def _show(self, value: Value) -> Text:
        value = self._taken(value)
        if value in self.names:
            return Text(self.names[value])
        if value not in self.texts:
            self.texts[value] = self._expression(value)
        return self.texts[value]

    def _expression(self, value: Value) -> Text:
        if value.op in LEAVES:
            return Text(LEAVES[value.op])
        method = getattr(self, f"op_{value.op}", None)
        if method is not None:
            found: Text = method(value)
            return found
        if value.op in INFIX:
            left, right = (self._show(each).at(PRODUCT) for each in value.args)
            return Text(f"{left} {INFIX[value.op]} {right}", SUM)
        arguments = ", ".join(self._show(each).tex for each in value.args)
        name = value.op.removesuffix("_of").replace("_", r"\_")
        return Text(rf"\operatorname{{{name}}}\left({arguments}\right)")

    def op_const(self, value: Value) -> Text:
        number = value.attr("value")
        if isinstance(number, str | bool):
            return Text(rf"\text{{{number}}}")
        if math.isinf(number):
            return Text(r"\infty" if number > 0 else r"-\infty", ATOM if number > 0 else SIGN)
        return Text(_decimal(number), ATOM if number >= 0 else SIGN)

    def op_hyper(self, value: Value) -> Text:
        index = value.attr("index")
        name = value.attr("name")
        if not index:
            return Text(symbol(name))
        stem = GREEK.get(name.removesuffix("s")) or symbol(name)
        return Text(f"{stem}_{{{','.join(str(each + 1) for each in index)}}}")

    def op_attribute(self, value: Value) -> Text:
        return Text(symbol(value.attr("name")))

    def op_input(self, value: Value) -> Text:
        return Text(symbol(value.attr("name")))

    def op_size(self, value: Value) -> Text:
        return Text({"numel": "n"}.get(value.attr("name"), rf"\mathrm{{{value.attr('name')}}}"))

    def op_state(self, value: Value) -> Text:
        return Text(self._state(value.attr("name"), "t-1"))

    def op_add(self, value: Value) -> Text:
        left, right = map(self._show, value.args)
        if right.tex.startswith("-") and right.level == SIGN:
            return Text(f"{left.tex} {right.tex}", SUM)
        return Text(f"{left.tex} + {right.tex}", SUM)

    def op_sub(self, value: Value) -> Text:
        left, right = map(self._show, value.args)
        return Text(f"{left.tex} - {right.at(PRODUCT)}", SUM)

    def op_mul(self, value: Value) -> Text:
        if value.args[0] is value.args[1]:
            return Text(f"{self._show(value.args[0]).at(ATOM)}^2", POWER)
        left, right = (self._show(each).at(PRODUCT) for each in value.args)
        dot = r" \cdot " if right[:1].isdigit() else r" \, "
        return Text(f"{left}{dot}{right}", PRODUCT)

    def op_div(self, value: Value) -> Text:
        total, count = map(self._taken, value.args)
        if total.op == "sum" and count.op == "size" and total not in self.names:
            inner = self._show(total.args[0]).tex
            return Text(rf"\operatorname{{mean}}{self._along(total)}\left({inner}\right)")
        top, bottom = (self._show(each).tex for each in value.args)
        return Text(rf"\frac{{{top}}}{{{bottom}}}")

    def op_max(self, value: Value) -> Text:
        left, right = (self._show(each).tex for each in value.args)
        return Text(rf"\max\left({left}, {right}\right)")

    def op_min(self, value: Value) -> Text:
        left, right = (self._show(each).tex for each in value.args)
        return Text(rf"\min\left({left}, {right}\right)")

    def op_eye(self, value: Value) -> Text:
        return Text("I")

    def op_mod(self, value: Value) -> Text:
        left, right = (self._show(each).at(PRODUCT) for each in value.args)
        return Text(rf"{left} \bmod {right}", PRODUCT)

    def op_floordiv(self, value: Value) -> Text:
        return Text(rf"\left\lfloor {self.op_div(value).tex} \right\rfloor")

    def op_neg(self, value: Value) -> Text:
        return Text(f"-{self._show(value.args[0]).at(PRODUCT)}", SIGN)

    def op_pow(self, value: Value) -> Text:
        base, exponent = map(self._show, value.args)
        return Text(f"{base.at(ATOM)}^{{{exponent.tex}}}", POWER)

    def op_sqrt(self, value: Value) -> Text:
        norm = self._norm(self._taken(value.args[0]))
        return norm or Text(rf"\sqrt{{{self._show(value.args[0]).tex}}}")

    def _norm(self, value: Value) -> Text | None:
        """The norm of x, where `value` is the sum of the squares of x."""
        if value.op != "sum" or value in self.names:
            return None
        inner = self._taken(value.args[0])
        if inner.op != "mul" or inner.args[0] is not inner.args[1]:
            return None
        below = self._along(value)
        return Text(rf"\left\lVert {self._show(inner.args[0]).tex} \right\rVert{below}")

    def op_abs(self, value: Value) -> Text:
        return Text(rf"\left| {self._show(value.args[0]).tex} \right|")

    def op_exp(self, value: Value) -> Text:
        return Text(f"e^{{{self._show(value.args[0]).tex}}}", POWER)

    def op_lerp(self, value: Value) -> Text:
        """a + w (b - a); an average where w is 1 - beta."""
        a, b, weight = value.args
        old, new = self._show(a), self._show(b)
        kept = self._complement(self._taken(weight))
        if kept is not None:
            share, rest = kept.at(PRODUCT), Text(f"1 - {kept.at(PRODUCT)}", SUM).at(PRODUCT)
        else:
            rest = self._show(weight).at(PRODUCT)
            share = Text(f"1 - {rest}", SUM).at(PRODUCT)
        return Text(rf"{share} \, {old.at(PRODUCT)} + {rest} \, {new.at(PRODUCT)}", SUM)

    def _complement(self, value: Value) -> Text | None:
        """beta, where `value` is 1 - beta."""
        one = value.op == "sub" and value.args[0].op == "const" and value.args[0].attr("value") == 1
        return self._show(value.args[1]) if one and value not in self.names else None

    def op_fma(self, value: Value) -> Text:
        x, y, z = value.args
        return Text(f"{self._mul_of(x, y)} + {self._show(z).tex}", SUM)

    def _mul_of(self, x: Value, y: Value) -> str:
        return rf"{self._show(x).at(PRODUCT)} \, {self._show(y).at(PRODUCT)}"

    def op_where(self, value: Value) -> Text:
        return self._cases(value)

    def op_choose(self, value: Value) -> Text:
        return self._cases(value)

    def _cases(self, value: Value) -> Text:
        condition, then, otherwise = map(self._show, value.args)
        sides = rf"{then.tex} & {condition.tex} \\ {otherwise.tex} & \text{{otherwise}}"
        return Text(rf"\begin{{cases}} {sides} \end{{cases}}")

    def op_not(self, value: Value) -> Text:
        return Text(rf"\neg {self._show(value.args[0]).at(ATOM)}", SIGN)

    def op_full(self, value: Value) -> Text:
        return self._show(value.args[0])

    def op_matmul(self, value: Value) -> Text:
        left, right = (self._show(each).at(PRODUCT) for each in value.args)
        return Text(rf"{left} \, {right}", PRODUCT)

    def op_transpose(self, value: Value) -> Text:
        return Text(rf"{self._show(value.args[0]).at(ATOM)}^\top", POWER)

    def op_inverse(self, value: Value) -> Text:
        return Text(f"{self._show(value.args[0]).at(ATOM)}^{{-1}}", POWER)

    def op_sum(self, value: Value) -> Text:
        inner = self._taken(value.args[0])
        below = self._along(value)
        if inner.op == "mul" and inner not in self.names and inner.args[0] is not inner.args[1]:
            left, right = (self._show(each).tex for each in inner.args)
            if not below:
                return Text(rf"\left\langle {left}, {right} \right\rangle")
        norm = self._norm(value)
        if norm is not None:
            return Text(f"{norm.tex}^2", POWER)
        return Text(rf"\sum{below} {self._show(inner).at(PRODUCT)}", PRODUCT)

    def op_max_of(self, value: Value) -> Text:
        return Text(rf"\max{self._along(value)} {self._show(value.args[0]).at(PRODUCT)}", PRODUCT)

    def op_min_of(self, value: Value) -> Text:
        return Text(rf"\min{self._along(value)} {self._show(value.args[0]).at(PRODUCT)}", PRODUCT)

    def _along(self, value: Value) -> str:
        """The index of a reduction: what it runs over."""
        over = value.attr("over")
        if over is not None:
            return rf"_{{\text{{{over}}}}}"
        axis = value.attr("axis")
        if axis is None:
            return ""
        return f"_{{{AXES[axis]}}}" if axis in AXES else rf"_{{\text{{{axis}}}}}"

    def op_loss_at(self, value: Value) -> Text:
        return Text(rf"f\left({self._show(value.args[0]).tex}\right)")

    def op_grad_at(self, value: Value) -> Text:
        return Text(rf"\nabla f\left({self._show(value.args[0]).tex}\right)")

    def op_loop(self, value: Value) -> Text:
        body: LoopBody = value.attr("body")
        count = self._show(value.args[0]).tex
        first = ", ".join(self._show(each).tex for each in value.args[1:])
        for number, each in enumerate(body.args):
            name = symbol(each.name) if each.name else f"x_{{{number}}}"
            self.texts[each] = Text(name)
        if body.index is not None:
            self.texts[body.index] = Text("k")
        steps = list(self._within(value))
        for each, result in zip(body.args, body.results, strict=True):
            name, new = self.texts[each].tex, self._show(result).tex
            steps += [] if name == new else [rf"{name} \leftarrow {new}"]
        if body.until is not None:
            steps.append(rf"\text{{until }} {self._show(body.until).tex}")
        many = len(steps) > len(body.args)
        text = (r" \\ " if many else r",\ ").join(steps)
        text = rf"\begin{{array}}{{l}} {text} \end{{array}}" if many else text
        once = value.args[0].type.dtype is DType.BOOL
        often = rf"_{{\text{{if }} {count}}}" if once else rf"^{{{count} \times}}"
        return Text(rf"\left[{text}\right]{often}\left({first}\right)")

    def _within(self, loop: Value) -> Iterator[str]:
        """What a pass of a loop works out first: values with a name that it uses more than once."""
        values = reachable(ends_of(loop))
        uses = Counter((*(arg for value in values for arg in value.args), *ends_of(loop)))
        taken = {self.texts[each].tex for each in loop.attr("body").args}
        for value in values:
            named = value.name and uses[value] > 1 and value.args and value.op != "full"
            if value in self.names or not named:
                continue
            name = symbol(str(value.name))
            while name in taken:
                name = f"{name}'"
            taken.add(name)
            yield rf"{name} \leftarrow {self._show(value).tex}"
            self.texts[value] = Text(name)

    def op_loop_result(self, value: Value) -> Text:
        """The whole loop for the first of its results, dots for the others."""
        loop, arg = value.args[0], value.args[0].attr("body").args[value.attr("index")]
        if self.loops.setdefault(loop, value) is value:
            return self._show(loop)
        return Text(rf"\left[\cdots\right]_{{{symbol(arg.name or 'x')}}}")


def _unchanged(line: str) -> bool:
    """Whether a state keeps its value, as that of an option that is off."""
    new, _, old = line.partition(" &= ")
    return new.removesuffix("t}") == old.removesuffix("t-1}")


def _decimal(number: float) -> str:
    """A literal; powers of ten as such."""
    text = repr(number)
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text.removesuffix(".0")
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"
