"""Library passes as Python functions over batches of matrices.

Input: a plan. Output: the texts of functions `name(inputs, scalars, results, sizes)`, one a pass;
what they are given is said in runtime/stages/library.py. A batch has all parameters of one shape as
its first axis; with `view last`, a parameter's own matrices as its second. A pass whose loops tie
parameters together is a generator, which yields what it asks of all (runtime/stages/lockstep.py).

Relies on: script.py, the op table's `torch` column. Does not do: shapes, memory (runtime).
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from optdsl.axes import AXIS_SIZES
from optdsl.codegen.body import bare, fill_text
from optdsl.codegen.host import FUNCTIONS, unsupported
from optdsl.codegen.literals import LINE_LENGTH, layout, literal, tuple_of
from optdsl.codegen.script import Script, Text
from optdsl.diagnostics import InternalError
from optdsl.ir.coupling import EVALUATIONS, couples, rank
from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import LibraryPass, Plan, Variant
from optdsl.types import BATCH, Dim, DType, Instances, Shape

SHARED = ("linalg", "order")
"""Modules of optdsl that library passes call."""
PARAMETERS = ("inputs", "scalars", "results", "sizes")
SIZES = ("rows", "cols", "short", "long", "numel", "batch", "ndim", *AXIS_SIZES)


@dataclass
class Library:
    """Writes the functions of one plan. `like` names a tensor of the pass that is being written,
    `computed` the sizes in it that are no names of their own."""

    plan: Plan
    like: str = ""
    computed: dict[str, str] = field(default_factory=dict)
    script: Script = field(init=False)

    def texts(self) -> list[str]:
        """All functions, in the order of the plan."""
        return [
            self.function(each)
            for variant in self.plan.variants
            for each in variant.passes
            if isinstance(each, LibraryPass)
        ]

    def function(self, library: LibraryPass) -> str:
        """The text of one pass. Raises CompileError for what no target does yet."""
        roots = [each.value for each in library.outputs]
        rule = self.plan.rule
        axes = [axis for each in rule.inputs for axis in each.type.shape.lead]
        named = [str(each) for each in (*rule.dims, *axes) if str(each).isidentifier()]
        sizes = tuple(dict.fromkeys((*SIZES, *named)))
        taken = {*PARAMETERS, *sizes, *FUNCTIONS, "torch", "linalg", "order", "draw"}
        self.script = script = Script(self._spell, _column, taken)
        self.computed = {}
        values = reachable(roots)
        for value in values:
            if value.op in ("load", "result", "scalar"):
                script.assign(value)
        draws = [value for value in values if OPS[value.op].kind is Kind.RANDOM]
        for value in draws:
            if len(value.args) == 1:  # others draw anew in each pass of a loop
                script.assign(value)
        tensors = [(leaf, name) for leaf, name in script.names.items() if leaf.op != "scalar"]
        if not tensors:
            raise InternalError("codegen/library", f"{library.name} reads nothing")
        self.like = next((name for leaf, name in tensors if self._batched(leaf)), tensors[0][1])
        outputs = script.write(roots)
        script.add(
            f"return {layout(tuple_of([bare(text) for text in outputs]), 11, script.indent)}"
        )
        said = re.sub(r'#.*|"[^"]*"', "", "\n".join(script.lines))
        used = {size: size for size in sizes if re.search(rf"\b{size}\b", said)} | self.computed
        head = [f"    {name} = sizes[{literal(size)}]" for size, name in used.items()]
        names = ", ".join(f"`{each.buffer}`" for each in library.outputs)
        doc = textwrap.fill(
            f'"""Gives {names}, for all parameters of one shape."""',
            LINE_LENGTH,
            initial_indent="    ",
            subsequent_indent="    ",
        )
        given = (*PARAMETERS, "draw") if draws else PARAMETERS
        signature = f"def {library.name}({', '.join(given)}):"
        return "\n".join([signature, doc, *head, *script.lines])

    # ---------------------------------------------------------------- expressions

    def _spell(self, value: Value, text: Text) -> str | None:
        match value.op:
            case "const":
                return literal(value.attr("value"))
            case "load":
                return f"inputs[{literal(value.attr('buffer'))}]"
            case "result":
                return f"results[{literal(value.attr('slot'))}]"
            case "scalar":
                return f"scalars[{value.attr('index')}]"
            case "size":
                return str(value.attr("name"))
            case "eye":
                n, m = self._size(value.attr("n")), self._size(value.attr("m"))
                size = n if n == m else f"{n}, {m}"
                where = f"dtype={self.like}.dtype, device={self.like}.device"
                return f"torch.eye({size}, {where})"
            case "part":
                return fill_text(f"{{0}}[{value.attr('index')}]", [text(value.args[0])])
            case "full":
                shape = ", ".join(map(self._size, value.type.shape.dims))
                number = self._tensor(value.args[0], text)
                return fill_text(f"{{0}}.expand({self.like}.shape[0], {shape})", [number])
            case "index":
                entry = fill_text(f"{{0}}[:, int({text(value.args[1])})]", [text(value.args[0])])
                return entry if value.args[0].type.shape.lead else f"{entry}.unsqueeze(-1)"
            case "put_index":
                return self._put(value, text)
            case "argsort" | "take" | "put" | "flip" | "kth_smallest":
                return self._ordered(value, text)
            case "reshape" | "unfold" | "fold":
                return self._ordered(value, text)
        if couples(value):
            return self._asked(value, text)
        kind = OPS[value.op].kind
        if kind is Kind.RANDOM and value.attr("over") is None:
            shape = f"({', '.join(map(self._size, value.type.shape.dims))})"
            at, site = bare(text(value.args[0])), str(value.attr("site"))
            for turn in value.args[1:]:
                site = f"site_in_pass({site}, {bare(text(turn))})"
            return f"draw({literal(value.op)}, {shape}, {site}, {at})"
        if kind is Kind.MAP:
            return self._map(value, text) if value.type.on_device else None
        if kind is Kind.REDUCE:
            return self._reduce(value, text)
        if kind is Kind.MATRIX or value.op in ("loop", "loop_arg"):
            return None
        raise unsupported(value, self.plan.rule.name)

    def _asked(self, value: Value, text: Text) -> str:
        """What all parameters together are asked for in a pass of a loop."""
        operand, first = value.args[0], rank(value)
        if first is None or not self._batched(operand):
            raise unsupported(value, self.plan.rule.name)
        place = f"({', '.join((*self.script.turns, str(first)))})"
        if value.op in EVALUATIONS:
            return f'(yield {place}, "{value.op}", {bare(text(operand))})'
        asked = f"{value.op} over {value.attr('over')}"
        return f'(yield {place}, "{asked}", {self._reduced(value, text)})'

    def _map(self, value: Value, text: Text) -> str:
        condition = value.args[0]
        if value.op == "where" and not condition.type.on_device:
            texts = [text(condition), *(self._tensor(arg, text) for arg in value.args[1:])]
            return fill_text("({1} if {0} else {2})", texts)
        lead = _named(value.type.shape)
        row = OPS[value.op].torch
        texts = []
        for arg in value.args:
            if not arg.type.on_device:
                # Operators take Python numbers, torch's functions mostly do not.
                texts.append(self._tensor(arg, text) if row.startswith("torch.") else text(arg))
                continue
            own = text(arg)
            for position, axis in enumerate(lead if self._batched(arg) else ()):
                if axis not in _named(arg.type.shape):
                    own = fill_text(f"{{0}}.unsqueeze({position + 1})", [own])
            texts.append(own)
        return fill_text(row, texts)

    def _size(self, dim: Dim) -> str:
        """A size as a number or a name."""
        text = str(dim)
        if text.isidentifier() or text.isdigit():
            return text
        if text not in self.computed:
            self.computed[text] = self.script.reserve("size")
        return self.computed[text]

    def _batched(self, value: Value) -> bool:
        """Whether there is one for each parameter: all but numbers of the group or of the run, and
        what is worked out from those alone."""
        if value.type.instances is Instances.PARAM or not value.type.shape.is_scalar:
            return True
        if couples(value) or value.op == "loop_result":
            return False
        return any(arg.type.on_device and self._batched(arg) for arg in value.args)

    def _tensor(self, value: Value, text: Text) -> str:
        """`value` as a tensor: a number of the host without a copy from it."""
        if value.type.on_device:
            return text(value)
        dtype = ", dtype=torch.bool" if value.type.dtype is DType.BOOL else ""
        return f"{self.like}.new_full((), {bare(text(value))}{dtype})"

    def _reduce(self, value: Value, text: Text) -> str:
        if not self._batched(value.args[0]):
            raise unsupported(value, self.plan.rule.name)
        return self._reduced(value, text)

    def _reduced(self, value: Value, text: Text) -> str:
        """The reduction within each parameter."""
        operand, axis = value.args[0], value.attr("axis")
        function, inner = OPS[value.op].torch, bare(text(operand))
        named = _named(operand.type.shape)
        if axis in named:  # the batch of parameters comes first
            return f"{function}({inner}, dim={1 + named.index(axis)})"
        dims = {0: "-2", 1: "-1"}.get(axis)
        if axis is None:
            dims = "(-3, -2, -1)" if self.plan.rule.view == "last" else "(-2, -1)"
        return f"{function}({inner}, dim={dims}, keepdim=True)"

    def _ordered(self, value: Value, text: Text) -> str:
        """A row of the op table with the attributes that it names."""
        row, attributes = OPS[value.op].torch, dict(value.attrs)
        dims = attributes.get("dims", ())
        if len(dims) == 1 and dims[0] < -2:  # a named axis, which goes
            lead, named = value.args[0].type.shape.lead, _named(value.args[0].type.shape)
            matrix = 3 if self.plan.rule.view == "last" else 2
            axis = named.index(lead[dims[0] + 2 + len(lead)]) - len(named) - matrix
            attributes["dims"] = (axis,)
            row += f".squeeze({axis})"
        for name, attribute in attributes.items():
            size = name in ("first", "n", "m") and attribute is not None
            row = row.replace(f"{{{name}}}", self._size(attribute) if size else literal(attribute))
        return fill_text(row.replace(", None)", ")"), [text(arg) for arg in value.args])

    def _put(self, value: Value, text: Text) -> str:
        """The base with one entry of its first axis, which follows the batch, replaced."""
        base, index, entry = value.args
        place = f"torch.tensor([int({text(index)})], device={self.like}.device)"
        if entry.type.instances is Instances.PARAM:
            new = "{1}.unsqueeze(1)" if base.type.shape.lead else "{1}.mT"
        else:  # what is one for all has no batch
            new = "{1}.expand_as({0}[:, :1])"
        return fill_text(f"{{0}}.index_copy(1, {place}, {new})", [text(base), text(entry)])


def _column(value: Value) -> str:
    return "torch" if value.type.on_device else "host"


def _named(shape: Shape) -> tuple[Dim, ...]:
    """Leading axes other than the matrices of `view last`, which every value here has."""
    return tuple(axis for axis in shape.lead if axis != BATCH)


def multiplying(variant: Variant) -> list[LibraryPass]:
    """The passes that make matrix products and nothing that 16 bits would spoil: no factors, no
    orders, nothing drawn, nothing that is kept behind the step."""
    temps = {each.name for each in variant.buffers if each.role == "temp"}
    called = tuple(f"{name}." for name in SHARED)
    found = []
    for each in variant.passes:
        if not isinstance(each, LibraryPass) or each.asks:
            continue
        used = {value.op for value in reachable(output.value for output in each.outputs)}
        ops = [OPS[name] for name in used]
        spoilt = any(op.kind is Kind.RANDOM or op.torch.startswith(called) for op in ops)
        passing = all(output.buffer in temps for output in each.outputs)
        if "matmul" in used and passing and not spoilt:
            found.append(each)
    return found
