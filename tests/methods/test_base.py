from __future__ import annotations

import pytest

import preface
from preface.errors import UserError


def test_a_mistake_in_an_option_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^lenght: there is no such option, did you mean length\?"):
        preface.PromptTuning(lenght=3)
    with pytest.raises(UserError, match=r"^length: Input should be greater than or equal to 1 \(got 0\)$"):
        preface.PrefixTuning(length=0)
