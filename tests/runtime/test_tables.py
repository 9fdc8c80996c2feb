"""The tables of a step: tasks cover every element once, and finishing them gives the reduction."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optdsl.axes import AXIS_SIZES, axis_sizes
from optdsl.runtime.cpu.launch import deal, driver
from optdsl.runtime.parameters.cohorts import ONE, Sizes, make_cohorts, matrix_view, split_cohorts
from optdsl.runtime.parameters.groups import make_members
from optdsl.runtime.program import Kernel, Reduction, Variant
from optdsl.runtime.stages.tables import (
    Cutting,
    Entry,
    ResultLayout,
    StageBuilder,
    class_table,
    pieces,
)
from tests.runtime import programs
from tests.runtime.test_step import parameters

SLOTS = (
    ("a", "col"),
    ("b", "all"),
    ("c", "tensor"),
    ("d", "matrix"),
    ("e", "group"),
    ("f", "tensor"),
    ("g", "col"),
    ("h", "all"),
)
CUTTING = Cutting(flat=100, row_elements=60, column_rows=4)
NOTHING = Variant((), (), (), lambda h, e: (), ())

sizes = st.builds(
    lambda rows, cols, batch: Sizes(rows * cols * batch, rows, cols, batch, 3),
    st.integers(1, 50),
    st.integers(1, 300),
    st.integers(1, 3),
)


def kernel(layout="flat", domain="full", *reductions, stage=0, name="k"):
    return Kernel(stage, name, domain, layout, (), (), tuple(reductions))


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("shape", "view", "expected"),
    [
        ((), "rows", (1, 1, 1, 1, 0)),
        ((7,), "rows", (7, 7, 1, 1, 1)),
        ((4, 5), "rows", (20, 4, 5, 1, 2)),
        ((2, 3, 4), "rows", (24, 2, 12, 1, 3)),
        ((2, 3, 4), "last", (24, 3, 4, 2, 3)),
        ((2, 5, 3, 4), "last", (120, 3, 4, 10, 4)),
        ((7,), "last", (7, 7, 1, 1, 1)),
        ((2, 3, 4), "flat", (24, 24, 1, 1, 3)),
        ((0, 3), "rows", (0, 0, 3, 1, 2)),
        ((3, 0), "last", (0, 3, 0, 1, 2)),
        ((0, 3, 4), "last", (0, 3, 4, 0, 3)),
    ],
)
def test_matrix_view(shape, view, expected):
    found = matrix_view(shape, view)
    assert found[:5] == expected
    assert dict(zip(AXIS_SIZES, found.axes, strict=True)) == axis_sizes(shape)


def test_axes_beyond_the_fifth_count_to_it():
    assert matrix_view((2, 3, 4, 5, 6, 7), "rows").axes == (3, 4, 5, 42)
    assert matrix_view((), "rows").axes == (1, 1, 1, 1)


# ---------------------------------------------------------------- tasks


@given(sizes, st.sampled_from(["full", "row", "col", "matrix", "tensor"]), st.booleans())
def test_flat_tasks_cover_every_element_once(size, domain, reduced):
    reduced = reduced and domain != "tensor"
    reductions = [Reduction("d", "sum", "matrix")] if reduced else []
    lo, hi = pieces(kernel("flat", domain, *reductions), size, CUTTING)
    seen = np.concatenate([np.arange(*each) for each in zip(lo, hi, strict=True)])
    assert seen.tolist() == list(range(size.elements(domain)))
    assert (hi - lo).max() <= CUTTING.flat
    if domain in ("row", "col") or reduced:
        unit = max(1, size.elements(domain) // size.batch)
        assert (lo // unit == (hi - 1) // unit).all()


@given(sizes, st.booleans())
def test_tasks_of_rows_stay_in_one_matrix(size, columns):
    reductions = [Reduction("a", "sum", "col")] if columns else []
    lo, hi = pieces(kernel("rows", "full", *reductions), size, CUTTING)
    assert lo[0] == 0
    assert hi[-1] == size.batch * size.rows
    assert all(a == b for a, b in zip(hi[:-1], lo[1:], strict=True))
    assert (lo // size.rows == (hi - 1) // size.rows).all()
    most = max(-(-CUTTING.row_elements // size.cols), CUTTING.column_rows if columns else 1)
    assert (hi - lo).max() <= most


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 9))
def test_work_is_dealt_in_order_and_about_evenly(work, parts):
    costs = np.array(work, np.int64)
    ends = deal([costs[:7], costs[7:]], parts)
    assert ends[-1] == len(work)
    assert all(a <= b for a, b in pairwise([0, *ends]))
    costs = costs + 256
    shares = [costs[a:b].sum() for a, b in pairwise([0, *ends])]
    assert max(shares) <= costs.sum() / parts + costs.max() + 1


# ---------------------------------------------------------------- reductions

FOLD = {"sum": np.sum, "max_of": np.max, "min_of": np.min}


class Problem:
    """Tensors with random values, and what reducing them by the tables gives."""

    def __init__(self, tensors, groups, stage_kernel, seed):
        rng = np.random.default_rng(seed)
        self.values = [rng.standard_normal((s.batch, s.rows, s.cols)) for s in tensors]
        self.groups = groups
        self.results = ResultLayout(SLOTS, 3)
        entries = [Entry(s, 0, g) for s, g in zip(tensors, groups, strict=True)]
        entries.append(Entry(ONE, 0, 0, "all"))
        self.table = class_table(NOTHING, entries, 1, self.results)
        program = programs.make("Test", (NOTHING,), "", slots=SLOTS)
        builder = StageBuilder(program, self.results, CUTTING)
        builder.add(self.table, stage_kernel, range(len(tensors)), 0)
        (self.stage,) = builder.finished()
        self.partials = np.full(builder.partials, np.nan)
        self.kernel = stage_kernel

    def work(self):
        """What kernels leave in the partials."""
        (_, launch) = self.stage.launches[0]
        for tensor, lo, hi, offset in launch.tasks:
            x = self.values[tensor]
            if self.kernel.layout == "rows":
                part = x.reshape(-1, x.shape[-1])[lo:hi]
            else:
                part = x.reshape(-1, 1)[lo:hi]
            at = offset
            for each in self.kernel.reductions:
                fold = FOLD[each.op]
                new = fold(part, axis=0) if each.domain == "col" else np.atleast_1d(fold(part))
                assert np.isnan(self.partials[at : at + len(new)]).all()
                self.partials[at : at + len(new)] = new
                at += len(new)
        assert not np.isnan(self.partials).any()

    def finish(self):
        """The driver's answer to the finish records."""
        table = np.full(self.results.size, np.nan)
        finish, shared = self.stage.finish, self.stage.finish_shared
        record = np.array(
            [0, 0, 0, 0, finish.ctypes.data, len(finish), shared.ctypes.data, len(shared)], np.int64
        )
        alone = np.zeros(2, np.int64)
        phase = np.array([record.ctypes.data, 1, alone.ctypes.data], np.int64)
        driver()(
            *(ctypes.c_void_p(phase.ctypes.data), ctypes.c_longlong(1)),
            *(ctypes.c_void_p(self.partials.ctypes.data), ctypes.c_void_p(table.ctypes.data)),
            *(ctypes.c_void_p(None), ctypes.c_longlong(0), ctypes.c_longlong(1)),
        )
        return table

    def expected(self, each, table):
        """(what the driver found, what numpy finds) for every number of one reduction."""
        fold = FOLD[each.op]
        for index, x in enumerate(self.values):
            shape, group = self.table.shapes[index], self.groups[index]
            batch, _, cols = x.shape
            k = [s for s, d in SLOTS if d == each.domain].index(each.slot)
            matrices = sum(d == "matrix" for _, d in SLOTS)
            match each.domain:
                case "all":
                    everything = np.concatenate([v.ravel() for v in self.values])
                    yield table[k], fold(everything)
                case "group":
                    pairs = zip(self.values, self.groups, strict=True)
                    chosen = [value.ravel() for value, own in pairs if own == group]
                    yield table[shape[6] + k], fold(np.concatenate(chosen))
                case "tensor":
                    yield table[shape[5] + k], fold(x)
                case "matrix":
                    for b in range(batch):
                        yield table[shape[7] + k * batch + b], fold(x[b])
                case "col":
                    for b in range(batch):
                        start = shape[7] + matrices * batch + (k * batch + b) * cols
                        yield table[start : start + cols], fold(x[b], axis=0)


