"""The decoding loop with scripted answers: every branch of DESIGN 3.4, without a model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nabla_eval.analysis.candidates import (
    challengers_baseline,
    first_accepted_baseline,
    judged,
)
from nabla_eval.analysis.intervals import share
from nabla_eval.engine.drive import drive_all
from nabla_eval.methods.nabla_options import Nabla, lookahead, uncertain
from nabla_eval.methods.registry import configure, start
from nabla_eval.protocol import (
    Differentiate,
    Generate,
    GradientNorms,
    Problem,
    Refine,
    Refinement,
    RewardScore,
    Score,
    TemplateAffixes,
    Trajectory,
)
from nabla_eval.randomness import Key

FRAME = TemplateAffixes((), ())


def problem(name: str = "p") -> Problem:
    return Problem(Key.root(0) / name, (1,), FRAME, 8, id=name)


KEY = Key.root(0)


def trajectory(tokens, key=KEY, entropy=1.0) -> Trajectory:
    L = len(tokens)
    entropies = (entropy,) * L if isinstance(entropy, float) else tuple(entropy)
    return Trajectory(
        tuple(tokens), " ".join(map(str, tokens)), L, "length", tuple(tokens), entropies,
        (0.5,) * L, key,
    )  # fmt: skip


class Script:
    """Answers by table: drafts, draws by (sweep, position), rewards by token sequence."""

    def __init__(self, draft, draws, rewards, entropy=1.0, norms=None, certain=None):
        self.certain = certain or {}
        self.draft, self.draws, self.rewards = draft, dict(draws), rewards
        self.entropy, self.norms = entropy, norms
        self.asked: list[str] = []

    def __call__(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        self.asked.append(type(request).__name__)
        match request:
            case Generate(prefix=None):
                return trajectory(self.draft, request.key, self.entropy)
            case Generate():
                rest = request.prefix.tokens[request.keep + 1 :]
                tokens = (*request.prefix.tokens[: request.keep], request.token, *rest)
                return trajectory(tokens, request.key, self.entropy)
            case Score():
                if request.repeat_prompt:
                    return RewardScore(self.rewards["wrong"])
                return RewardScore(self.rewards[request.trajectory.tokens])
            case Differentiate():
                norms = self.norms or [1.0] * len(request.trajectory.tokens)
                return GradientNorms({i: norms[i] for i in request.rows})
            case Refine():
                certain = self.certain.get(request.position)
                if request.certify and certain is not None:
                    count = len(request.keys)
                    return Refinement((certain,) * count, (True,) * count)
                self.asked.append("refined")
                own = request.trajectory.tokens[request.position]
                draws = self.draws.setdefault(request.position, [])
                tokens = tuple(draws.pop(0) if draws else own for _ in request.keys)
                return Refinement(tokens, (False,) * len(tokens))


def solve(script, **options):
    options = {"n": 4, "passes": 1, "gradient_threshold": 0.0, **options}
    (outcome,) = drive_all([start(problem(), configure("nabla", options))], script)
    return outcome


def test_a_draw_that_repeats_its_token_commits_it_and_costs_no_rollout():
    script = Script((5, 6, 7), {}, {(5, 6, 7): 0.0})
    outcome = solve(script)
    assert outcome.tokens == (5, 6, 7) and outcome.candidates == ()
    assert script.asked.count("Generate") == 1 and outcome.visited == 3 and outcome.ended == "done"


def test_acceptance_is_strict_and_ties_are_told_apart():
    rewards = {(5, 6): 1.0, (9, 6): 1.0, (5, 8): 2.0}
    outcome = solve(Script((5, 6), {0: [9], 1: [8]}, rewards))
    assert [c.verdict for c in outcome.candidates] == ["tie", "accepted"]
    assert outcome.tokens == (5, 8) and outcome.reward == 2.0
    assert [c.old_reward for c in outcome.candidates] == [1.0, 1.0]


def test_auto_looks_as_far_ahead_as_is_likely_to_be_reached():
    """K is the largest with (1 - a)^(K - 1) >= 0.7; a starts at one in three and falls with
    every rejection: 1/3, 1/4, 1/5, ...
    """
    config = configure("nabla", {"lookahead": "auto"})

    def judged(accepted, rejected):
        made = {"accepted": accepted, "rejected": rejected}
        return [SimpleNamespace(verdict=v) for v, count in made.items() for _ in range(count)]

    assert [lookahead(config, judged(0, j)) for j in range(6)] == [1, 2, 2, 2, 3, 3]
    assert lookahead(config, judged(3, 0)) == lookahead(config, judged(50, 1)) == 1
    for accepted, rejected in [(0, 0), (1, 4), (2, 2), (0, 40)]:
        rate = (accepted + 1) / (accepted + rejected + 3)
        K = lookahead(config, judged(accepted, rejected))
        assert (1 - rate) ** (K - 1) >= 0.7 > (1 - rate) ** K
    assert lookahead(configure("nabla", {"lookahead": "3"}), judged(9, 9)) == 3


def test_lookahead_crosses_sweeps_and_repeats_no_refinement():
    """Four candidates of two positions and two sweeps in one batch, judged in order."""
    rewards = {(5, 6): 0.0, (1, 6): -1.0, (5, 2): -1.0, (3, 6): -1.0, (5, 4): 2.0}
    script = Script((5, 6), {0: [1, 3], 1: [2, 4]}, rewards)
    outcome = solve(script, n=5, passes=2, lookahead=4)
    assert [(c.sweep, c.position, c.new_token) for c in outcome.candidates] == [
        (0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4),
    ]  # fmt: skip
    assert outcome.tokens == (5, 4) and outcome.visited == outcome.positions == 4
    assert script.asked == ["Generate", "Score", *["Refine", "refined"] * 2,
                            *["Generate"] * 4, *["Score"] * 4]  # fmt: skip


def test_sweeps_draw_afresh_also_after_one_that_proposed_nothing():
    rewards = {(5, 6): 0.0, (1, 6): -1.0, (2, 6): 1.0}
    script = Script((5, 6), {0: [1, 5, 2]}, rewards)
    outcome = solve(script, n=8, passes=5)
    assert [(c.sweep, c.new_token) for c in outcome.candidates] == [(0, 1), (2, 2)]
    # Two positions of the draft, and, in the sweep that accepted at 0, one of what replaced it; a
    # later sweep over the same trajectory draws again from what is refined already.
    assert outcome.ended == "done" and script.asked.count("Refine") == 2 + 2
    assert outcome.visited == 5 * 2 and outcome.positions == 5 * 2


def test_no_sweep_follows_one_that_found_no_position_uncertain():
    script = Script((5, 6), {}, {(5, 6): 0.0})
    outcome = solve(script, n=8, passes=5, entropy_threshold=100.0)
    assert outcome.ended == "done" and outcome.visited == 0 and outcome.positions == 2
    assert "Refine" not in script.asked


@pytest.mark.parametrize(("inclusive", "visited"), [(False, 1), (True, 2)])
def test_a_norm_at_the_threshold_passes_where_it_is_included(inclusive, visited):
    script = Script((5, 6, 7), {}, {(5, 6, 7): 0.0}, norms=[4.0, 3.9, 4.1])
    outcome = solve(script, gradient_threshold=4.0, threshold_inclusive=inclusive)
    assert outcome.visited == visited


def iid(index: int, n: int):
    """The loop on full-sequence i.i.d. draws: one position, every draw new, rewards uniform."""

    def execute(requests):
        results = []
        for request in requests:
            match request:
                case Generate(prefix=None):
                    results.append(trajectory((0,), request.key))
                case Generate():
                    results.append(trajectory((request.token,), request.key))
                case Score():
                    key = Key.root(7) / index / request.trajectory.tokens[0]
                    results.append(RewardScore(key.uniform()))
                case Refine():
                    first, execute.next = execute.next, execute.next + len(request.keys)
                    tokens = tuple(range(first, execute.next))
                    results.append(Refinement(tokens, (False,) * len(tokens)))
        return results

    execute.next = 1
    config = configure("nabla", {"n": n, "passes": 50, "steps": 0})
    (outcome,) = drive_all([start(problem(f"iid{index}"), config)], execute)
    return outcome


def test_only_draws_that_depend_on_the_gradient_ask_for_one():
    rewards = {(5, 6, 7): 0.0, (5, 9, 7): 1.0, (5, 9, 8): 2.0}
    certain = Script((5, 6, 7), {2: [8]}, rewards, certain={0: 5, 1: 9})
    outcome = solve(certain)
    assert (certain.asked.count("Refine"), certain.asked.count("refined")) == (3, 1)
    assert [(c.position, c.certified) for c in outcome.candidates] == [(1, True), (2, False)]
    assert (outcome.visited, outcome.certified) == (3, 2) and outcome.tokens == (5, 9, 8)
    asked = Script((5, 6, 7), {1: [9], 2: [8]}, rewards)
    assert solve(asked, certify=False).tokens == outcome.tokens
    assert asked.asked.count("Refine") == asked.asked.count("refined") == 3


@pytest.mark.parametrize("n", [2, 8])
def test_the_twin_with_iid_draws_rejects_at_the_harmonic_rate(n):
    """Rejection of i.i.d. full-sequence draws is 1 - H_N/N with the first draw counted as accepted,
    1 - (H_N - 1)/(N - 1) without. 1,500 problems; 99.99 % intervals, so each comparison fails by
    chance with probability 1e-4 (and the keys are fixed, so it does not at all).
    """
    runs = [(str(i), [c.verdict for c in iid(i, n).candidates]) for i in range(1500)]
    assert all(len(found) == n - 1 for _, found in runs)

    def rejected(runs):
        frame = judged(runs)
        each = (frame["verdict"] != "accepted").groupby(frame["problem"])
        return share(each.sum(), each.count(), 0.9999)

    challengers = rejected(runs)
    assert challengers.low < float(challengers_baseline(n)) < challengers.high
    with_first = rejected([(problem, ["accepted", *verdicts]) for problem, verdicts in runs])
    assert with_first.low < float(first_accepted_baseline(n)) < with_first.high
    assert with_first.high - with_first.low < 0.1


EDGE = Trajectory((5, 6, 7), "", 3, "eos", (1, 2, 3), (0.25, 0.26, 0.2), (0.97, 0.98, 0.9), KEY)


def test_a_position_needs_more_entropy_than_the_threshold_or_at_most_the_probability():
    """The paper's gate is H > eps_ent, the released max p <= 0.97: equals are told apart."""
    assert uncertain(EDGE, Nabla(entropy_threshold=0.25)) == [1]
    by_probability = Nabla(uncertainty="top_probability", top_probability_threshold=0.97)
    assert uncertain(EDGE, by_probability) == [0, 2]
