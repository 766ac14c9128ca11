"""Run folders as the program writes them, with contents that a test chooses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nabla_eval.analysis.runs import Run
from nabla_eval.options import fingerprint
from nabla_eval.outcome import Verdict
from nabla_eval.traces.schema import Record, document, dumps

VERSIONS = {"nabla_eval": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
MODELS = {
    "policy": "/models/policy", "policy_hash": "p1", "dtype": "float32",
    "reward": "/models/reward", "reward_hash": "r1",
}  # fmt: skip
NABLA = {"n": 8, "passes": 1, "stop_reward": None, "temperature": 0.7, "top_p": 1.0, "top_k": 0,
         "gradient_threshold": 0.0, "steps": 20, "lr": 0.01, "lam": 1.0}  # fmt: skip
BEST_OF_N = {"n": 8, "stop_reward": None, "temperature": 0.7, "top_p": 1.0, "top_k": 0}


def candidate(
    verdict: Verdict = "accepted", position: int = 1, *, entropy: float = 0.5,
    text: str = "a b c d", old: float = 0.0, new: float | None = None, norm: float | None = 0.1,
    index: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """A judged revision; its new reward agrees with the verdict unless given."""
    if new is None:
        new = old + {"accepted": 1.0, "rejected": -1.0, "tie": 0.0}[verdict]
    return {
        "index": index, "sweep": 0, "position": position, "entropy": entropy,
        "top_probability": 0.5, "gradient_norm": norm, "old_token": 1, "new_token": 2,
        "old_text": "x", "new_text": "y", "context": text[:position], "old_reward": old,
        "new_reward": new, "verdict": verdict, "tokens": [1, 2, 3, 4], "text": text,
        "stop": "eos", "flips": 0, "moved": 0.1, "compared_reward": None,
    }  # fmt: skip


def record(
    doc: int, repeat: int = 0, *, task: str = "toy", method: str = "nabla", seed: int = 0,
    config: Mapping[str, Any] | None = None, candidates: Sequence[dict[str, Any]] = (),
    drafts: Sequence[float | None] = (0.0,), text: str = "4", reward: float | None = 0.0,
    calls: float = 10.0, models: Mapping[str, Any] | None = None, **changes: Any,
) -> Record:  # fmt: skip
    """One trace line."""
    options = dict(NABLA if config is None else config)
    key = hashlib.blake2b(f"{seed}/{task}/{doc}/{repeat}".encode(), digest_size=16).hexdigest()
    ledger = {
        "generated_tokens": calls, "gradient_passes": 0, "scorings": 0, "prefills": 1,
        "prefill_tokens": 5, "refinements": len(candidates), "speculative_tokens": 0,
        "speculative_scorings": 0, "speculative_passes": 0, "parallel_tokens": calls,
        "flops": 1e6 * calls, "model_calls": calls,
    }  # fmt: skip
    found: dict[str, Any] = {
        "schema": 1, "id": f"{task}/{doc}/{repeat}", "problem_hash": f"h{doc}", "key": key,
        "prompt": f"question {doc}", "method": method, "config": options,
        "config_hash": fingerprint(options), "models": dict(MODELS if models is None else models),
        "drafts": [
            {"index": i, "tokens": [1, 2, 3, 4], "text": f"{text}{i or ''}", "stop": "eos",
             "reward": value} for i, value in enumerate(drafts)
        ],
        "candidates": list(candidates),
        "outcome": {"text": text, "tokens": [1, 2, 3, 4], "stop": "eos", "reward": reward,
                    "ended": "done", "visited": len(candidates), "positions": 4},
        "ledger": ledger, "seconds": 0.5, "versions": VERSIONS,
    }  # fmt: skip
    return {**found, **changes}  # type: ignore[return-value, typeddict-item]


def sample(doc: int, score: float, answers: int = 1, **metrics: Any) -> dict[str, Any]:
    """One line of lm-eval's samples; of several answers, by a filter that keeps all."""
    return {
        "doc_id": doc, "doc": {"question": f"question {doc}"}, "target": "4", "filter": "none",
        "resps": [["4"] * answers],
        "filtered_resps": ["4"] if answers == 1 else [["4"] * answers], "doc_hash": f"hash{doc}",
        "metrics": ["exact_match", *metrics], "exact_match": score, **metrics,
    }  # fmt: skip


def write_run(
    folder: Path, records: Sequence[Record], scores: Sequence[float], *, task: str = "toy",
    seed: int = 0, preset: str | None = None, traces: str = ".", inner: str = "model",
    date: str = "2026-11-24T10-00-00.000001", samples: Sequence[dict[str, Any]] | None = None,
) -> Path:  # fmt: skip
    """A run folder: traces, lm-eval's samples and results as `--output_path` nests them."""
    where = folder / traces
    where.mkdir(parents=True, exist_ok=True)
    with (where / "trace-rank0.jsonl").open("a") as file:
        file.writelines(dumps(line) + "\n" for line in records)
    answers = max(Counter(document(each["id"]) for each in records).values(), default=1)
    lines = [sample(doc, score, answers) for doc, score in enumerate(scores)]
    lines = lines if samples is None else list(samples)
    nested = folder / inner
    nested.mkdir(exist_ok=True)
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (nested / f"samples_{task}_{date}.jsonl").write_text(content)
    nabla = {"preset": preset, "seed": seed}
    results = {"results": {task: {}}, "config": {"nabla": nabla}}
    (nested / f"results_{date}.json").write_text(json.dumps(results))
    return folder


def as_run(
    records: Sequence[Record], scores: Mapping[str, Sequence[float]] | None = None,
    name: str = "r", **rest: Any,
) -> Run:  # fmt: skip
    """A run in memory; every answer is right unless there are scores."""
    right = {document(each["id"]): [1.0] for each in records}
    return Run.of(name, records, right if scores is None else scores, 1.5, **rest)
