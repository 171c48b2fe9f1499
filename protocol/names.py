"""Names of tensors: which characters may be in one.

The one rule: it is the same for every program in every language. What is refused is this list, which never changes with
a version of Unicode or of Python: a character that is not in it is taken, assigned or not.
"""

from __future__ import annotations

import re
from typing import Final

from leeway.protocol.limits import MAX_NAME

REFUSED_CHARACTERS: Final = (
    (0x0000, 0x001F),  # control characters, TAB and LF among them
    (0x007F, 0x00A0),  # more of them, and the no-break space
    (0x00AD, 0x00AD),  # soft hyphen
    (0x0600, 0x0605),  # Arabic format characters
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x1680, 0x1680),  # a space
    (0x180E, 0x180E),
    (0x2000, 0x200F),  # spaces, joiners, marks of direction
    (0x2028, 0x202F),  # separators of lines and paragraphs, overrides of direction
    (0x205F, 0x206F),
    (0x3000, 0x3000),  # a space
    (0xD800, 0xF8FF),  # surrogates, private use
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE007F),  # tags
    (0xF0000, 0x10FFFF),  # private use
)
"""First and last code point of each run: what Unicode 16 has as "Other" or "Separator", but for the ASCII space and for
what it has not assigned."""

_REFUSED = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in REFUSED_CHARACTERS)}]")


def is_tensor_name(name: str) -> bool:
    """Whether a tensor may be called so: 1 to `MAX_NAME` characters, none of them refused."""
    return 1 <= len(name) <= MAX_NAME and _REFUSED.search(name) is None
