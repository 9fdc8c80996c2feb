"""The whole generated module: a plan as one Python text that holds everything a step needs.

Input: a plan. Output: the text of a module with the optimizer's class, the program's data, its host
functions, its library passes and the sources of its kernels: the same bytes for the same rule.

Relies on: host.py, library.py, cpu.py, triton.py. Does not do: import the text, write a file.
"""

from __future__ import annotations

import hashlib
import keyword
import re
from collections.abc import Collection, Iterable, Sequence

from optdsl import hostmath
from optdsl.codegen.cpu import c_source
from optdsl.codegen.host import Host, rivals, unsupported
from optdsl.codegen.library import SHARED, Library, multiplying
from optdsl.codegen.limits import coupled, unpaired, whole
from optdsl.codegen.literals import (
    LINE_LENGTH,
    Call,
    call,
    data,
    dict_of,
    layout,
    literal,
    raw,
    tuple_of,
)
from optdsl.codegen.prologue import Prologues, triton_source
from optdsl.codegen.templates import render
from optdsl.frontend.signs import NONNEGATIVE, Numbers, Signs
from optdsl.ir.nodes import InputDecl, Rule, StateDecl, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.runtime.program import TABLE_VERSION
from optdsl.schedule.plan import (
    KernelPass,
    LibraryPass,
    Pass,
    Plan,
    Variant,
    domain_of,
    is_known,
)
from optdsl.types import DType, Instances, Place

OPTIONS = (
    ("maximize", "False"),
    ("backend", '"auto"'),
    ("attributes", "None"),
    ("foreach", "None"),
    ("fused", "None"),
    ("capturable", "False"),
    ("differentiable", "False"),
    ("storage", "None"),
    ("storage_exempt", "()"),
    ("rounding", '"nearest"'),
    ("master", "None"),
    ("compensation", "None"),
)
"""Keywords of every optimizer class; runtime/optimizer.py says what they mean."""

HOSTMATH = frozenset(
    name
    for name, each in vars(hostmath).items()
    if callable(each) and each.__module__ == hostmath.__name__
)
PROGRAM_NAMES = (
    *("Evaluation", "Input", "Join", "Kernel", "Library", "Program", "Prologue", "Reduction"),
    *("Plane", "State", "Temp", "Variant", "require"),
)


TARGETS = ("cpu", "triton")


def python_module(
    plan: Plan, *, version: str, command: str = "", targets: Sequence[str] = TARGETS
) -> str:
    """The text of the module for `plan`. `version` is optdsl's, `command` what it was made by;
    the kernels of targets other than `targets` are left out.

    Raises CompileError where the rule has what generated code cannot hold yet.
    """
    rule = plan.rule
    check_supported(plan)
    host = Host(plan)
    own = host.texts()
    prologues = Prologues(plan, host)
    functions = [*own, *prologues.functions, *Library(plan).texts()]
    program = layout(_program(plan, host, prologues), len("PROGRAM = "))
    digest = _digest(rule)
    facts = [f"optdsl {version}, sha256 of the rule's text {digest[:16]}."]
    if command:
        facts.append(f"Made by: {command}")
    facts.append("Not to be edited: changes belong into the rule.")
    file = rule.source.name.rsplit("/", 1)[-1]
    text = "\n".join([*functions, program])
    return render(
        "python/module.py.j2",
        rule=rule.name,
        class_name=class_name(rule.name),
        file=file,
        facts="\n".join(facts),
        imports=_imports(text),
        functions="\n\n\n".join(functions),
        c_source=raw(c_source(plan) if "cpu" in targets else ""),
        triton_source=raw(triton_source(plan, prologues) if "triton" in targets else ""),
        program=program,
        doc=_docstring(rule),
        parameters=[_parameter(each.name, each.default) for each in rule.hypers],
        options=_options(plan),
        hypers=_hypers(rule),
    )


