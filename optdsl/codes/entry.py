"""What is known of one diagnostic code.

Input: none. Output: the record that every section of the table is made of.
Does not do: hold any entry (the sections do), render.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One code of the table.

    `name` is a slug ("unclosed-bracket"), `title` one line, `text` a paragraph or two that say
    what is wrong and why it is refused. `wrong` is a whole rule file that gives this code,
    `right` the same file mended.
    """

    code: str
    name: str
    title: str
    text: str
    wrong: str
    right: str
