"""Every construct of the language and the tree it gives."""

from __future__ import annotations

import threading
import time

import pytest

from optdsl.diagnostics import Sink
from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.syntax.parser import parse
from optdsl.syntax.text import expression_text
from tests.syntax.snippets import (
    FILES,
    SHIPPED,
    bare,
    body,
    definitions,
    expression,
    lisp,
    parsed,
    walk,
)

TREES = [
    # binding, loosest first; all but ^ group to the left
    ("a or b and c", "(or a (and b c))"),
    ("a or b or c", "(or (or a b) c)"),
    ("not a and b", "(and (not a) b)"),
    ("not not a", "(not (not a))"),
    ("not a == b", "(not (a == b))"),
    ("a and not b or c", "(or (and a (not b)) c)"),
    ("a + b < c * d", "((+ a b) < (* c d))"),
    ("0 <= a < b == c != d", "(0 <= a < b == c != d)"),
    ('k in ("x", "y")', "(k in <'x', 'y'>)"),
    ('name matches "bias|norm" and a', "(and (name matches 'bias|norm') a)"),
    ("a - b - c", "(- (- a b) c)"),
    ("a - b + c", "(+ (- a b) c)"),
    ("a / b * c", "(* (/ a b) c)"),
    ("a * b @ c", "(@ (* a b) c)"),
    ("a @ b * c", "(* (@ a b) c)"),
    ("a + b @ c", "(+ a (@ b c))"),
    ("t // k % n", "(% (// t k) n)"),
    ("a + b * c ^ d", "(+ a (* b (^ c d)))"),
    # the sign: looser than a power, tighter than a product
    ("-x^2", "(- (^ x 2))"),
    ("-x * y", "(* (- x) y)"),
    ("a - -b", "(- a (- b))"),
    ("--a", "(- (- a))"),
    ("t^-0.8", "(^ t (- 0.8))"),
    ("2^-x^y", "(^ 2 (- (^ x y)))"),
    ("a^b^c", "(^ a (^ b c))"),
    ("(-x)^2", "(^ (- x) 2)"),
    # what follows an operand binds tightest
    ("g.T @ g", "(@ g.T g)"),
    ("-g.T[0]^2", "(- (^ g.T[0] 2))"),
    ("norm(g)^2", "(^ norm(g) 2)"),
    ("f(x)[1][2].T", "f(x)[1][2].T"),
    ("(a + b)[i + 1]", "(+ a b)[(+ i 1)]"),
    # calls
    ("rand()", "rand()"),
    ("f(a, b = c, d = e + 1)", "f(a, b:c, d:(+ e 1))"),
    ("f(a, b,)", "f(a, b)"),
    ("randn([2 * r], at = (t - 1) // k)", "randn([(* 2 r)], at:(// (- t 1) k))"),
    ("rand([], over = all)", "rand([], over:all)"),
    ("mean(x, axis = 1, where = near, into = y)", "mean(x, axis:1, where:near, into:y)"),
    ("zeros([5, *p])", "zeros([5, *p])"),
    # tuples and literals
    ("a, b", "<a, b>"),
    ("(a, b)", "<a, b>"),
    ("(a,)", "<a>"),
    ("((a, b), c)", "<<a, b>, c>"),
    ("true, false, none", "<true, false, none>"),
    ("inf + pi", "(+ inf pi)"),
    ('"a \\ b"', "'a \\\\ b'"),
    ('""', "''"),
    ("(((a)))", "a"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "tree"), TREES)
def test_expression(text: str, tree: str) -> None:
    assert lisp(expression(text)) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("1_000", 1000),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("0" * 5000 + "1", 1),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-3", 1e-3),
        ("1_0.0_1E+2", 1001.0),
        ("1e308", 1e308),
        ("5e-324", 5e-324),
        ("0e-999", 0.0),
    ],
)
def test_number(text: str, value: float) -> None:
    number = expression(text)
    assert isinstance(number, ast.Number)
    assert (number.value, type(number.value)) == (value, type(value))


def test_parentheses_are_kept_on_binaries() -> None:
    def flag(text: str) -> tuple[bool, bool]:
        node = expression(text)
        assert isinstance(node, ast.Binary)
        assert isinstance(node.left, ast.Binary)
        return node.parenthesised, node.left.parenthesised

    assert flag("a * b @ c") == (False, False)
    assert flag("(a * b) @ c") == (False, True)
    assert flag("(a * b @ c)") == (True, False)


@pytest.mark.parametrize("path", [*FILES, *SHIPPED], ids=lambda path: path.name)
def test_files_parse(path) -> None:
    module = parsed(path.read_text())
    assert module.items


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_spans(path) -> None:
    """A node lies inside its parent, and an expression's text is that expression."""
    module = parsed(path.read_text())
    checked = 0
    for node in walk(module):
        assert node.span.start < node.span.end
        for child in ast.children(node):
            assert node.span.start <= child.span.start
            assert child.span.end <= node.span.end
        if isinstance(node, ast.Expr) and not isinstance(node, ast.Star):
            assert bare(expression(expression_text(node))) == bare(node)
            checked += 1
    assert checked > 50