def check_supported(plan: Plan) -> None:
    """Raises CompileError for random draws in kernels, which no target has."""
    for variant in plan.variants:
        kernels = [each for each in variant.passes if isinstance(each, KernelPass)]
        for value in reachable(root for each in kernels for root in _roots(each)):
            if OPS[value.op].kind is Kind.RANDOM and value.attr("over") is not None:
                raise unsupported(value, plan.rule.name)


def _digest(rule: Rule) -> str:
    return hashlib.sha256(rule.source.text.encode()).hexdigest()


def _imports(text: str) -> str:
    """What the functions and the program in `text` use."""
    code = re.sub(r'#.*|"[^"\n]*"', "", text)

    def line(module: str, names: Iterable[str]) -> list[str]:
        found = [name for name in sorted(names) if re.search(rf"(?<![\w.]){name}\b(?!=)", code)]
        start = f"from {module} import "
        text = start + ", ".join(found)
        if len(text) > LINE_LENGTH:
            text = start + layout(tuple_of(found), LINE_LENGTH)
        return [text] if found else []

    blocks = [
        line("math", ("inf", "nan")),
        ["import torch"] if "torch." in code else [],
        [
            *line("optdsl", SHARED),
            *line("optdsl.hostmath", HOSTMATH),
            "from optdsl.runtime.optimizer import Optimizer",
            *line("optdsl.runtime.program", PROGRAM_NAMES),
        ],
    ]
    return "\n\n".join("\n".join(each) for each in blocks if each)


# ---------------------------------------------------------------- the class


def _keyword(name: str) -> str:
    """A hyperparameter's name as that of a Python parameter."""
    taken = keyword.iskeyword(name) or name in (
        "self",
        "params",
        "seed",
        "products",
        *dict(OPTIONS),
    )
    return f"{name}_" if taken else name


def _parameter(name: str, default: object) -> tuple[str, str]:
    """A hyperparameter as `__init__` takes it: its name, its default as the frame wants it."""
    own, indent = _keyword(name), " " * 8
    return own, layout(data(default), len(f"{indent}{own}="), indent)


def class_name(rule: str) -> str:
    """The name of a rule's class: its own, where neither Python nor the module's functions have
    a meaning for it."""
    taken = keyword.iskeyword(rule) or rule in {"torch", *SHARED, "inf", "nan", *HOSTMATH}
    return f"{rule}_" if taken else rule


def _hypers(rule: Rule) -> str:
    pairs = [(literal(each.name), _keyword(each.name)) for each in rule.hypers]
    return layout(dict_of(pairs), 12, " " * 12)


def _docstring(rule: Rule) -> str:
    """The rule's own words, then its hyperparameters and attributes with their defaults."""
    words = rule.doc.strip() or f"{rule.name}, compiled from its rule."
    lines = [line.strip() if i == 0 else line for i, line in enumerate(words.splitlines())]
    for title, declared in (("Hyperparameters", rule.hypers), ("Attributes", rule.attributes)):
        if declared:
            width = max(len(each.name) for each in declared)
            lines += ["", f"{title} and their defaults:"]
            lines += [_default(f"    {each.name:{width}}  ", each.default) for each in declared]
    return "\n".join(lines).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _default(head: str, value: object) -> str:
    """A line of the docstring, which stands 4 columns further in."""
    return head + layout(data(value), 4 + len(head), " " * len(head))


# ---------------------------------------------------------------- the program


