"""Beam search and tree of thought on trees whose every value is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from scripted_trees import PROBLEM, SEMICOLON, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import ConfigError
from nabla_eval.methods.beam import aggregated
from nabla_eval.methods.registry import configure, start
from nabla_eval.methods.search import partial_reward
from nabla_eval.methods.tree_of_thought import choice, thoughts, word
from nabla_eval.protocol import RewardScore
from nabla_eval.randomness import Key


def solve(method, script, **options):
    config = configure(method, {**SEMICOLON, **options})
    (outcome,) = drive_all([start(PROBLEM, config)], script)
    return outcome


def full_tree(branching, depth, seed):
    """All paths of `depth` steps; any text's worth is a fixed random number."""

    def children(text, i):
        last = text.count(";") == depth - 1
        return f"{i % branching}" + ("." if last else ";")

    def worth(text):
        return (Key.root(seed) / text).uniform()

    return children, worth


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("method", ["tree_of_thought", "beam"])
def test_the_exhaustive_best_is_found_when_the_breadth_covers_the_tree(method, seed):
    branching, depth = 3, 3
    children, worth = full_tree(branching, depth, seed)
    leaves = [f"{a};{b};{c}." for a, b, c in itertools.product(range(branching), repeat=3)]
    width = {
        "tree_of_thought": {"breadth": 9, "proposals": 3},
        "beam": {"beams": 9, "width": 3},
    }[method]
    outcome = solve(method, ScriptedTree(children, worth), **width)
    assert outcome.text == max(leaves, key=worth) and outcome.reward == worth(outcome.text)
    assert outcome.ended == "done" and len(outcome.drafts) == 27
    assert len(outcome.steps) == 3 + 9 + 27


def test_a_narrow_search_keeps_the_best_states_of_each_level():
    """b = 1 follows the best state, though the best leaf lies behind the other."""
    children = lambda text, i: "ab"[i % 2] + (";" if not text else ".")  # noqa: E731
    worth = {"a;": 1.0, "b;": 2.0, "a;a.": 9.0, "a;b.": 8.0, "b;a.": 3.0, "b;b.": 4.0}
    narrow = solve(
        "tree_of_thought", ScriptedTree(children, worth.__getitem__), breadth=1, proposals=2
    )
    assert narrow.text == "b;b." and narrow.reward == 4.0
    wide = solve(
        "tree_of_thought", ScriptedTree(children, worth.__getitem__), breadth=2, proposals=2
    )
    assert wide.text == "a;a."
    trace = [(s.parent, s.text, s.value) for s in narrow.steps]
    assert trace == [(None, "a;", 1.0), (None, "b;", 2.0), (1, "a.", 3.0), (1, "b.", 4.0)]


def test_equal_steps_are_judged_once_and_complete_responses_are_not_judged_again():
    children = lambda text, i: "x." if i or text.count(";") > 3 else "y;"  # noqa: E731
    script = ScriptedTree(children, lambda text: float(len(text)))
    outcome = solve("beam", script, beams=2, width=2, depth=3)
    assert len(script.scored) == len(set(script.scored))
    assert outcome.text.endswith(".") and outcome.ledger.scorings == len(script.scored)


def test_the_last_level_writes_to_the_end():
    outcome = solve(
        "beam", ScriptedTree(lambda text, i: "a;" if len(text) < 8 else "b.", lambda text: 0.0),
        depth=2,
    )  # fmt: skip
    assert outcome.text == "a;a;a;a;b." and max(s.index for s in outcome.steps) == 1


@pytest.mark.parametrize("method", ["beam", "tree_of_thought"])
def test_without_delimiters_the_search_stops_and_says_so(method):
    script = ScriptedTree(lambda text, i: "abc", lambda text: 0.0)
    script.write = lambda request: trajectory("abc", "step")
    outcome = solve(method, script, step_tokens=3)
    assert outcome.ended == "malformed" and outcome.text == "abc" and not script.scored
    assert "no step ended within 3 tokens" in outcome.steps[0].note
    assert outcome.malformed == len(outcome.steps)


