"""`optdsl bench`: turns, shared buffers, the loops of the limit, the file a run resumes from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from optdsl.bench import records as files
from optdsl.bench.cases import CASES, GPT2_SMALL, Case
from optdsl.bench.clock import LEAST_ROUNDS, race
from optdsl.bench.contests import CONTESTS
from optdsl.bench.first import first_step
from optdsl.bench.records import LIMIT, Record, Records
from optdsl.bench.report import chart, markdown, span, tables
from optdsl.bench.roofline import CHUNK, Shape, roofline, shapes_of
from optdsl.bench.run import Race, races, share
from optdsl.cli import bench, main

TINY = Case("t", "tiny", ((8, 4), (5,)))


def test_cases_are_what_they_are_called() -> None:
    assert len(GPT2_SMALL) == 148
    assert CASES["b"].numel == 124_439_808
    assert CASES["a"].numel == 2**26
    assert len(CASES["c"].shapes) == 1000 and CASES["c"].numel == 10_000_000
    assert CASES["d"].numel == 12_800
    assert all(len(shape) == 2 for shape in CASES["b"].matrices().shapes)
    assert CASES["b"].scaled(0.1).numel == pytest.approx(12.4e6, rel=0.02)


def test_contenders_take_turns() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in ("one", "two")}
    samples = race(steps, 0.0, before=lambda: order.append("."))
    assert order == [".", "one", ".", "two"] * (1 + LEAST_ROUNDS)
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys(
        ("one", "two"), LEAST_ROUNDS
    )


def test_a_turn_may_be_several_steps() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in ("one", "two")}
    race(steps, 0.0, before=lambda: order.append("."), turn=3)
    rounds = [".", *3 * ["one"], ".", *3 * ["two"]] * LEAST_ROUNDS
    assert order == [".", "one", ".", "two", *rounds]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("AdamW", [Shape(3, 1)]),
        ("LAMB", [Shape(2, 2), Shape(1, 2)]),
        ("clip + AdamW", [Shape(0, 1), Shape(3, 1)]),
        ("SGD momentum", [Shape(2, 1)]),
    ],
)
def test_the_limit_reads_and_writes_what_the_rule_does(name: str, shapes: list[Shape]) -> None:
    steady = CONTESTS[name].steady()
    assert shapes_of(steady) == shapes
    assert sum(4 * (2 * each.changed + each.read) for each in shapes) == steady.bytes


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_visits_every_element_once(threads: int) -> None:
    buffers = [[torch.ones(count) for _ in range(4)] for count in (1, 7, CHUNK, CHUNK + 3)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        roofline([Shape(3, 1)], buffers)()
    finally:
        torch.set_num_threads(before)
    for changed in buffers:
        for each in changed[:3]:
            torch.testing.assert_close(each, torch.full_like(each, 0.9 + 4e-6))
        assert torch.equal(changed[3], torch.ones_like(changed[3]))


@pytest.mark.parametrize("name", CONTESTS)
def test_every_contest_runs(name: str) -> None:
    case = Case("t", "tiny", ((8, 4),)) if CONTESTS[name].matrices else TINY
    found = Race(CONTESTS[name], case, 1, 0.0).run()
    names = [each.contender for each in found]
    assert names[0] == "optdsl"
    assert (names[-1] == LIMIT) is not CONTESTS[name].narrow
    assert all(each.median > 0 and each.rounds >= LEAST_ROUNDS for each in found)


def test_all_work_on_the_same_states() -> None:
    params = TINY.parameters(torch.float32, "cpu")
    pool = {p: [] for p in params}
    made = []
    for contender in CONTESTS["AdamW"].contenders(patient=False):
        optimizer, step = contender.prepare(params)
        step()
        share(optimizer, pool)
        step()  # what was put in by hand is taken
        made.append(optimizer)
    assert len(made) >= 4
    for p in params:
        places = {made[0].state[p][key].data_ptr() for key in ("exp_avg", "exp_avg_sq")}
        assert len(places) == 2
        for optimizer in made:
            own = optimizer.state[p]
            assert {own[key].data_ptr() for key in ("exp_avg", "exp_avg_sq")} == places


def test_each_has_parameters_of_its_dtype() -> None:
    (race,) = races(["AdamW rounding at random"], ["b"], [1], 0.0, 1e-5)
    found = {each.contender: each for each in race.run()}
    assert list(found) == ["optdsl", "torch fused, float32", "torch fused"]
    # Bytes of ours: p, g and p of two, m and v of four.
    assert found["optdsl"].moved == race.case.numel * 22
    assert race.key[0] == "AdamW rounding at random, bfloat16"


def test_gradients_come_anew_where_the_case_says_so() -> None:
    (fresh,) = races(["AdamW"], ["d-new"], [1], 0.0)
    found = {each.contender: each for each in fresh.run()}
    assert found["optdsl"].rounds >= LEAST_ROUNDS


# ---------------------------------------------------------------- the file


def some() -> Records:
    one = Record("AdamW", "tiny", 1, "optdsl", 2.0, 1.5, 9, 28e6, 0.5)
    peer = Record("AdamW", "tiny", 1, "torch fused", 5.0, 4.0, 9, 28e6)
    limit = Record("AdamW", "tiny", 1, LIMIT, 1.0, 0.9, 9, 28e6)
    return Records({"device": "a machine"}, [one, peer, limit])


def test_records_survive(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    files.write(path, some())
    assert files.read(path) == some()
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]
    assert files.read(tmp_path / "none.json") is None
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no results"):
        files.read(path)


def test_a_race_that_is_run_again_keeps_its_place() -> None:
    found = some()
    races = [("AdamW", "tiny", 1), ("Lion", "tiny", 1)]
    lion = [replace(each, contest="Lion") for each in found.records]
    found.put(races[1], lion)
    assert found.races() == races
    again = [replace(each, median=9.0) for each in found.of(races[0]).values()]
    found.put(races[0], again)
    assert found.races() == races
    assert found.records == [*again, *lion]


def test_tables_say_ratios() -> None:
    text = markdown(some())
    assert "| AdamW | tiny | 1 | torch fused | 5 | 5.6 | 0.20 | 2.50x |  |" in text
    assert "| AdamW | tiny | 1 | optdsl | 2 | 14 | 0.50 |  | 0.50 s |" in text
    assert len(list(tables(some()))) == 1


def test_what_is_faster_than_ours_is_in_the_chart() -> None:
    low, high = span({"lost": {1: 0.3, 2: 0.5}, "won": {1: 20.0}})
    assert low < 0.3
    assert high > 20
    low, high = span({"lost": {1: 0.3}})
    assert low < 0.3
    assert high > 1


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    chart(some(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_command_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    call = ["bench", "--rule", "AdamW", "--case", "d", "--threads", "1", "--seconds", "0"]
    call += ["--no-first", "--out", str(out)]
    assert main(call) == 0
    assert "torch fused" in capsys.readouterr().out
    measured = json.loads(out.read_text())["records"]
    assert main(call) == 0
    assert json.loads(out.read_text())["records"] == measured, "nothing was measured again"
    assert main([*call, "--again"]) == 0
    assert json.loads(out.read_text())["records"] != measured
    capsys.readouterr()
    assert main(["bench", "--out", str(out), "--markdown"]) == 0
    assert "| rule | case |" in capsys.readouterr().out


def test_first_steps_are_timed_once_and_who_takes_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def first_step(contest: str, case: Case, contender: str, device: str) -> float:
        asked.append(contender)
        return {"torch fused": math.inf, "torch foreach": math.nan}.get(contender, 2.5)

    monkeypatch.setattr(bench, "first_step", first_step)
    out = tmp_path / "found.json"
    call = ["bench", "--rule", "SGD momentum", "--case", "b", "--threads", "1,2"]
    assert main([*call, "--scale", "0", "--seconds", "0", "--out", str(out)]) == 0
    assert asked == ["optdsl", "torch fused", "torch foreach", "torch for-loop"]
    text = markdown(files.read(out) or some())
    row = "| SGD momentum | GPT-2 small x 0 | {} | torch {} |  |  |  |  | {} |"
    for threads in (1, 2):
        assert row.format(threads, "fused", "over 300 s") in text
        assert row.format(threads, "foreach", "fails") in text
    assert text.count(" 2.50 s |") == 4


@pytest.mark.slow  # a process that imports torch
def test_a_first_step_takes_a_while() -> None:
    assert 0 < first_step("AdamW", TINY, "optdsl") < 60
    assert math.isnan(first_step("AdamW", TINY, "nobody"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rule", "Adom"], "'Adom' is not one of"),
        (["--case", "z"], "'z' is not one of"),
        (["--threads", "0"], "no list of numbers"),
        (["--markdown", "--out", "none.json"], "no such file"),
    ],
)
def test_a_wrong_call_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err
