"""The test run itself checks the shapes in signatures (pyproject.toml, --jaxtyping-packages)."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from nabla_eval.dto.relaxation import soft_backward


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        soft_backward(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


def test_a_right_shape_is_let_through() -> None:
    assert soft_backward(torch.zeros(2, 3), torch.zeros(2, 3), 1.0).shape == (2, 3)