def test_item_spans() -> None:
    text = 'import "a.opt"\n\noptimizer A(lr = 1, b = 2):\n    p -= lr * g  # so\n'
    module = parsed(text)
    (item,) = module.items
    assert isinstance(item, ast.Optimizer)
    assert module.imports[0].path == "a.opt"
    assert module.imports[0].path_span.text == '"a.opt"'
    assert item.span.text == "optimizer A(lr = 1, b = 2):\n    p -= lr * g"
    assert item.name_span.text == "A"
    assert [(p.span.text, p.name_span.text) for p in item.parameters] == [
        ("lr = 1", "lr"),
        ("b = 2", "b"),
    ]
    call = expression("f(a, over = all)")
    assert isinstance(call, ast.Call)
    assert call.function_span.text == "f"
    assert [(a.span.text, a.name_span and a.name_span.text) for a in call.args] == [
        ("a", None),
        ("over = all", "over"),
    ]


# ---------------------------------------------------------------- statements


def test_state_parts_in_any_order() -> None:
    parts = ['named "k"', ": [rows, 1]", "over group", "on host", "as int8"]
    expected = bare(body(f"state s {' '.join(parts)} = f(x)"))
    for turn in range(1, 5):
        turned = " ".join(parts[turn:] + parts[:turn])
        assert bare(body(f"state s {turned} = f(x)")) == expected
    (state,) = body(
        f"state s {' '.join(parts)} = f(x)",
    )
    assert isinstance(state, ast.State)
    (item,) = state.items
    assert (item.name, item.key, item.over, item.on_host, item.storage) == (
        "s", "k", "group", True, "int8",
    )  # fmt: skip
    assert item.shape is not None
    assert item.initial is not None
    assert (item.shape.span.text, item.initial.span.text) == ("[rows, 1]", "f(x)")


def test_several_states() -> None:
    (state,) = body('state m named "exp_avg", v, x on host = lr, n: [] over all')
    assert isinstance(state, ast.State)
    summary = [(i.name, i.key, i.over, i.on_host, i.initial is None) for i in state.items]
    assert summary == [
        ("m", "exp_avg", None, False, True),
        ("v", None, None, False, True),
        ("x", None, None, True, False),
        ("n", None, "all", False, True),
    ]


def test_inputs_and_attributes_are_one_statement_each() -> None:
    found = body(
        "input k: int on host, gs: [samples, *p], losses over all: [n]", "attribute a = 1, b = 2"
    )
    inputs = [s for s in found if isinstance(s, ast.Input)]
    assert [(i.name, i.dtype, i.over, i.on_host) for i in inputs] == [
        ("k", "int", None, True),
        ("gs", None, None, False),
        ("losses", None, "all", False),
    ]
    assert [i.shape and [lisp(d) for d in i.shape.dims] for i in inputs] == [
        None, ["samples", "*p"], ["n"],
    ]  # fmt: skip
    attributes = [s for s in found if isinstance(s, ast.Attribute)]
    assert [(a.name, lisp(a.default)) for a in attributes] == [("a", "1"), ("b", "2")]


def test_assignments() -> None:
    found = body(
        "a, b = f(x)", "m[k + 1] = 0", "a, m[0] = b, a", "p -= g", "p *= 2", "p /= 2", "p += 1"
    )
    assigns = [s for s in found if isinstance(s, ast.Assign)]
    assert [([lisp(t) for t in s.targets], s.op, lisp(s.value)) for s in assigns] == [
        (["a", "b"], "=", "f(x)"),
        (["m[(+ k 1)]"], "=", "0"),
        (["a", "m[0]"], "=", "<b, a>"),
        (["p"], "-=", "g"),
        (["p"], "*=", "2"),
        (["p"], "/=", "2"),
        (["p"], "+=", "1"),
    ]


def test_simple_statements() -> None:
    found = body(
        "require a, b < c",
        "view last",
        "step inner",
        "step inner(lr = a, b = c)",
        "use Adam",
        "eval x + y",
        "report norm(g)",
        "report gsnr = a",
        "return a, b",
    )
    assert [type(s).__name__ for s in found] == [
        "Require", "View", "Step", "Step", "Use", "Eval", "Report", "Report", "Return",
    ]  # fmt: skip
    texts = [bare(s) for s in found]
    assert texts[1] == ("View", "last")
    assert texts[2] == ("Step", "inner", ())
    assert texts[6][1] is None  # type: ignore[index]
    assert texts[7][1] == "gsnr"  # type: ignore[index]
    returned = found[8]
    assert isinstance(returned, ast.Return)
    assert lisp(returned.value) == "<a, b>"