ALL_REDUCTIONS = (
    Reduction("f", "sum", "tensor"),
    Reduction("g", "min_of", "col"),
    Reduction("b", "max_of", "all"),
    Reduction("d", "sum", "matrix"),
    Reduction("a", "sum", "col"),
    Reduction("e", "sum", "group"),
    Reduction("c", "min_of", "tensor"),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=5), st.data(), st.integers(0, 1000))
def test_finished_reductions_of_rows(tensors, data, seed):
    groups = [data.draw(st.integers(0, 2)) for _ in tensors]
    problem = Problem(tensors, groups, kernel("rows", "full", *ALL_REDUCTIONS), seed)
    problem.work()
    table = problem.finish()
    for each in ALL_REDUCTIONS:
        for found, wanted in problem.expected(each, table):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=5), st.data(), st.integers(0, 1000))
def test_finished_reductions_of_elements(tensors, data, seed):
    groups = [data.draw(st.integers(0, 2)) for _ in tensors]
    reductions = [each for each in ALL_REDUCTIONS if each.domain != "col"]
    problem = Problem(tensors, groups, kernel("flat", "full", *reductions), seed)
    problem.work()
    table = problem.finish()
    for each in reductions:
        for found, wanted in problem.expected(each, table):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-11)


def test_results_do_not_overlap():
    results = ResultLayout(SLOTS, 3)
    entries = [Entry(Sizes(24, 3, 4, 2, 3), 0, 1), Entry(Sizes(5, 5, 1, 1, 1), 0, 2)]
    table = class_table(NOTHING, entries, 1, results)
    places = [results.shared(s, g) for s, d in SLOTS if d == "group" for g in range(3)]
    places += [results.shared(s, 0) for s, d in SLOTS if d == "all"]
    for entry, shape in zip(entries, table.shapes, strict=True):
        for slot, domain in SLOTS:
            if domain == "tensor":
                places.append(results.of_tensor(slot, shape))
            if domain in ("matrix", "col"):
                wide = entry.sizes.cols if domain == "col" else 1
                start = results.of_tensor(slot, shape)
                places += range(start, start + wide * entry.sizes.batch)
    assert sorted(places) == list(range(results.size))


