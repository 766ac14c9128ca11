"""The tables of `docs/reproduce.md`, made from `reports/paper/printed.yaml` and the cost model.

`python -m docs.reproduce`, in the root of the repository, writes them anew; a test fails where they
are stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).with_suffix(".md")
PRINTED = Path(__file__).parents[1] / "reports/paper/printed.yaml"
TASKS = {
    "MATH-500": "nabla_math500", "AMC": "nabla_amc", "AIME24": "nabla_aime24",
    "AIME25": "nabla_aime25",
}  # fmt: skip
LONGEST = {"MATH-500": 1024, "AMC": 1024, "AIME24": 3072, "AIME25": 3072}  # Table 5
CHECKPOINTS = {
    "Qwen-2.5-7B": "Qwen/Qwen2.5-7B",
    "Qwen-2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
}
REWARDS = {
    "Qwen": "Skywork/Skywork-Reward-V2-Qwen3-4B", "Llam": "Skywork/Skywork-Reward-V2-Llama-3.1-8B",
}  # fmt: skip
N, PROMPT, BATCH = 8, 256, 16
BANDWIDTH, FLOPS = 3.35e12, 989e12  # of one H100 SXM: bytes, and dense bf16 operations, a second
STEP = 0.03  # seconds of a decode step whose kernels are launched one by one: an assumption
SAMPLED = {"greedy": 1, "SC, N=8": N, "BoN, N=8": N, "∇-Reasoner": N}  # responses, at most
SHAPES: dict[str, dict[str, int]] = {
    "Qwen": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
             "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
    "Llam": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
TRAINED = "[Training](training.md), then `method=greedy`"
REWARD_PARAMETERS = {"Qwen": 4.02e9, "Llam": 7.50e9}


@dataclass(frozen=True)
class Ideal:
    """What a perfect H100 would need for a policy's responses of the greatest length."""

    parameters: int
    cache: int  # bytes of a token's keys and values
    reward: float  # parameters of the reward model

    @classmethod
    def of(cls, family: str) -> Ideal:
        """Return that of a policy family, from the shape of its checkpoint."""
        from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

        from nabla_eval.models.memory import Shape, cache_per_token, parameter_count

        kind = Qwen2Config if family == "Qwen" else LlamaConfig
        config = kind(**SHAPES[family])
        cache = cache_per_token(Shape.of(config), 2)
        return cls(parameter_count(config, AutoModelForCausalLM), cache, REWARD_PARAMETERS[family])

    def hours(self, method: str, answers: int, length: int) -> tuple[float, float]:
        """Return the hours of some answers, on a perfect card and with steps of `STEP` seconds.

        ∇-Reasoner decodes a rollout of each problem at a time and takes a gradient a rollout, the
        others draw all samples of their problems as one batch, as far as `max_batch_tokens` allows.
        """
        from nabla_eval.cost.ledger import forward_flops, gradient_flops

        ours, each = method == "∇-Reasoner", SAMPLED[method]
        rows = min(BATCH * (1 if ours else each), 2**17 // (PROMPT + length))
        steps = answers * each * length / rows
        ideal = (2 * self.parameters + rows * (PROMPT + length / 2) * self.cache) / BANDWIDTH
        judged = 0 if method in ("greedy", "SC, N=8") else each
        spent = judged * forward_flops(round(self.reward), PROMPT + length)
        if ours:
            both = round(self.parameters + self.reward)
            spent += each * gradient_flops(both, PROMPT + length)
        rest = answers * spent / FLOPS
        return (steps * ideal + rest) / 3600, (steps * STEP + rest) / 3600


def command(row: dict[str, Any], policy: str, benchmark: str) -> str:
    """Return the run-folder command of a cell."""
    settings = " ".join(f"--set {pair}" for pair in row["options"].split(","))
    chat = " --apply_chat_template" if "Instruct" in policy else ""
    family = policy[:4]
    return (
        f"nabla-eval run --task {TASKS[benchmark]} --grader math_verify{chat} --set pretrained="
        f"{CHECKPOINTS[policy]} --set reward={REWARDS[family]} {settings}"
    )


def cells(printed: dict[str, Any]) -> Iterator[str]:
    """Yield the section of each policy and benchmark of Table 1."""
    rows = {row["row"]: row for row in printed["rows"]}
    ideal = {family: Ideal.of(family) for family in SHAPES}
    policy = ""
    for block in printed["accuracy"]:
        if block["source"] != "table 1":
            continue
        name, size = block["benchmark"], printed["benchmarks"][block["benchmark"]]
        if block["policy"] != policy:
            policy = block["policy"]
            yield f"\n### {policy}\n"
        answers = size["problems"] * size["runs"]
        yield f"\n**{name}**: {size['problems']} problems × {size['runs']}, task `{TASKS[name]}`\n"
        yield "\n| method | printed | answers | tokens at most | hours |\n"
        yield "|---|---:|---:|---:|---:|\n"
        for method, value in block["cells"].items():
            if method in SAMPLED:
                tokens = answers * SAMPLED[method] * LONGEST[name]
                low, high = ideal[policy[:4]].hours(method, answers, LONGEST[name])
                cost = f"{tokens / 1e6:.1f} M | {low:.2f}–{high:.1f}"
            else:
                cost = "– | –"
            yield f"| {method} | {value} | {answers:,} | {cost} |\n"
        best = command(rows["∇-Reasoner"], policy, name)
        folder = f"results/{policy}/{name}".lower()
        yield f"\n```console\n$ {best} --output {folder}\n```\n"


def rows(printed: dict[str, Any]) -> Iterator[str]:
    """Yield the table of the rows and their options."""
    yield "| row | `--model_args` |\n|---|---|\n"
    for row in printed["rows"]:
        options = f"`{row['options']}`" if "options" in row else TRAINED
        yield f"| {row['row']} | {options} |\n"


def page() -> str:
    """Return the page with its made parts made anew."""
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    for name, made in (("rows", rows(printed)), ("cells", cells(printed))):
        before, _, rest = text.partition(f"<!-- {name}:begin -->\n")
        after = rest.partition(f"<!-- {name}:end -->")[2]
        new = "".join(made).strip("\n")
        text = f"{before}<!-- {name}:begin -->\n{new}\n<!-- {name}:end -->{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
