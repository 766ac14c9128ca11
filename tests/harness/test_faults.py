"""Items that fail are named, tried again, and never scored as wrong without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nabla_eval.errors import ItemError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.traces import read


@pytest.fixture
def spoil(double_pair):
    """The embedded pair with a reward model that is beside itself for some problems."""

    def make(*targets):
        judge = double_pair.judge
        embedding = judge.table[[judge_id(double_pair, target) for target in targets]]

        class Base(torch.nn.Module):
            broken = True

            def forward(self, inputs_embeds, **options):
                output = judge.base(inputs_embeds=inputs_embeds, **options)
                same = (inputs_embeds[:, :, None] == embedding).all(-1).any(-1).any(-1)
                if self.broken:
                    output.last_hidden_state[same] = torch.nan
                return output

        return replace(double_pair, reward=replace(judge, base=Base()))

    return make


def judge_id(pair, number):
    (token,) = pair.policy.encode(str(number))
    return int(token)


PROMPTS = ["19,24,4=52?", "25,4,2=46?", "3,4,5=60?", "1,2,3=29?"]


def answers(pair, ask, folder, **options):
    model = NablaLM(pair=pair, method="best_of_n", n=2, trace_dir=str(folder), **options)
    return model, [ask(prompt, doc=i) for i, prompt in enumerate(PROMPTS)]


def test_the_others_are_answered_and_only_the_failed_are_tried_again(spoil, ask, tmp_path):
    model, requests = answers(spoil(29), ask, tmp_path)
    message = r"1 of 4 items failed: task/3/0: RewardError: .* Try .* The others are in "
    with pytest.raises(ItemError, match=message):
        model.generate_until(requests, disable_tqdm=True)
    assert [record["id"] for record in read(tmp_path)] == ["task/0/0", "task/1/0", "task/2/0"]
    model.pair.judge.base.broken = False
    assert len(model.generate_until(requests, disable_tqdm=True)) == 4
    assert len(read(tmp_path)) == 4


def test_allowed_errors_leave_an_answer_that_says_so(spoil, ask, tmp_path):
    model, requests = answers(spoil(29), ask, tmp_path, allow_errors=True)
    *others, last = model.generate_until(requests, disable_tqdm=True)
    assert last == "" and "gave nan" in last.stats["failed"]
    assert all("failed" not in other.stats for other in others)


def test_too_many_errors_stop_a_run_early(spoil, ask, tmp_path):
    model, requests = answers(spoil(52, 46, 60, 29), ask, tmp_path, max_errors=1, batch_size=1)
    with pytest.raises(ItemError) as error:
        model.generate_until(requests, disable_tqdm=True)
    assert str(error.value).startswith("Stopped early: 2 of 2 items failed: task/0/0: RewardError")
    with pytest.raises(ItemError, match="Stopped early"):
        answers(spoil(52, 46, 60, 29), ask, tmp_path, max_errors=1, allow_errors=True)[
            0
        ].generate_until(requests, disable_tqdm=True)


def test_failed_documents_have_no_score(spoil, evaluate):
    """Of six documents one fails: accuracy is that of the five."""
    from nabla_eval.embedded.countdown import test_problems as countdown

    target = countdown(6)[2]["target"]
    model = NablaLM(pair=spoil(target), method="best_of_n", n=2, allow_errors=True)
    results = evaluate(model, "nabla_countdown", limit=6)
    samples = results["samples"]["nabla_countdown"]
    failed = [sample for sample in samples if sample.get("failed")]
    assert failed and len(failed) < 6
    assert all("exact_match" not in sample for sample in failed)
    right = [sample["exact_match"] for sample in samples if not sample.get("failed")]
    found = results["results"]["nabla_countdown"]
    assert found["exact_match,none"] == pytest.approx(sum(right) / len(right))
    assert found["failed,none"] == len(failed)
