"""Run folders of any size, written as runs write them: seeded problems through `TraceWriter`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from run_folders import MODELS, sample, write_run

from nabla_eval.cost.ledger import Ledger
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.outcome import Candidate, Draft, Outcome, Verdict
from nabla_eval.protocol import Problem, TemplateAffixes
from nabla_eval.randomness import Key
from nabla_eval.traces import Record, TraceWriter, record, trace_path
from nabla_eval.traces.observe import Observed

VOCABULARY = 50_000
VERDICTS: Sequence[Verdict] = ("accepted", "rejected", "rejected", "tie")
SCORED = range(0, 10_000, 10)  # positions at which gradients are looked at


def piece(token: int) -> str:
    """Text of a token, of about four characters as real ones have."""
    return f" {token:x}" if token % 16 else "\n"


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(piece, tokens))


def _response(draw: random.Random, start: tuple[int, ...], length: int) -> tuple[int, ...]:
    return start + tuple(draw.choices(range(VOCABULARY), k=length - len(start)))


def _outcome(draw: random.Random, judged: int, length: int) -> Outcome:
    """A first draft and its revisions from left to right, each rolled out to the full length."""
    current, reward = _response(draw, (), length), draw.gauss(0, 1)
    draft = Draft(0, current, text_of(current), "eos", reward)
    candidates = []
    for index in range(judged):
        position = (index + 1) * length // (judged + 1)
        new_token = draw.randrange(VOCABULARY)
        tokens = _response(draw, (*current[:position], new_token), length)
        verdict = draw.choice(VERDICTS)
        change = {"accepted": 1, "rejected": -1, "tie": 0}[verdict]
        candidates.append(
            Candidate(
                index, 0, position, draw.random(), draw.random(), draw.random(),
                current[position], new_token, reward, reward + change, verdict, tokens,
                f"{text_of(tokens)} The answer is {draw.randrange(8)}.", "eos",
            )
        )  # fmt: skip
        if verdict == "accepted":
            current, reward = tokens, reward + change
    last = next((c for c in reversed(candidates) if c.verdict == "accepted"), draft)
    ledger = Ledger(generated_tokens=(judged + 1) * length, gradient_passes=judged, flops=1e15)
    return Outcome(
        last.text, current, "eos", reward, visited=judged, positions=length, drafts=(draft,),
        candidates=tuple(candidates), ledger=ledger,
    )  # fmt: skip


def large_record(document: int, candidates: int = 7, tokens: int = 500, seed: int = 0) -> Record:
    """The record of a problem, the same for the same arguments."""
    draw = random.Random(f"{seed}/{document}")
    key = Key.root(seed) / document
    prompt = f"question {document} " + "and more " * 40
    problem = Problem(
        key, (1, 2, 3), TemplateAffixes((1,), (2,)), tokens, text=prompt, id=f"toy/{document}/0"
    )
    outcome, observed = _outcome(draw, candidates, tokens), Observed()
    for response in {outcome.drafts[0].tokens, outcome.tokens}:
        observed.entropy[response] = tuple(draw.random() for _ in response)
        observed.norms[response] = {place: draw.random() for place in SCORED[: tokens // 10]}
    return record(problem, "nabla", Nabla(), outcome, 1.0, piece, text_of, MODELS, observed)


def write_large_run(
    folder: Path, problems: int, candidates: int = 7, tokens: int = 500, seed: int = 0
) -> Path:
    """A finished run on so many problems; without tokens of its own each is about 90 KB."""
    samples = [sample(document, float(document % 3 > 0)) for document in range(problems)]
    write_run(folder, [], [], samples=samples)
    trace_path(folder).unlink()
    with TraceWriter(trace_path(folder)) as writer:
        for document in range(problems):
            writer.write(large_record(document, candidates, tokens, seed))
    return folder
