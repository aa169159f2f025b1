"""What must hold of queries before they reach a victim."""

from __future__ import annotations

import pytest

from raythief import asking
from raythief.errors import UserError


@pytest.mark.parametrize("word", ["<s>", "</s>", "<mask>"])
def test_a_query_with_a_special_token_is_refused(word: str) -> None:
    asking.check_plain(["<s>", "</s>", "<mask>"], iter(["a < b", "s > t"]))
    with pytest.raises(UserError, match=f"queries: a word holds `{word}`"):
        asking.check_plain(["<s>", "</s>", "<mask>"], iter(["plain", f"not {word} plain"]))