def test_elif_is_an_if_alone() -> None:
    (first,) = body("if a:", "    x = 1", "elif b:", "    x = 2", "else:", "    x = 3")
    assert isinstance(first, ast.If)
    (second,) = first.orelse
    assert isinstance(second, ast.If)
    assert lisp(second.condition) == "b"
    assert [s.span.text for s in second.orelse] == ["x = 3"]
    assert first.span.text.endswith("x = 3")


def test_when_takes_the_arms_that_follow() -> None:
    arms = ["when a:", "    x = 1", "when b:", "    x = 2", "otherwise:", "    x = 3"]
    when, after, alone = body(*arms, "y = 1", "when c:", "    x = 4")
    assert isinstance(when, ast.When)
    assert isinstance(alone, ast.When)
    assert [lisp(arm.condition) for arm in when.arms] == ["a", "b"]
    assert len(when.otherwise) == 1
    assert isinstance(after, ast.Assign)
    assert (len(alone.arms), alone.otherwise) == (1, ())


def test_loops() -> None:
    every, from_, repeat, only, for_, each = body(
        "every k:", "    x = 1",
        "every k // 2 from s + 1:", "    x = 1",
        "repeat n:", "    x = 1", "    until x > 2",
        "repeat n:", "    until host(ok)",
        "for a, b in pairs:", "    x = 1",
        "for i in range(3):", "    x = 1",
    )  # fmt: skip
    assert isinstance(every, ast.Every)
    assert every.start is None
    assert isinstance(from_, ast.Every)
    assert from_.start is not None
    assert (lisp(from_.period), lisp(from_.start)) == ("(// k 2)", "(+ s 1)")
    assert isinstance(repeat, ast.Repeat)
    assert [type(s).__name__ for s in repeat.body] == ["Assign", "Until"]
    assert isinstance(only, ast.Repeat)
    assert [type(s).__name__ for s in only.body] == ["Until"]
    assert isinstance(for_, ast.For)
    assert [t.name for t in for_.targets] == ["a", "b"]
    assert isinstance(each, ast.For)
    assert lisp(each.iterable) == "range(3)"


# ---------------------------------------------------------------- files


def test_items() -> None:
    module = parsed(
        '"""What it is."""\n'
        "def f(x, y = 2):\n    return x\n"
        "transform ema(x, beta):\n    return x\n"
        "wrapper W(inner, k = 1):\n    step inner\n"
        "optimizer A = W(B, k = 2)\n"
        "optimizer C(lr = 1,) = A\n"
        'optimizer D():\n    """Only words."""\n'
    )
    assert module.doc == "What it is."
    assert [type(i).__name__ for i in module.items] == [
        "Def", "Transform", "Wrapper", "Alias", "Alias", "Optimizer",
    ]  # fmt: skip
    plain, given = module.items[3:5]
    assert isinstance(plain, ast.Alias)
    assert isinstance(given, ast.Alias)
    assert (plain.parameters, lisp(plain.value)) == (None, "W(B, k:2)")
    assert given.parameters is not None
    assert ([p.name for p in given.parameters], lisp(given.value)) == (["lr"], "A")


def test_docstring_is_cleaned() -> None:
    (doc,) = body('"""First  ', "", "      more", "        deeper", '    """')
    assert isinstance(doc, ast.Doc)
    assert doc.text == "First\n\nmore\n  deeper"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffoptimizer A():\n    p = g\n",
        "optimizer A():\r\n    p = g\r\n",
        "optimizer A():\n    p = g",
        "\n\n# c\n  # c\n\noptimizer A():  # c\n\n  # c\n    # c\n    p = g\n        # c\n# c\n   ",
        "optimizer A(\n):\n    p = (\n  g\n# c\n)\n",
        "optimizer A():\n p = g\n",
    ],
)
def test_layout_does_not_matter(text: str) -> None:
    assert bare(parsed(text)) == bare(parsed("optimizer A():\n    p = g\n"))


def test_positions_after_a_byte_order_mark() -> None:
    (item,) = parsed("\ufeffoptimizer A():\n    p = g\n").items
    assert item.name_span.text == "A"
    assert item.name_span.line == 1


def test_threads_do_not_mix() -> None:
    texts = definitions()[:8]
    expected = [bare(parsed(text)) for text in texts]
    wrong: list[str] = []

    def work(offset: int) -> None:
        for turn in range(8):
            index = (turn + offset) % len(texts)
            if bare(parsed(texts[index])) != expected[index]:
                wrong.append(texts[index])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_parse_takes_less_than_20_ms() -> None:
    source = Source("test.opt", "\n".join(definitions()[:2]))
    assert source.text.count("\n") >= 18
    times = []
    for _ in range(20):
        start = time.perf_counter()
        parse(source, Sink())
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
