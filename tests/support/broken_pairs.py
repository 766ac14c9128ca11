"""Pairs whose policy gives numbers that are no logits, or gives some tokens no probability."""

from __future__ import annotations

from dataclasses import replace

import torch
from scripted_policy import logits_of, scripted_pair, tokenizer_with

from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key


def spoilt(value: float, position: int = 8, whole: bool = False) -> Pair:
    """A policy whose logits at one position of the sequence are no distribution."""
    own = tokenizer_with()
    logits = logits_of([own.get_vocab()["c"]] * 20, len(own), 1)
    if whole or value == -torch.inf:
        logits[position] = value
    else:
        logits[position, 3] = value
    return scripted_pair(own, logits)


def asked(pair: Pair) -> list[Problem]:
    """Three problems; only the longest prompt's response reaches the spoilt position."""
    return [
        pair.problem(text, Key.root(0) / text, max_new_tokens=4, id=f"spoilt/{i}/0")
        for i, text in enumerate(("1=", "1+2+3=", "1+"))
    ]


def masking(pair: Pair, tokens: list[int]) -> Pair:
    """The pair with a policy that gives some tokens no probability, as masked vocabularies do."""
    mask = torch.zeros(pair.policy.vocabulary, dtype=torch.float64)
    mask[tokens] = -torch.inf
    head = pair.policy.head
    return replace(pair, policy=replace(pair.policy, head=lambda states: head(states) + mask))
