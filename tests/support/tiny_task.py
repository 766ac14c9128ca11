"""An lm-eval task of six Countdown problems, as a folder for --include_path: made in no time."""

from __future__ import annotations

from pathlib import Path

TASK = "tiny_countdown"
SIZE = 6
_YAML = """\
task: {name}
custom_dataset: !function {module}.dataset
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
target_delimiter: ""
num_fewshot: 0
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24}}
process_results: !function nabla_eval.harness.tasks.score_countdown
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: model_calls, aggregation: mean, higher_is_better: false}}
"""
_MODULE = """\
from datasets import Dataset
from nabla_eval.embedded.countdown import test_problems


def dataset(**_):
    {first}
    return {{"test": Dataset.from_list(test_problems({size}, numbers=3, seed=0))}}
"""


def write_task(folder: Path, name: str = TASK, first: str = "pass") -> Path:
    """Write the task's files; `first` is what its data set does first. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    module = f"{name}_data"
    (folder / f"{name}.yaml").write_text(_YAML.format(name=name, module=module))
    (folder / f"{module}.py").write_text(_MODULE.format(first=first, size=SIZE))
    return folder
