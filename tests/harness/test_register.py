"""Registration goes well with whatever lm-eval already knows."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import lm_eval.models
import pytest
from lm_eval.api.registry import model_registry

from nabla_eval.harness.register import NAME, TARGET, register


@pytest.fixture
def registry(monkeypatch):
    """lm-eval's own table of models, a copy for this test without ours."""
    table = {name: model for name, model in model_registry.items() if name != NAME}
    monkeypatch.setattr(model_registry, "_objs", table)
    return table


def test_a_lazy_target_is_registered_once(registry):
    register()
    register()
    assert registry[NAME] == TARGET
    assert lm_eval.models.MODEL_MAPPING.keys() <= registry.keys()


def test_a_version_that_scanned_the_entry_point_keeps_it(registry):
    scanned = EntryPoint(name=NAME, value=TARGET, group="lm_eval.models")
    model_registry.register(NAME, target=scanned)
    register()
    assert registry[NAME] is scanned
