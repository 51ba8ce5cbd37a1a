"""Text as people write it, from the spaced tokens of CLIP's tokenizer.

The tokenizer splits letters, digits and punctuation, drops what stood between them, and its decoder
puts a space there: ``8k, (masterpiece:1.2)`` comes back as ``8 k , ( masterpiece : 1 . 2 )``. The
spaces that a text had cannot be known. These rules take what is usual in prompts.
"""

from __future__ import annotations

import re

_CONTRACTIONS = frozenset(("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"))
_JOINS_LEFT = frozenset(",.;:!?)]}%…_/-”’'\u20e3")
_JOINS_RIGHT = frozenset("([{_/-$@“‘'~<")
_AFTER_DIGITS = re.compile(
    r"\w|st|nd|rd|th|[mck]m|kg|[mg]b|px|fps|mp|mph|h[dz]|fd|exr|[usx]x|xs|ds|af|pj|mr|megapixel"
    r"|koma|boys?|girls?|others?"
)
"""Words that follow a number without a space."""

_BEFORE_DIGITS = re.compile(r"of|i[nst]|on|a[trsn]|to|no|or|by|dc|jd|sp|dr|q")
"""Words of one or two letters that a number follows with a space, as in ``canon dc 20``."""

_BEFORE_ARTICLE = re.compile(
    r"|of|in|on|at|to|is|as|or|by|and|with|from|for|like|into|over|under|near|behind|wearing"
    r"|holding|through|has"
)
"""Words before the article ``a``; after others it begins a model's name, as ``powershot a20``."""


def as_written(text: str) -> str:
    """Remove the spaces of the tokenizer from a decoded text.

    Args:
        text: tokens with a space between them.
    """
    tokens = text.split()
    written = tokens[:1]
    in_quotes = False
    for before, left, right in zip(["", *tokens], tokens, tokens[1:], strict=False):
        in_quotes ^= left.count('"') % 2 == 1
        if not _joined(before, left, right, in_quotes):
            written.append(" ")
        written.append(right)
    return "".join(written)


def _joined(before: str, left: str, right: str, in_quotes: bool) -> bool:
    """Whether two tokens stand together; ``before`` is the token left of them."""
    if right in _CONTRACTIONS:
        return True
    if _is_word(left) and _is_word(right):
        return _joined_words(before, left, right)
    if _is_word(right):
        if left in _CONTRACTIONS:
            return False
        if left[-1] == '"':
            return in_quotes
        if right[0].isnumeric() and left in (".", ":"):
            return left == ":" or before[-1:].isnumeric()
        return left[-1] in _JOINS_RIGHT
    if _is_word(left) or left in _CONTRACTIONS:
        return in_quotes if right[0] == '"' else right[0] in _JOINS_LEFT and right != "--"
    return False


def _joined_words(before: str, left: str, right: str) -> bool:
    if left[0].isnumeric():
        return right[0].isnumeric() or bool(_AFTER_DIGITS.fullmatch(right))
    if not right[0].isnumeric() or before == "--":  # as in `--v 5`
        return False
    if left == "a" and (_BEFORE_ARTICLE.fullmatch(before) or not _is_word(before)):
        return False
    return len(left) <= 2 and left.isascii() and not _BEFORE_DIGITS.fullmatch(left)


def _is_word(token: str) -> bool:
    return token[0].isalpha() or token[0].isnumeric()