def _program(plan: Plan, host: Host, prologues: Prologues) -> Call:
    rule = plan.rule
    signs = Signs(rule, Numbers(rule))
    nonnegative = [each.name for each in rule.states if signs.states[each.name] >= NONNEGATIVE]
    return call(
        "Program",
        name=literal(rule.name),
        version=literal(TABLE_VERSION),
        view=literal(rule.view),
        hypers=_pairs([(each.name, each.default) for each in rule.hypers]),
        static_hypers=data(tuple(static_hypers(plan))),
        attributes=_pairs([(each.name, each.default) for each in rule.attributes]),
        inputs=tuple_of([_input(each, rule.view) for each in rule.inputs]),
        states=tuple_of([_state(each, rule.view, nonnegative) for each in rule.states]),
        slots=_pairs([(slot, str(domain)) for slot, domain in plan.slots.items()]),
        reads=Call("frozenset", [("", data(tuple(sorted(host.reads))))]),
        variants=tuple_of([_variant(rule, each, host, prologues) for each in plan.variants]),
        decide="decide",
        check="check",
        fill="fill",
        dims="dims",
        **({"belongs": "belongs"} if rivals(plan) else {}),
        **_host_states(rule),
        reads_gradient=literal(rule.reads_gradient),
        **(
            {"hosted": tuple_of([literal(e) for e in prologues.hosted])} if prologues.hosted else {}
        ),
        **_limits(rule),
        **({"reports": data(tuple(rule.reports))} if rule.reports else {}),
        c_source="C_SOURCE",
        triton_source="TRITON_SOURCE",
        source_hash=literal(_digest(rule)),
    )


def _limits(rule: Rule) -> dict[str, str | Call]:
    ties, unlike, entire = coupled(rule), unpaired(rule), whole(rule)
    return {
        **({"coupled": tuple_of([literal(each) for each in ties])} if ties else {}),
        **({"unpaired": data(unlike)} if unlike else {}),
        **({"whole": data(entire)} if entire else {}),
    }


def _host_states(rule: Rule) -> dict[str, str | Call]:
    if not rule.host_states:
        return {}
    pairs = _pairs([(state.name, state.key) for state in rule.host_states])
    return {"host_states": pairs, "advance": "advance"}


def _pairs(pairs: list[tuple[str, object]]) -> Call:
    return tuple_of([data(pair) for pair in pairs])


def static_hypers(plan: Plan) -> list[str]:
    """Hyperparameters that decide shapes, the rule for a parameter, or which states exist.

    They are those in sizes, in conditions on a parameter's nature, and switches (true, "l2") that a
    state depends on. A number that a state depends on is none: the state is born once it is not 0.
    """
    rule = plan.rule
    paths = [condition for variant in plan.variants for condition, _ in variant.path]
    settled = [
        each
        for each in paths
        if each.type.place is Place.STATIC and each.type.instances is Instances.PARAM
    ]
    scopes = reachable(condition for state in rule.states for condition, _ in state.scope)
    switches = [each for each in scopes if each.type.dtype in (DType.BOOL, DType.STRING)]
    settled += rule.static_conditions
    leaves = [*reachable([*settled, *rule.dims.values()]), *switches]
    found = {leaf.attr("name") for leaf in leaves if leaf.op == "hyper"}
    return [each.name for each in rule.hypers if each.name in found]


def _input(each: InputDecl, view: str) -> Call:
    over = {Instances.GROUP: "group", Instances.PARAM: ""}.get(each.type.instances, "all")
    if not each.type.on_device:
        number = literal(str(each.type.dtype))
        return call(
            "Input",
            name=literal(each.name),
            domain=literal("host"),
            shape=literal(()),
            over=literal(over),
            number=number,
        )
    return call(
        "Input",
        name=literal(each.name),
        domain=literal(str(domain_of(each.type, view))),
        shape=literal(each.type.shape.dims),
        over=literal(over),
    )


def _state(state: StateDecl, view: str, nonnegative: Collection[str]) -> Call:
    return call(
        "State",
        name=literal(state.name),
        key=literal(state.key),
        domain=literal(str(domain_of(state.type, view))),
        shape=literal(state.type.shape.dims),
        storage=literal(str(state.storage)),
        fill=literal(state.initial is not None),
        birth=literal(state.birth),
        **({"nonnegative": "True"} if state.name in nonnegative else {}),
    )


