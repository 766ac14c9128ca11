"""Run folders with many problems of about 90 KB each, as seven candidates of 500 tokens take."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from run_folders import candidate, record, sample, write_run

from nabla_eval.traces.schema import dumps

TOKENS = 500
_NAME = "NUMBER"  # stands for the document's number where lines are made from one


def _line(seed: int) -> bytes:
    """A record without its checksum, for every document alike but for its number."""
    draw = random.Random(seed)

    def response() -> dict[str, Any]:
        text = " ".join(f"w{draw.randrange(3000):04}" for _ in range(TOKENS))
        return {"tokens": [draw.randrange(150_000) for _ in range(TOKENS)], "text": text}

    def profile() -> dict[str, Any]:
        return {
            "tokens": [f"w{draw.randrange(3000):04}" for _ in range(TOKENS)],
            "entropy": [draw.random() for _ in range(TOKENS)],
            "gradient_norms": {str(place): draw.random() for place in range(0, TOKENS, 10)},
        }

    judged = [
        {**candidate(draw.choice(["accepted", "rejected", "tie"]), 40 * i, index=i,
                     entropy=draw.random(), norm=draw.random()), **response()}
        for i in range(7)
    ]  # fmt: skip
    base = record(0, candidates=judged, prompt=f"question {_NAME} " + "and more " * 40)
    return dumps({
        **base,
        "schema": 2, "id": f"toy/{_NAME}/0",
        "drafts": [{**base["drafts"][0], **response()}],
        "outcome": {**base["outcome"], **response()},
        "profiles": {"first": profile(), "final": profile()},
    }).encode()  # fmt: skip


def write_large_run(folder: Path, problems: int) -> Path:
    """A finished run on so many problems."""
    samples = [sample(doc, float(doc % 3 > 0)) for doc in range(problems)]
    write_run(folder, [], [], samples=samples)
    bodies = [_line(seed) for seed in range(4)]
    with (folder / "trace-rank0.jsonl").open("wb") as shard:
        for doc in range(problems):
            body = bodies[doc % len(bodies)].replace(_NAME.encode(), str(doc).encode())
            check = hashlib.blake2b(body, digest_size=6).hexdigest()
            shard.write(body[:-1] + b',"check":' + json.dumps(check).encode() + b"}\n")
    return folder
