"""Frames of generated text: the files of `templates/`.

Input: a template's path below `templates/` and its values. Output: text.
A template holds what stays the same (imports, signature, loops); every expression, name and
decision is made in Python before. An unknown name in a template is an error.
"""

from __future__ import annotations

from functools import cache

import jinja2

from optdsl.resources import directory


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # nothing here is HTML
    )


def render(template: str, **values: object) -> str:
    """The text of `template`, for example "cpu/flat.c.j2", with `values` filled in."""
    return _environment().get_template(template).render(**values)
