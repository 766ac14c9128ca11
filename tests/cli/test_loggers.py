"""lm-eval's own habits under `nabla-eval run`: loggers, --show_config, --write_out, seeds, files.

One run has them all. W&B and Trackio are stand-ins that keep what they are told.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner
from lm_eval._cli import HarnessCLI

from nabla_eval import embedded
from nabla_eval.cli.main import main
from nabla_eval.errors import ConfigError, DependencyError
from nabla_eval.harness.preflight import check_command_line
from nabla_eval.runs.command import compose

OURS = {"exact_match", "model_calls", "generated_tokens", "malformed", "rejection_rate"}
CONFIG = """\
model: nabla
model_args: {method: nabla, n: 2, passes: 1}
tasks: [nabla_countdown]
limit: 3
seed: [1, 2, 3, 4]
"""


def stand_in(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = MagicMock()
    vars(module).update(members)
    return module


@pytest.fixture(scope="module")
def logged(tmp_path_factory, no_environment):
    """What the loggers were told, what was printed, and the folder of one run."""
    if not all(path.is_dir() for path in embedded.paths()):
        pytest.skip("the embedded weights are absent")
    folder = tmp_path_factory.mktemp("logged")
    (folder / "c.yaml").write_text(CONFIG)
    wandb = stand_in(
        "wandb", __version__="0.31.0", run=None, init=MagicMock(), Table=MagicMock(),
        Artifact=MagicMock(),
    )  # fmt: skip
    printer = stand_in("wandb.sdk.lib.printer", new_printer=MagicMock())
    trackio = stand_in(
        "trackio", init=MagicMock(), log=MagicMock(), Trace=MagicMock(), Table=MagicMock(),
        finish=MagicMock(),
    )  # fmt: skip
    hub, written = MagicMock(), logging.Handler()
    written.emit = MagicMock()  # the stream of lm-eval's own may be an earlier test's
    with pytest.MonkeyPatch.context() as patch:
        for module in (wandb, printer, trackio):
            patch.setitem(sys.modules, module.__name__, module)
        for name in ("wandb.sdk", "wandb.sdk.lib"):
            patch.setitem(sys.modules, name, stand_in(name))
        tracker = "lm_eval.loggers.evaluation_tracker.EvaluationTracker"
        patch.setattr(f"{tracker}._api", staticmethod(lambda token: hub))
        patch.setattr(f"{tracker}.recreate_metadata_card", MagicMock())
        words = [
            "run", "--output", str(folder / "run"), "--config", str(folder / "c.yaml"),
            "--device", "cpu", "--wandb_args", "project=p,mode=offline", "--trackio_args",
            "project=q", "--hf_hub_log_args",
            "hub_results_org=o,token=secret,push_results_to_hub=True,push_samples_to_hub=True",
            "--show_config", "--write_out", "--verbosity", "info", "--confirm_run_unsafe_code",
        ]  # fmt: skip
        logging.getLogger("lm_eval.evaluator_utils").addHandler(written)
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        logging.getLogger("lm_eval.evaluator_utils").removeHandler(written)
    assert done.exit_code == 0, done.output
    log = [call.args[0].getMessage() for call in written.emit.call_args_list]
    return wandb, trackio, hub, (done.stdout, log), folder / "run"


def test_wandb_has_our_metrics_and_every_sample(logged):
    wandb, *_ = logged
    assert wandb.init.call_args.kwargs == {"project": "p", "mode": "offline"}
    told = [call.args[0] for call in wandb.init.return_value.log.call_args_list]
    results = next(each for each in told if "nabla_countdown/exact_match" in each)
    assert {f"nabla_countdown/{name}" for name in OURS} <= results.keys()
    (samples,) = (
        each["nabla_countdown_eval_results"] for each in told if len(each) == 1 and
        "nabla_countdown_eval_results" in each
    )  # fmt: skip
    assert len(samples) == 3 and {*samples.columns} >= OURS
    assert samples["model_calls"].notna().all()
    assert all(map(math.isnan, samples["failed"]))  # no sample failed, and none has the metric


def test_trackio_and_the_hub_have_them_too(logged):
    _, trackio, hub, _, folder = logged
    assert trackio.init.call_args.kwargs["project"] == "q"
    told = [*trackio.log.call_args_list, *trackio.init.return_value.log.call_args_list]
    assert any("nabla_countdown/model_calls" in call.args[0] for call in told)
    (sent,) = (call.kwargs for call in hub.upload_file.call_args_list)
    results = json.loads(Path(sent["path_or_fileobj"]).read_text())
    assert {f"{name},none" for name in OURS} <= results["results"]["nabla_countdown"].keys()
    assert hub.upload_folder.call_args.kwargs["folder_path"] == str(folder)
    kept = [file for file in folder.iterdir() if b"secret" in file.read_bytes()]
    assert kept == [] and "token=..." in (folder / "run.json").read_text()


def test_show_config_write_out_and_seeds_are_lm_evals(logged):
    *_, (printed, log), folder = logged
    shown, _ = json.JSONDecoder().raw_decode(printed[printed.index("{\n") :])
    assert shown["results"]["nabla_countdown"]["model_calls,none"] > 0
    seeds = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
    assert [shown["config"][name] for name in seeds] == [1, 2, 3, 4]
    assert json.loads((folder / "run.json").read_text())["seed"] == 3
    assert any("context prompt (starting on next line)" in line for line in log)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--use_cache", "x"], ConfigError, "trace_dir=FOLDER keeps answers"),
        (["--wandb_args", "project=p"], DependencyError, "Try `pip install wandb`"),
        (["--trackio_args", "project=p"], DependencyError, "Try `pip install trackio`"),
    ],
)
def test_what_cannot_work_is_refused_by_both_commands(words, error, said, monkeypatch):
    monkeypatch.setattr("nabla_eval.harness.preflight.find_spec", lambda name: None)
    with pytest.raises(error, match=said):
        compose(words)
    with pytest.raises(SystemExit, match=said):
        check_command_line(["run", "--model", "nabla", "--tasks", "x", *words])


def test_the_page_describes_every_option_of_the_installed_lm_eval(root):
    """A new option of lm-eval fails here until somebody has tried what nabla does with it."""
    parser = HarnessCLI()._subparsers.choices["run"]
    theirs = {word for action in parser._actions for word in action.option_strings}
    rows = re.findall(r"^\| (`-.*?) \| ", (root / "docs/lm_eval.md").read_text(), re.MULTILINE)
    described = [word for row in rows for word in re.findall(r"`(-[^`]+)`", row)]
    assert len(described) == len(set(described))
    assert {*described} == theirs - {"-h", "--help"}
