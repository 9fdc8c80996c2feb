"""lay_blocks: what goes over blocks of consecutive elements, as what goes over rows.

Where n divides the number of elements, blocks of n are the rows of the matrix [numel / n, n], which
lies in memory as p does: a kernel that knows rows then works on them in one pass, without a copy. A
variant that goes over blocks of one length, and knows no other rows and columns, gets a twin with
that matrix for p's, behind the condition that n divides. Elsewhere the library works on them.

Input: a rule with `view rows`, its split. Output: the split with such twins; `blocks` of each says
how many and how long. Relies on: reshape, which the front end makes of `blocks = n`. Does not do:
rows that end early, rules that reduce over parameters.
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.nodes import Builder, Rule, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.passes.variants import STATISTICS, Branch, Split, Straight
from optdsl.types import SCALAR, Dim, DType, Instances, Place, Shape, Type

FULL = Shape((), "rows", "cols")
ROW = Shape((), "rows", 1)
KINDS = frozenset({Kind.MAP, Kind.REDUCE, Kind.LEAF})
CONTROLS = frozenset({"full", "reshape"})


def lay_blocks(rule: Rule, split: Split) -> None:
    """Adds the twins to `split`."""
    # A reduction over parameters is made by all variants in one stage; a twin has fewer of them.
    if rule.view == "rows" and not split.sites:
        split.tree = _laid(rule, split, split.tree)


def _laid(rule: Rule, split: Split, tree: Branch | int) -> Branch | int:
    if isinstance(tree, Branch):
        then, otherwise = (_laid(rule, split, each) for each in (tree.then, tree.otherwise))
        return Branch(tree.condition, then, otherwise)
    variant = split.variants[tree]
    blocks = _blocks(rule, [*variant.outputs.values()])
    if blocks is None:
        return tree
    count, length = blocks
    divides = _divides(rule, length)
    for index, each in enumerate(split.variants):
        if each.twin_of == tree:  # a variant may be met at several ends of the tree
            return Branch(divides, index, tree)
    done = _rewritten(rule.builder, [*variant.outputs.values()], count, length)
    split.variants.append(
        Straight(
            (*variant.path, (divides, True)),
            {name: done[value] for name, value in variant.outputs.items()},
            {},
            blocks,
            tree,
        )
    )
    variant.path = (*variant.path, (divides, False))
    return Branch(divides, len(split.variants) - 1, tree)


def in_rows(rule: Rule, blocks: tuple[Dim, Dim] | None) -> Rule:
    """`rule` as a twin sees it: a state with a number for each block has one for each row."""
    if blocks is None:
        return rule
    each = Shape((), blocks[0], 1)
    states = [
        replace(state, type=state.type.with_(shape=ROW)) if state.type.shape == each else state
        for state in rule.states
    ]
    return replace(rule, states=tuple(states))


def _blocks(rule: Rule, roots: list[Value]) -> tuple[Dim, Dim] | None:
    """The number of blocks and their length, where nothing else knows of rows and columns."""
    values = [value for value in reachable(roots) if value.type.on_device]
    found = {
        (value.type.shape.rows, value.type.shape.cols)
        for value in values
        if value.op == "reshape" and value.type.shape != FULL
    }
    if len(found) != 1:
        return None
    ((count, length),) = found
    wanted = rule.dims.get(str(count))
    if wanted is None or wanted.op != "ceil" or length == 1:
        return None
    whole, known = wanted.args[0], _length(rule, length)
    if whole.op != "div" or whole.args[0].op != "size" or whole.args[0].attr("name") != "numel":
        return None
    if known is None or whole.args[1] is not known:
        return None
    shapes = (FULL, Shape((), count, length), Shape((), count, 1), SCALAR)
    fits = all(value.type.shape in shapes and _is_plain(value) for value in values)
    return (count, length) if fits else None


def _is_plain(value: Value) -> bool:
    """Whether a kernel can compute it, of whatever rows."""
    if value.op == "evaluated" or value.op in STATISTICS:
        return False
    if any(arg.op == "size" and arg.attr("name") != "numel" for arg in value.args):
        return False
    kind = OPS[value.op].kind
    columns = kind is Kind.REDUCE and value.attr("axis") == 0
    return (kind in KINDS or value.op in CONTROLS) and not columns


def _length(rule: Rule, length: Dim) -> Value | None:
    """The host number that the length is; None for a size of p."""
    return rule.builder.const(length) if isinstance(length, int) else rule.dims.get(length)


def _divides(rule: Rule, length: Dim) -> Value:
    number = Type(Instances.PARAM, SCALAR, Place.STATIC, DType.INT)
    numel = rule.builder.make("size", (), number, name="numel")
    known = _length(rule, length)
    assert known is not None
    left = rule.builder.make("mod", (numel, known), number)
    return rule.builder.make("eq", (left, rule.builder.const(0)), number.with_(dtype=DType.BOOL))


def _rewritten(builder: Builder, roots: list[Value], count: Dim, length: Dim) -> dict[Value, Value]:
    """The same values of a matrix whose rows are the blocks."""
    shapes = {Shape((), count, length): FULL, Shape((), count, 1): ROW}
    done: dict[Value, Value] = {}
    for value in reachable(roots):
        args = tuple(done[arg] for arg in value.args)
        if value.op == "reshape":
            done[value] = args[0]
            continue
        shape = shapes.get(value.type.shape, value.type.shape) if value.type.on_device else SCALAR
        type_ = value.type.with_(shape=shape)
        new = builder.make(value.op, args, type_, value.span, **dict(value.attrs))
        new.name = new.name or (value.name if new.op not in ("const", "param", "grad") else None)
        done[value] = new
    return done
