"""Where a stop string ends an answer: in its text, in special tokens, or across both."""

from __future__ import annotations

from nabla_eval.models.pair import Policy
from nabla_eval.protocol import Problem
from nabla_eval.thought import Thought

BROKEN = "\ufffd"  # bytes that are no whole character


def stop_cut(policy: Policy, tokens: list[int], problem: Problem) -> tuple[str, int] | None:
    """Return the text before the first stop string of the answer and the number of its tokens.

    None where the last token ends no stop string. They are looked for among special tokens too,
    which the text itself does not show, and do not count in a thought.
    """
    stops, thought = problem.stop, problem.thought
    # Most tokens are known to end no stop string. The others complete a character, or have the last
    # one of a stop string.
    piece = policy.piece(tokens[-1])
    if BROKEN not in piece and not any(stop[-1] in piece for stop in stops):
        return None
    window = max(len(stop) for stop in stops) + 8  # a token is at least one byte of text
    tail = policy.decode(tokens[-window:], special=True)
    if not any(stop in tail for stop in stops):
        return None
    text = policy.decode(tokens, special=True)
    begin = 0 if thought is None else thought.answer_at(text)
    if begin is None:
        return None
    cuts = [at for stop in stops if (at := text.find(stop, begin)) >= 0]
    return _before(policy, tokens, min(cuts), thought) if cuts else None


def _before(
    policy: Policy, tokens: list[int], cut: int, thought: Thought | None
) -> tuple[str, int]:
    """Return the text of the first `cut` characters, special tokens counted, and its tokens."""

    def reach(count: int) -> int:
        return len(policy.decode(tokens[:count], special=True))

    count = len(tokens)
    while count > 0 and reach(count - 1) >= cut:
        count -= 1
    over = reach(count) - cut
    if over and tokens[count - 1] in policy.special_ids:  # a part of one is nothing
        count, over = count - 1, 0
    text = policy.shown(tokens[:count], thought)
    return text[: len(text) - over], count
