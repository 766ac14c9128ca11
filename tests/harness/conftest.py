"""The embedded pair under lm-eval, loaded once, and lm-eval without its thousands of tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nabla_eval import embedded


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """lm-eval sets up logging for a terminal; tests that read the log must see all of it."""
    before = logging.getLogger("nabla_eval").propagate
    logging.getLogger("nabla_eval").propagate = True
    yield
    logging.getLogger("nabla_eval").propagate = before


@pytest.fixture(scope="session")
def policy_folder() -> str:
    folder = embedded.paths()[0]
    assert (folder / "model.safetensors").is_file(), "the embedded weights are missing"
    return str(folder)


@pytest.fixture(scope="session")
def double_pair() -> Any:
    """The embedded pair in float64, where no result may depend on the batch."""
    from nabla_eval import load_pair

    return load_pair(dtype="float64", device="cpu")


@pytest.fixture(scope="session")
def task_manager(root: Path) -> Callable[..., Any]:
    """lm-eval's index of the given folders, of `tasks/` without any."""
    from lm_eval.tasks import TaskManager

    def manager(*folders: Path) -> Any:
        paths = [str(folder) for folder in folders or (root / "tasks",)]
        return TaskManager(include_path=paths, include_defaults=False)

    return manager


@pytest.fixture(scope="session")
def evaluate(task_manager: Callable[..., Any]) -> Iterator[Callable[..., dict[str, Any]]]:
    """`simple_evaluate` on CPU without bootstrapping; `folder` holds the tasks."""
    import lm_eval.evaluator
    from lm_eval import simple_evaluate

    def run(
        model: Any, task: str | list[str], folder: Path | None = None, **options: Any
    ) -> dict[str, Any]:
        options = {"limit": 4, "bootstrap_iters": 10, "log_samples": True, **options}
        if isinstance(model, str):
            options.setdefault("device", "cpu")
        manager = task_manager() if folder is None else task_manager(folder)
        results = simple_evaluate(model=model, tasks=task, task_manager=manager, **options)
        assert results is not None
        return results

    with pytest.MonkeyPatch.context() as patch:
        # It lists every installed package, which takes seconds each time.
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda storage: None)
        yield run


@pytest.fixture
def lm(double_pair: Any) -> Callable[..., Any]:
    """NablaLM on the embedded pair in float64."""
    from nabla_eval.harness.lm import NablaLM

    def make(**options: Any) -> Any:
        return NablaLM(pair=double_pair, **{"seed": 0, **options})

    return make


@pytest.fixture
def ask() -> Callable[..., Any]:
    """One of lm-eval's requests, as its Countdown task would make it."""
    from lm_eval.api.instance import Instance

    def request(prompt: str = "5,3,2,1=11?", doc: int = 0, repeats: int = 1, **options: Any) -> Any:
        arguments = (prompt, {"max_gen_toks": 24, **options})
        return Instance("generate_until", {}, arguments, 0, metadata=("task", doc, repeats))

    return request


@pytest.fixture
def table() -> Callable[..., dict[str, float]]:
    """The numbers of lm-eval's results table."""

    def numbers(results: dict[str, Any], task: str = "nabla_countdown") -> dict[str, float]:
        return {name: v for name, v in results["results"][task].items() if "," in name}

    return numbers