def _variant(rule: Rule, variant: Variant, host: Host, prologues: Prologues) -> Call:
    kernels = [_kernel(each) for each in variant.passes if isinstance(each, KernelPass)]
    short = multiplying(variant)
    libraries = [
        _library(each, products=each in short)
        for each in variant.passes
        if isinstance(each, LibraryPass)
    ]
    models = [
        call(
            "Evaluation",
            stage=literal(each.stage),
            op=literal(each.op),
            slot=literal(each.slot),
            point=literal(each.point),
        )
        for each in variant.models
    ]
    joins = [
        call("Join", **{name: literal(value) for name, value in vars(each).items()})
        for each in variant.joins
    ]
    temps = [
        call("Temp", name=literal(e.name), domain=literal(str(e.domain)), shape=literal(e.shape))
        for e in variant.buffers
        if e.role == "temp"
    ]
    sizes = {each.name: each.type.shape.dims[0] for each in rule.states}
    planes = [
        call(
            "Plane",
            name=literal(name),
            state=literal(entry.state),
            entry=literal(entry.number.attr("value") if entry.scalar is None else 0),
            scalar=literal(entry.scalar),
            known=literal(is_known(entry.number, sizes[entry.state])),
        )
        for name, entry in variant.planes
    ]
    return call(
        "Variant",
        buffers=data(tuple(each.name for each in variant.buffers)),
        kernels=tuple_of(kernels),
        libraries=tuple_of(libraries),
        scalars=host.scalars[variant.index],
        states=data(variant.states),
        temps=tuple_of(temps),
        **({"models": tuple_of(models)} if models else {}),
        **({"joins": tuple_of(joins)} if joins else {}),
        stored=data(variant.stored),
        **({} if variant.blocks is None else {"blocks": literal(variant.blocks)}),
        **({"planes": tuple_of(planes)} if planes else {}),
        prologue=prologues.call(variant),
    )


def _kernel(kernel: KernelPass) -> Call:
    reductions = [
        tuple_of([literal(each.slot), literal(each.op), literal(str(each.domain))])
        for each in kernel.reductions
    ]
    return call(
        "Kernel",
        stage=literal(kernel.stage),
        name=literal(kernel.name),
        domain=literal(str(kernel.domain)),
        layout=literal(kernel.layout),
        reads=data(_loaded(kernel)),
        writes=data(tuple(each.buffer for each in kernel.stores)),
        reductions=tuple_of([Call("Reduction", each.items) for each in reductions]),
        **({"draws": literal(kernel.draws)} if kernel.draws else {}),
    )


def _library(library: LibraryPass, *, products: bool) -> Call:
    return call(
        "Library",
        stage=literal(library.stage),
        name=literal(library.name),
        function=library.name,
        reads=data(_loaded(library)),
        writes=data(tuple(each.buffer for each in library.outputs)),
        **({"draws": "True"} if _draws(library) else {}),
        **({"alone": "True"} if library.alone else {}),
        **({"asks": data(library.asks)} if library.asks else {}),
        **({"products": "True"} if products else {}),
    )


def _draws(each: Pass) -> bool:
    return any(OPS[value.op].kind is Kind.RANDOM for value in reachable(_roots(each)))


def _options(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The keywords of the class; groups have a `seed` where the rule draws random numbers, and
    `products` stands where there are some."""
    passes = [each for variant in plan.variants for each in variant.passes]
    drawing = any(map(_draws, passes))
    products = (("products", "None"),) if any(map(multiplying, plan.variants)) else ()
    return (*OPTIONS, *products, ("seed", "0" if drawing else "None"))


def _loaded(each: Pass) -> tuple[str, ...]:
    """The buffers that a pass reads, in the order in which it does."""
    found = [value.attr("buffer") for value in reachable(_roots(each)) if value.op == "load"]
    return tuple(dict.fromkeys(found))


def _roots(each: Pass) -> list[Value]:
    """What a pass computes."""
    if isinstance(each, LibraryPass):
        return [store.value for store in each.outputs]
    roots = [store.value for store in each.stores]
    for phase in each.phases:
        roots += [reduction.value for reduction in (*phase.rows, *phase.partials)]
    return roots
