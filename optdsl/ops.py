"""The op table: every primitive, once.

A row gives a primitive's name, kind and arity, its meaning as a torch expression (run by the
interpreter, printed by library passes; `linalg` and `order` are optdsl's own), and its text for
host numbers, C and Triton. Interpreter, constant folder, printers, cost model, error bounds,
property tests and the reference page derive from these rows; a missing column is an error at
import, not a silent gap. A composite (norm, debias, newton_schulz) is written in the language
itself, in std/std.opt.

Texts hold `{0}`, `{1}`, ... for the operands, `{dim}` and so on for attributes. Functions in C
come from templates/cpu/module.c.j2, for float or double alike; in Triton those without a prefix
from runtime/triton/math.py.

A `view` is its operand's memory read in another order: it costs nothing, and is taken wherever it
is read. `error` is the bound in ulps of the result (float32 or float64 alike) that every target
keeps for one application; `flops` is what the cost model counts. A `wide` matrix function is worked
out in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    MAP = "map"
    REDUCE = "reduce"
    MATRIX = "matrix"
    RANDOM = "random"
    LEAF = "leaf"
    CONTROL = "control"
    CLOSURE = "closure"


class Result(StrEnum):
    """The dtype of a result: REAL, INT where all operands are, BOOL, or that of the operands."""

    REAL = "real"
    NUMBER = "number"
    BOOL = "bool"
    SAME = "same"


@dataclass(frozen=True)
class Op:
    name: str
    kind: Kind
    arity: int
    doc: str
    torch: str = ""
    host: str = ""
    c: str = ""
    triton: str = ""
    flops: int = 1
    error: float = 0.5
    result: Result = Result.REAL
    commutative: bool = False
    identity: float | None = None
    view: bool = False
    wide: bool = False


def _map(
    name: str,
    arity: int,
    doc: str,
    torch: str,
    host: str,
    c: str,
    triton: str,
    *,
    flops: int = 1,
    error: float = 0.5,
    result: Result = Result.NUMBER,
    commutative: bool = False,
    identity: float | None = None,
) -> Op:
    return Op(
        name,
        Kind.MAP,
        arity,
        doc,
        torch,
        host,
        c,
        triton,
        flops,
        error,
        result,
        commutative,
        identity,
    )


def _same(name: str, text: str, doc: str, **more: object) -> Op:
    """A binary operator that is spelt alike everywhere."""
    return _map(name, 2, doc, text, text, text, text, **more)  # type: ignore[arg-type]


# A row reads as one, not as a column of arguments.
# fmt: off
_COMPARE = {"result": Result.BOOL, "error": 0.0}

_MAPS = [
    _same("add", "{0} + {1}", "sum of two values", commutative=True, identity=0.0),
    _same("sub", "{0} - {1}", "difference"),
    _same("mul", "{0} * {1}", "product", commutative=True, identity=1.0),
    # div_rn and sqrt_rn: Triton's own `/` and sqrt are 2-ulp approximations on NVIDIA.
    _map(
        "div", 2, "real division", "{0} / {1}", "div({0}, {1})", "{0} / {1}",
        "div({0}, {1})", flops=4, result=Result.REAL,
    ),
    _map(
        "floordiv", 2, "division rounded down", "torch.floor_divide({0}, {1})",
        "floordiv({0}, {1})", "floordiv({0}, {1})", "tl.floor(div({0}, {1}))", flops=5, error=1.0,
    ),
    _map(
        "mod", 2, "x - y * floor(x / y)", "torch.remainder({0}, {1})", "mod({0}, {1})",
        "mod({0}, {1})", "tl.fma(-{1}, tl.floor(div({0}, {1})), {0})",
        flops=7, error=2.0,
    ),
    _map("neg", 1, "the negative", "-{0}", "-{0}", "-{0}", "-{0}", error=0.0),
    _map(
        "abs", 1, "absolute value", "torch.abs({0})", "abs({0})", "fabs({0})",
        "tl.abs({0})", error=0.0,
    ),
    _map(
        "sqrt", 1, "square root", "torch.sqrt({0})", "sqrt({0})", "sqrt({0})",
        "sqrt({0})", flops=4, result=Result.REAL,
    ),
    _map(
        "exp", 1, "e to the x", "torch.exp({0})", "exp({0})", "exp({0})",
        "exp({0})", flops=10, error=2.0, result=Result.REAL,
    ),
    _map(
        "log", 1, "natural logarithm", "torch.log({0})", "log({0})", "log({0})",
        "log({0})", flops=10, error=2.0, result=Result.REAL,
    ),
    _map(
        "sin", 1, "sine, in radians", "torch.sin({0})", "sin({0})", "sin({0})",
        "tl.sin({0})", flops=15, error=2.0, result=Result.REAL,
    ),
    _map(
        "cos", 1, "cosine, in radians", "torch.cos({0})", "cos({0})", "cos({0})",
        "tl.cos({0})", flops=15, error=2.0, result=Result.REAL,
    ),
    _map(
        "tanh", 1, "hyperbolic tangent", "torch.tanh({0})", "tanh({0})", "tanh({0})",
        "tanh({0})", flops=15, error=4.0, result=Result.REAL,
    ),
    # A power with a literal exponent of at most 4 becomes multiplications; this is the rest.
    _map(
        "pow", 2, "x to the y", "torch.pow({0}, {1})", "power({0}, {1})",
        "pow({0}, {1})", "power({0}, {1})", flops=25, error=128.0,
    ),
    _map(
        "sign", 1, "-1, 0 or 1; 0 for 0", "torch.sign({0})", "sign({0})",
        "sign({0})", "sign({0})", flops=2, error=0.0,
    ),
    _map(
        "floor", 1, "rounded down", "torch.floor({0})", "floor({0})", "floor({0})",
        "tl.floor({0})", error=0.0,
    ),
    _map(
        "ceil", 1, "rounded up", "torch.ceil({0})", "ceil({0})", "ceil({0})",
        "tl.ceil({0})", error=0.0,
    ),
    _map(
        "round", 1, "to the nearest integer, ties to even", "torch.round({0})", "round_even({0})",
        "rint({0})", "round_even({0})", error=0.0,
    ),
    # NaN where either operand is NaN, on every target.
    _map(
        "min", 2, "the smaller; NaN where either is", "torch.minimum({0}, {1})",
        "minimum({0}, {1})", "smaller({0}, {1})",
        "minimum({0}, {1})", error=0.0, commutative=True,
    ),
    _map(
        "max", 2, "the larger; NaN where either is", "torch.maximum({0}, {1})",
        "maximum({0}, {1})", "larger({0}, {1})",
        "maximum({0}, {1})", error=0.0, commutative=True,
    ),
    # One rounding: fma is meant where it is written, -ffp-contract=off forbids any other.
    _map(
        "fma", 3, "x * y + z with one rounding", "{0} * {1} + {2}", "fma({0}, {1}, {2})",
        "fma({0}, {1}, {2})", "tl.fma({0}, {1}, {2})", flops=2,
    ),
    _map(
        "lerp", 3, "x + w * (y - x): from x, the fraction w of the way to y",
        "{0} + {2} * ({1} - {0})", "lerp({0}, {1}, {2})",
        "fma({2}, {1} - {0}, {0})", "tl.fma({2}, {1} - {0}, {0})", flops=3, error=1.5,
    ),
    _map(
        "where", 3, "the second operand where the first holds, else the third",
        "torch.where({0}, {1}, {2})", "({1} if {0} else {2})", "({0} ? {1} : {2})",
        "tl.where({0}, {1}, {2})", error=0.0, result=Result.SAME,
    ),
    _same("lt", "{0} < {1}", "less", **_COMPARE),
    _same("le", "{0} <= {1}", "less or equal", **_COMPARE),
    _same("gt", "{0} > {1}", "greater", **_COMPARE),
    _same("ge", "{0} >= {1}", "greater or equal", **_COMPARE),
    _same("eq", "{0} == {1}", "equal", commutative=True, **_COMPARE),
    _same("ne", "{0} != {1}", "not equal", commutative=True, **_COMPARE),
    _map(
        "and", 2, "both hold", "torch.logical_and({0}, {1})", "({0} and {1})", "({0} & {1})",
        "both({0}, {1})", error=0.0, result=Result.BOOL, commutative=True,
    ),
    _map(
        "or", 2, "either holds", "torch.logical_or({0}, {1})", "({0} or {1})", "({0} | {1})",
        "either({0}, {1})", error=0.0, result=Result.BOOL, commutative=True,
    ),
    _map(
        "not", 1, "does not hold", "torch.logical_not({0})", "(not {0})", "(!{0})", "({0} == 0)",
        error=0.0, result=Result.BOOL,
    ),
    _map(
        "isfinite", 1, "neither Inf nor NaN", "torch.isfinite({0})", "isfinite({0})",
        "isfinite({0})", "isfinite({0})", error=0.0, result=Result.BOOL,
    ),
]

# A reduction's texts combine an accumulator {0} with a value {1}; `identity` is the result over
# nothing. Float32 partials per tile, a float64 finish, both in a fixed order.
_REDUCTIONS = [
    Op(
        "sum", Kind.REDUCE, 1, "sum", "torch.sum", "", "{0} + {1}", "{0} + {1}", 1, 0.5,
        identity=0.0,
    ),
    Op(
        "max_of", Kind.REDUCE, 1, "largest; NaN where any is", "torch.amax", "",
        "larger({0}, {1})",
        "maximum({0}, {1})", 1, 0.0,
        identity=float("-inf"),
    ),
    Op(
        "min_of", Kind.REDUCE, 1, "smallest; NaN where any is", "torch.amin", "",
        "smaller({0}, {1})",
        "minimum({0}, {1})", 1, 0.0,
        identity=float("inf"),
    ),
    # Never in a kernel: worked out between stages from what lies in memory, by
    # runtime/stages/joins.py.
    Op(
        "kth_of", Kind.REDUCE, 1, "the k-th smallest element over parameters; attribute k", "",
        flops=20, error=0.0, identity=float("nan"),
    ),
]


def _matrix(
    name: str,
    arity: int,
    doc: str,
    torch: str,
    *,
    flops: int = 0,
    error: float = 8.0,
    wide: bool = False,
) -> Op:
    return Op(name, Kind.MATRIX, arity, doc, torch, flops=flops, error=error, wide=wide)


def _view(name: str, doc: str, torch: str) -> Op:
    return Op(name, Kind.MATRIX, 1, doc, torch, flops=0, error=0.0, view=True)


# `rows` and `cols` in the texts are the sizes of p's matrix view; a lead axis is a batch.
_WHERE_TALL = "({0}.mT if rows > cols else {0})"
_WHERE_WIDE = "({0}.mT if rows < cols else {0})"
_MATRICES = [
    _matrix("matmul", 2, "matrix product", "{0} @ {1}", flops=2),
    _view("transpose", "the transposed matrix", "{0}.mT"),
    _view("wide", "x or its transpose, as [short, long]", _WHERE_TALL),
    _view("unwide", "back from [short, long]", _WHERE_TALL),
    _view("tall", "x or its transpose, as [long, short]", _WHERE_WIDE),
    _view("untall", "back from [long, short]", _WHERE_WIDE),
    _matrix(
        "eye", 0, "the n by m matrix with ones on the diagonal",
        "torch.eye(int({n}), int({m}), dtype=dtype, device=device)", error=0.0,
    ),
    _matrix("inverse", 1, "the inverse of a square matrix", "linalg.inverse({0})", flops=2,
            error=1e3),
    _matrix("solve", 2, "x with a @ x = b", "linalg.solve({0}, {1})", flops=2, error=1e3),
    _matrix(
        "cholesky", 1, "the lower triangular c with c @ c.T = a", "linalg.cholesky({0})",
        flops=1, error=1e3,
    ),
    # These give several values, of which `part` takes one.
    _matrix("qr", 1, "a = q @ r: q and r", "linalg.qr({0})", flops=4, error=1e3),
    _matrix(
        "eigh", 1, "a = v @ diag(w) @ v.T: w, ascending, and v", "linalg.eigh({0})",
        flops=9, error=1e3, wide=True,
    ),
    _matrix(
        "svd", 1, "a = u @ diag(s) @ v.T: u, s, descending, and v", "linalg.svd({0})",
        flops=20, error=1e3,
    ),
    _matrix(
        "diag", 1, "the diagonal of a square matrix, as a column",
        "torch.diagonal({0}, dim1=-2, dim2=-1).unsqueeze(-1)", error=0.0,
    ),
    _matrix("triu", 1, "the upper triangle", "torch.triu({0})", error=0.0),
    _matrix(
        "argsort", 1, "the positions that sort an axis, ascending; the first of them",
        "order.argsort({0}, {dim}, {first})", flops=20, error=0.0,
    ),
    _matrix(
        "take", 2, "the entries of an axis at some positions", "order.take({0}, {1}, {dim})",
        error=0.0,
    ),
    _matrix(
        "put", 3, "the third operand with entries of an axis replaced by those of the first",
        "order.put({0}, {1}, {2}, {dim})", error=0.0,
    ),
    _matrix("flip", 1, "axes in the opposite order", "torch.flip({0}, {dims})", error=0.0),
    _matrix(
        "reshape", 1, "the same elements, row by row, in another shape; attributes n, m, fill",
        "order.reshape({0}, {n}, {m}, {fill})", error=0.0,
    ),
    _matrix(
        "unfold", 1, "the matrix of one axis of the tensor by all others",
        "order.unfold({0}, {n}, {m})", error=0.0,
    ),
    _matrix(
        "fold", 1, "back from the matrix of one axis", "order.fold({0}, {n}, {m}, rows, cols)",
        error=0.0,
    ),
    _matrix(
        "kth_smallest", 2, "the k-th smallest element, from 1",
        "order.kth_smallest({0}, {1}, {dims})", flops=20, error=0.0,
    ),
]


def _random(name: str, doc: str, *, flops: int) -> Op:
    text = f"{name}({{0}}, {{1}})"
    return Op(
        name, Kind.RANDOM, 0, doc, f"draw.{name}", "", text, f"{text}.to(REAL)", flops, error=0.0
    )


# Bits as in draws.py, on every target. In kernels of a key and the number of an element. `flops`
# are operations on integers, too: 78 of them make the words.
_RANDOMS = [
    _random("rand", "uniform in [0, 1)", flops=81),
    _random("randn", "standard normal", flops=124),
    _random("exponential", "exponential with mean 1", flops=108),
]


def _leaf(name: str, doc: str, kind: Kind = Kind.LEAF, arity: int = 0) -> Op:
    return Op(name, kind, arity, doc, flops=0, error=0.0)


_LEAVES = [
    _leaf("const", "a literal; attribute value"),
    _leaf("param", "p at the start of the step"),
    _leaf("grad", "the gradient given to the step"),
    _leaf("state", "a state's value at the start of the step; attribute name"),
    _leaf("host_state", "a group's number on the host at the start of the step; attribute name"),
    _leaf("input", "what the caller supplied; attribute name"),
    _leaf("hyper", "a hyperparameter; attributes name, index (None, or which items of a tuple)"),
    _leaf("attribute", "an attribute of the parameter or its group; attribute name"),
    _leaf("t", "the number of this update of this parameter, from 1"),
    _leaf("steps", "the number of this step of the group, from 1"),
    _leaf(
        "size", "a size of p's matrix view; attribute name: rows cols short long numel ndim batch "
        "and those of the axes behind the first"
    ),
    _leaf("lead_size", "the size of a named axis; attribute name"),
    _leaf("first", "whether this step creates the state; attribute name"),
    _leaf("name_matches", "whether the parameter's name matches; attribute pattern"),
    _leaf("loop_arg", "a value carried by a loop, inside it; attributes loop, index"),
]

# What a plan's passes are written in: the schedule replaces leaves and reductions by these.
_PLAN_LEAVES = [
    _leaf("load", "an element of a buffer; attribute buffer"),
    _leaf("scalar", "a host number of this step, from the scalar table; attribute index"),
    _leaf("result", "a finished reduction; attribute slot"),
    _leaf("evaluated", "what an evaluation of the model gave in this step; attribute slot"),
    _leaf("draw_key", "what the draws of a place have in common; attributes site, at: a scalar"),
    _leaf("element", "the number of an element within its parameter"),
    _leaf("row_result", "a row reduction closed by an earlier phase of this pass; attribute slot"),
    _leaf("evaluating", "whether p is to get its value for evaluation, instead of a step"),
    _leaf(
        "g_scale", "what gradients are multiplied by: 1 over a gradient scaler's scale, negative "
        "under maximize",
    ),
]

_CONTROLS = [
    _leaf(
        "choose", "the second operand where the first, a host condition, holds, else the third; "
        "the other is not computed", Kind.CONTROL, 3,
    ),
    _leaf(
        "loop", "a body repeated (operand 0) times over carried values; attribute body",
        Kind.CONTROL, -1,
    ),
    _leaf("loop_result", "what a loop leaves of a carried value; attribute index", Kind.CONTROL, 1),
    _leaf("part", "one of the values of a decomposition; attribute index", Kind.CONTROL, 1),
    _leaf("full", "a value broadcast to the type's shape, on the device", Kind.CONTROL, 1),
    _leaf("index", "one entry of the first axis; operand 1 on the host", Kind.CONTROL, 2),
    _leaf(
        "put_index", "the first operand with one entry of its first axis replaced", Kind.CONTROL, 3
    ),
    _leaf(
        "to_host", "a number of a tensor as one of the host; the front end makes loops and numbers "
        "of tensors of what depends on it", Kind.CONTROL, 1,
    ),
]

_CLOSURES = [
    _leaf("loss_at", "the closure's loss with the parameters at the operand", Kind.CLOSURE, 1),
    _leaf("grad_at", "the closure's gradient with the parameters at the operand", Kind.CLOSURE, 1),
    _leaf("worker_sum", "sum over the process group", Kind.CLOSURE, 1),
    _leaf("worker_max", "maximum over the process group", Kind.CLOSURE, 1),
    _leaf("worker_min", "minimum over the process group", Kind.CLOSURE, 1),
    _leaf("gather", "[workers, *x]: the value of each worker", Kind.CLOSURE, 1),
    _leaf("workers", "the number of workers", Kind.LEAF),
    _leaf("rank", "this worker's number", Kind.LEAF),
]
# fmt: on


def _table(rows: list[Op]) -> dict[str, Op]:
    table: dict[str, Op] = {}
    for op in rows:
        if op.name in table:
            raise ValueError(f"op {op.name} is defined twice")
        missing = [
            column
            for column in ("torch", "host", "c", "triton")
            if op.kind is Kind.MAP and not getattr(op, column)
        ]
        if missing or not op.doc:
            raise ValueError(f"op {op.name} lacks {missing or 'doc'}")
        table[op.name] = op
    return table


OPS: dict[str, Op] = _table(
    _MAPS + _REDUCTIONS + _MATRICES + _RANDOMS + _LEAVES + _PLAN_LEAVES + _CONTROLS + _CLOSURES
)
"""Every primitive by name."""