def test_a_runaway_response_is_no_answer_where_another_ends():
    def write(request):
        script.count += 1
        return trajectory("x" * 60, "length") if script.count % 2 else trajectory("ok.")

    script = ScriptedTree(None, lambda text: 0.0)
    script.write, script.count = write, 0
    outcome = solve("beam", script)
    assert outcome.text == "ok." and outcome.ended == "done"
    assert [s.note for s in outcome.steps] == ["cut off: max_new_tokens", ""]
    assert outcome.malformed == 1
    script.write = lambda request: trajectory("x" * 60, "length")
    assert solve("beam", script).ended == "malformed"


def test_aggregates_of_step_scores():
    scores = (2.0, -1.0, 0.8)
    probabilities = [1 / (1 + math.exp(-s)) for s in scores]
    assert aggregated("last", scores) == 0.8 and aggregated("min", scores) == -1.0
    assert aggregated("mean", scores) == pytest.approx(0.6)
    assert aggregated("product", scores) == pytest.approx(math.log(math.prod(probabilities)))


def test_the_first_level_is_as_wide_as_all_later_ones_together():
    """beams * width steps at first, then `width` after each of `beams`."""
    children, worth = full_tree(9, 3, 0)
    script = ScriptedTree(children, worth)
    outcome = solve("beam", script, beams=2, width=3)
    parents = [step.parent for step in outcome.steps]
    assert parents.count(None) == 6
    assert sorted({parents.count(p) for p in parents if p is not None}) == [3]
    assert len({p for p in parents if p is not None}) == 4  # two levels of two


def test_a_complete_response_keeps_its_place_in_the_beam():
    """`done.` is the best of the first level, so of `b;x;` and `b;y;` only the better goes on."""
    tree = {"": ["done.", "b;"], "b;": ["x;", "y;"], "b;x;": ["1.", "2."], "b;y;": ["1.", "2."]}
    worth = {"done.": 3.0, "b;": 2.0, "b;x;": 1.0, "b;y;": 0.5}
    script = ScriptedTree(lambda text, i: tree[text][i % 2], lambda text: worth.get(text, 0.0))
    outcome = solve("beam", script, beams=2, width=2)
    assert outcome.text == "done." and outcome.reward == 3.0
    assert script.scored.count("done.") == 1
    assert "b;x;1." in script.scored and "b;y;1." not in script.scored


@pytest.mark.parametrize(("evaluator", "best"), [("likelihood", "b."), ("self_certainty", "a.")])
def test_without_a_reward_steps_are_judged_by_their_own_tokens(evaluator, best):
    """`b` is likelier, of `a` the policy is more certain; what came before is common to both."""
    known = {"a.": (-2.0, 3.0), "b.": (-1.0, 1.0), "p;": (-9.0, 0.0)}
    script = ScriptedTree(lambda text, i: "p;" if not text else ["a.", "b."][i % 2])
    plain = script.write

    def write(request):
        found, before = plain(request), request.prefix
        likely, certain = known[found.text[-2:]]
        of_before = ((), ()) if before is None else (before.log_probability, before.certainty)
        length = len(found.tokens) - len(of_before[0])
        columns = ((*of_before[0], *[likely] * length), (*of_before[1], *[certain] * length))
        return replace(found, log_probability=columns[0], certainty=columns[1])

    script.write = write
    outcome = solve("beam", script, evaluator=evaluator)
    values = {step.text: step.value for step in outcome.steps}
    assert outcome.text == f"p;{best}" and not script.scored
    which = 0 if evaluator == "likelihood" else 1
    assert values == {text: pytest.approx(known[text][which]) for text in known}


def test_a_process_rewards_last_prefix_score_is_a_steps_and_the_reward_a_responses():
    judged = RewardScore(5.0, (1.0, 2.0, 3.0))
    step = trajectory("ab;", "step")
    assert partial_reward(step, judged) == 3.0
    assert partial_reward(trajectory("ab."), judged) == 5.0
    assert partial_reward(step, RewardScore(5.0)) == 5.0


