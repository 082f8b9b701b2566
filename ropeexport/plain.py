"""Text from files made fit to be read: on one line, without anything that a terminal obeys.

Names of tensors, axes and files, reasons and messages come from whoever made a file.  What prints
or writes them for people takes them through here; records and JSON keep them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

LINE = 4_000  # characters: the longest of our own messages have a tenth
PHRASE = 1_000
NAME = 80

T = TypeVar("T")


def shown(text: str, most: int = LINE) -> str:
    r"""Return text for one line: what cannot be seen is escaped, what is too long loses its middle.

    Escaped are control characters, line ends, marks that change the direction of writing, what has
    no width, and halves of characters, which no encoding has.

    Examples
    --------
    >>> print(shown("a\x1b[31m\nb\u202e"), shown("abcdefgh", 5))
    a\x1b[31m\nb\u202e ab…gh
    """
    if len(text) > most:
        start, end = most // 2, (most - 1) // 2
        text = f"{text[:start]}…{text[len(text) - end :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def all_shown(value: T, most: int = PHRASE) -> T:
    """Return a record, or whatever a record holds, with each of its texts as :func:`shown`."""
    made: Any = value
    if isinstance(value, str):
        made = shown(value, most)
    elif hasattr(value, "model_copy"):  # pydantic's, which --help does not wait for
        texts: Any = value
        made = texts.model_copy(update={name: all_shown(x, most) for name, x in texts})
    elif isinstance(value, Mapping):
        made = {all_shown(key, most): all_shown(x, most) for key, x in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)([all_shown(x, most) for x in value])
    return cast(T, made)
