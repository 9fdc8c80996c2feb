"""Where grammar, templates and the cache are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl import resources
from optdsl.diagnostics import InternalError
from optdsl.syntax.tables import Grammar


def test_grammar_is_there() -> None:
    assert (resources.directory("grammar") / "optdsl.lark").is_file()


def test_inside_the_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "optdsl"
    (tmp_path / "grammar").mkdir()
    package.mkdir()
    monkeypatch.setattr(resources, "PACKAGE", package)
    with pytest.raises(InternalError, match="grammar"):
        resources.directory("grammar")  # somebody else's: no project file beside it
    (tmp_path / "pyproject.toml").touch()
    assert resources.directory("grammar") == tmp_path / "grammar"
    (package / "grammar").mkdir()
    assert resources.directory("grammar") == package / "grammar"


def test_cache_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTDSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = resources.cache_directory()
    assert path == tmp_path / "xdg" / "optdsl"
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o777)
    assert resources.cache_directory() is None
    monkeypatch.setenv("OPTDSL_CACHE", str(tmp_path / "own"))
    assert resources.cache_directory() == tmp_path / "own"
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPTDSL_CACHE", str(tmp_path / "file"))
    assert resources.cache_directory() is None


@pytest.mark.parametrize("content", [None, b"not a table"])
def test_grammar_survives_a_bad_cache(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTDSL_CACHE", str(tmp_path))
    Grammar()
    (cached,) = tmp_path.iterdir()
    good = cached.read_bytes()
    if content is None:
        cached.write_bytes(good[: len(good) // 2])
    else:
        cached.write_bytes(good.split(b"\n")[0] + b"\n" + content)
    again = Grammar()
    assert [token.type for token in again.lark.lex("p = g\n")] == ["NAME", "EQUAL", "NAME", "_NL"]
    assert len(cached.read_bytes()) > 0.9 * len(good), "and is written anew"