def test_a_proposal_fits_to_the_last_byte():
    """A token is at least a byte; a line with its ending may fill the room exactly."""

    def says(question, i):
        return f"{'x' * 59}\n{'y' * 60}" if "so far:\n\n" in question else "FINISHED"

    script = ScriptedTree(lambda text, i: ".", lambda text: 0.0, says=says)
    outcome = solve("tree_of_thought", script, generation="propose", proposals=2, depth=2)
    assert [s.text for s in outcome.steps[:1]] == [f"{'x' * 59};"]
    assert not any("y" in s.text for s in outcome.steps)


def tot(script, **options):
    return solve("tree_of_thought", script, evaluator="self", depth=3, **options)


def test_the_policy_values_states_by_the_sum_of_its_words():
    children = lambda text, i: "ab"[i] + (";" if not text else ".")  # noqa: E731

    def says(question, i):
        state = question.split("so far:\n")[1].split("\n")[0]
        return {"a;": ["sure", "likely", "dunno"], "b;": ["Impossible."] * 3}.get(
            state, ["It is likely"] * 3
        )[i]

    outcome = tot(ScriptedTree(children, says=says), proposals=2, breadth=1)
    values = {s.text: s.value for s in outcome.steps[:2]}
    assert values == {"a;": 21.0, "b;": pytest.approx(0.003)}
    assert outcome.text == "a;a." and outcome.reward is None
    assert outcome.steps[0].note == "1 valuations without a value"


def test_votes_are_counted_and_invalid_ones_noted():
    children = lambda text, i: "ab"[i] + "."  # noqa: E731
    replies = ["The best choice is 2", "The best choice is 2", "The best choice is 7"]
    outcome = tot(
        ScriptedTree(children, says=lambda q, i: replies[i]), proposals=2, evaluation="vote"
    )
    assert outcome.text == "b." and [s.value for s in outcome.steps] == [0.0, 2.0]
    assert outcome.steps[0].note == "1 votes for nothing"


def test_proposed_steps_are_the_lines_of_one_reply():
    def says(question, i):
        if "so far:\n\n" in question:
            return "one\ntwo\nthree\nfour"
        return "FINISHED"

    script = ScriptedTree(lambda text, i: " end.", lambda text: float("two" in text), says=says)
    outcome = solve("tree_of_thought", script, generation="propose", proposals=3, depth=4)
    assert [s.text for s in outcome.steps[:3]] == ["one;", "two;", "three;"]
    assert outcome.text == "two; end." and outcome.reward == 1.0


def test_empty_proposals_stop_the_search_and_say_so():
    script = ScriptedTree(None, lambda text: 0.0, says=lambda q, i: "a" if "\n\nWrite" in q else "")
    script.says = lambda q, i: "one" if "so far:\n\n" in q else " "
    outcome = solve("tree_of_thought", script, generation="propose", depth=4)
    assert outcome.ended == "malformed" and outcome.text == "one;"
    assert outcome.steps[0].note == "no proposals: empty" and outcome.malformed == 1


def test_reading_replies():
    assert word(trajectory("sure it is not. Likely")) == "likely" and word(None) is None
    assert word(trajectory("<think>sure</think> unlikely")) is None
    assert choice(trajectory("1 is worse, the best choice is 3"), 3) == 2
    assert choice(trajectory("the best choice is 0"), 3) is None
    assert choice(trajectory("the best choice is 1"), 1) == 0
    assert word(trajectory("likely at first, impossible in the end")) == "impossible"
    assert choice(trajectory("9" * 5000), 3) is None
    assert thoughts(trajectory("a\n\n b ")) == ["a", "b"]
    assert thoughts(trajectory("a\nb", "length")) == []


def test_proposals_need_a_delimiter_by_name():
    with pytest.raises(ConfigError, match="generation"):
        configure("tree_of_thought", {"generation": "propose", "step": "tokens"})