def test_a_result_is_not_shared_across_stages():
    program = programs.make("Test", (NOTHING,), "", slots=SLOTS)
    results = ResultLayout(SLOTS, 1)
    table = class_table(NOTHING, [Entry(Sizes(6, 2, 3, 1, 2), 0, 0)], 1, results)
    builder = StageBuilder(program, results, CUTTING)
    for stage in (0, 1):
        each = kernel("flat", "full", Reduction("b", "sum", "all"), stage=stage)
        if stage:
            with pytest.raises(ValueError, match="result b is reduced in stages 0 and 1"):
                builder.add(table, each, [0], stage)
        else:
            builder.add(table, each, [0], stage)


# ---------------------------------------------------------------- cohorts


def test_cohorts_are_by_what_host_functions_read():
    groups = [
        {"params": parameters([(4, 3), (3, 4), (12,)])},
        {"params": parameters([(4, 3), (4, 3)])},
    ]
    members = make_members(programs.CLIP, groups)
    none = [frozenset()] * 5

    def cohorts(reads, counts=(0, 0, 0, 0, 0), born=none):
        program = programs.make("Test", (NOTHING,), "", reads=frozenset(reads))
        made = make_cohorts(program, members, counts, born)
        return [[member.index for member in cohort.members] for cohort in made]

    assert cohorts([]) == [[0, 1, 2], [3, 4]]
    assert cohorts(["rows"]) == [[0], [1], [2], [3, 4]]
    assert cohorts(["numel"]) == [[0, 1, 2], [3, 4]]
    assert cohorts(["ndim"]) == [[0, 1], [2], [3, 4]]
    assert cohorts(["t"], (1, 0, 1, 2, 2)) == [[0, 2], [1], [3, 4]]
    assert cohorts([], born=[frozenset("m"), *none[1:]]) == [[0], [1, 2], [3, 4]]


def test_cohorts_split_once():
    members = make_members(programs.CLIP, [{"params": parameters([(2,)] * 4)}])
    cohorts = make_cohorts(programs.CLIP, members, [0] * 4, [frozenset()] * 4)
    parts = split_cohorts(cohorts, [True, False, True, False])
    assert [[m.index for m in c.members] for c in parts] == [[0, 2], [1, 3]]
    again = split_cohorts(parts, [False, True, False, True])
    assert again == parts
    assert [len(c.members) for c in split_cohorts(parts, [True, False, False, False])] == [1, 1, 2]
