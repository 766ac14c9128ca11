"""The embedded pair under lm-eval, loaded once, and lm-eval without its thousands of tasks."""

from __future__ import annotations

import logging

import pytest

from nabla_eval import embedded


@pytest.fixture(autouse=True)
def quiet():
    """lm-eval sets up logging for a terminal; tests that read the log must see all of it."""
    before = logging.getLogger("nabla_eval").propagate
    logging.getLogger("nabla_eval").propagate = True
    yield
    logging.getLogger("nabla_eval").propagate = before


@pytest.fixture(scope="session")
def policy_folder():
    folder = embedded.paths()[0]
    assert (folder / "model.safetensors").is_file(), "the embedded weights are missing"
    return str(folder)


@pytest.fixture(scope="session")
def double_pair():
    """The embedded pair in float64, where no result may depend on the batch."""
    from nabla_eval import load_pair

    return load_pair(dtype="float64", device="cpu")


@pytest.fixture(scope="session")
def task_manager(root):
    """lm-eval's index of the given folders, of `tasks/` without any."""
    from lm_eval.tasks import TaskManager

    def manager(*folders):
        paths = [str(folder) for folder in folders or (root / "tasks",)]
        return TaskManager(include_path=paths, include_defaults=False)

    return manager


@pytest.fixture(scope="session")
def evaluate(task_manager):
    """`simple_evaluate` on CPU without bootstrapping; `folder` holds the tasks."""
    import lm_eval.evaluator
    from lm_eval import simple_evaluate

    def run(model, task, folder=None, **options):
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
def lm(double_pair):
    """NablaLM on the embedded pair in float64."""
    from nabla_eval.harness.lm import NablaLM

    def make(**options):
        return NablaLM(pair=double_pair, **{"seed": 0, **options})

    return make


@pytest.fixture
def ask():
    """One of lm-eval's requests, as its Countdown task would make it."""
    from lm_eval.api.instance import Instance

    def request(prompt="5,3,2,1=11?", doc=0, repeats=1, **options):
        arguments = (prompt, {"max_gen_toks": 24, **options})
        return Instance("generate_until", {}, arguments, 0, metadata=("task", doc, repeats))

    return request


@pytest.fixture
def table():
    """The numbers of lm-eval's results table."""

    def numbers(results, task="nabla_countdown"):
        return {name: v for name, v in results["results"][task].items() if "," in name}

    return numbers
