"""Thoughts are told from answers: when stop strings count, and what is graded."""

from __future__ import annotations

import string
from dataclasses import replace

import model_builders as build
import pytest
from scripted_policy import logits_of, scripted_pair, tokenizer_with

from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.grading import grade_batch
from nabla_eval.harness import arguments, loading
from nabla_eval.harness.instances import Thinking
from nabla_eval.harness.lm import NablaLM
from nabla_eval.methods.baselines import SelfConsistency, self_consistency
from nabla_eval.models.chat import AffixFinder, Template, render
from nabla_eval.protocol import Problem, TemplateAffixes, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.thought import TAGS as TAGS_OF_ALL
from nabla_eval.thought import Thought, opening, spoken
from nabla_eval.traces.schema import problem_hash

TAGS = Thought("</think>", "<think>")
OPENED = replace(TAGS, opened=True)
PROBLEM = Problem(Key.root(0), (1,), TemplateAffixes((), ()), 9)


@pytest.mark.parametrize(
    ("thought", "text", "answer"),
    [
        (TAGS, "It is 4.", "It is 4."),  # answered without thinking
        (TAGS, "<think>\n5?\n</think>\n\nIt is 4.", "It is 4."),
        (TAGS, "<think>\nMaybe \\boxed{5}", ""),  # cut off while thinking
        (TAGS, "<think>5?</think> No. <think>\\boxed{6}", ""),
        (TAGS, "<think>5?</think> No. <think>6?</think>4", "4"),
        (OPENED, "Maybe \\boxed{5}", ""),
        (OPENED, "5?</think>4", "4"),
        (Thought(";"), "1;2;3", "3"),
        (Thought(";"), "1", "1"),
        (Thought(";", opened=True), "1", ""),
    ],
)
def test_the_answer_is_what_stands_after_the_last_thought(thought, text, answer):
    assert thought.answer(text) == answer


@pytest.mark.parametrize(("start", "end"), [*TAGS_OF_ALL, ("", ";")])
def test_what_opens_a_thought_follows_from_what_ends_it(start, end):
    assert opening(end) == start
    if start:
        assert spoken(f"{start}5?{end}4") == "4" == spoken("4")
        assert spoken(f"{start}5?") == "" == spoken("5?", in_thought=True)
        assert spoken(f"5?{end}4", in_thought=True) == "4"


def test_templates_that_open_the_thought_themselves(real):
    thinking = Thinking.of("</think>", True, lambda ids: "")
    assert thinking("...<|im_start|>assistant\n<think>\n") == OPENED
    user = [{"role": "user", "content": "Does <think> end?"}]
    for enabled in (True, False):  # Qwen3's opens none, and without thinking closes it again
        prompt = render(real(build.QWEN3), user, enable_thinking=enabled)
        assert thinking(prompt) == TAGS


ASKED = [{"role": "user", "content": "Does <think> end?"}]
MENTION = [{"role": "user", "content": "What does this tag mean: <think>"}]


@pytest.mark.parametrize(("start", "end"), TAGS_OF_ALL)
def test_a_prompt_opens_thoughts_of_every_known_tag(start, end):
    thinking = Thinking.of(None, None, lambda ids: "")
    expected = Thought(end, start, opened=True)
    for prompt in (f"<|user|>2+2?<|assistant|>{start}", f"Q: 2+2?\nA: {start}\n"):
        assert thinking(prompt) == thinking(prompt, ASKED) == expected
        assert Thinking.of(end, None, lambda ids: "")(prompt, ASKED) == expected
    for closed in (f"{start}\n\n{end}\n\n", f"{start}{end}", "", f"Think in {start} tags. So: "):
        assert thinking(f"2+2?<|assistant|>{closed}", ASKED) is None
    begun = [*ASKED, {"role": "assistant", "content": f"{start}\nWell, "}]
    assert thinking(f"Does <think> end?<|assistant|>{start}\nWell,", begun) == expected
    done = [*ASKED, {"role": "assistant", "content": f"{start}\nWell.{end}It"}]
    assert thinking(f"Does <think> end?<|assistant|>{start}\nWell.{end}It", done) is None


def test_what_the_user_says_opens_no_thought():
    """Not even where the template writes nothing after it."""
    thinking = Thinking.of(None, None, lambda ids: "")
    said = MENTION[0]["content"]
    assert thinking(said, MENTION) is None
    assert thinking(f"<|im_start|>user\n{said}\n", MENTION) is None
    assert thinking(f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n", MENTION) is None
    opened = f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert thinking(opened, MENTION) == OPENED
    # A prompt of no template is no conversation: its end is what the policy goes on from.
    assert thinking(said) == OPENED


def test_tags_that_the_policy_has_tokens_for():
    """Special tokens would vanish from the text without think_end_token, and thoughts too."""
    pairs = {
        ("[THINK]", "[/THINK]"): Thought("[/THINK]", "[THINK]"),
        ("<|channel|>", "<|message|>"): Thought(*reversed(TAGS_OF_ALL[-1])),
        (): None,
    }
    for special, thought in pairs.items():
        own = tokenizer_with(*special, words=[*"<|>[]/THINK", *string.ascii_lowercase])
        assert scripted_pair(own, logits_of([], len(own), 1)).policy.thought == thought
    own = tokenizer_with(plain=["<think>", "</think>"])
    assert scripted_pair(own, logits_of([], len(own), 1)).policy.thought == TAGS


@pytest.fixture
def write(ask):
    """What NablaLM answers with a policy that writes these tokens after a template's prompt."""
    asked = [{"role": "user", "content": "1+2"}]

    def answer(parts, *special, template="{{ messages[-1]['content'] }}=", **options):
        words = [*build.WORDS, *string.ascii_lowercase, "\\boxed{12}", "analysis", "final"]
        own = tokenizer_with(*special, words=[*dict.fromkeys(words)], chat=template)
        vocabulary, begin = own.get_vocab(), len(own(render(own, asked))["input_ids"])
        logits = logits_of([vocabulary[part] for part in parts], len(own), begin)
        model = NablaLM(pair=scripted_pair(own, logits), method="greedy", seed=0)
        request = ask(model.apply_chat_template(asked), **{"max_gen_toks": len(parts), **options})
        (response,) = model.generate_until([request], disable_tqdm=True)
        return response

    return answer


R1 = "{{ messages[-1]['content'] }}=<think>\n"
TAG = ("<think>", "</think>")


def test_a_thought_that_the_template_opens_and_that_is_cut_off_is_no_answer(write):
    cut = write(["c", "\\boxed{12}", "?"], *TAG, template=R1)
    assert cut == "" and cut.stats["truncated"]
    (grade,) = grade_batch([("12", cut)])
    assert (grade.equal, grade.reason) == (False, "no_answer")
    # Stop strings count after the thought alone.
    whole = write(["c", ";", "</think>", "\\boxed{12}", ";", "e"], *TAG, template=R1, until=[";"])
    assert whole == "\\boxed{12}" and not whole.stats["truncated"]
    assert grade_batch([("12", whole)])[0].equal


def test_channels_of_gpt_oss(write):
    marks = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>")
    thought = ["<|channel|>", "analysis", "<|message|>", "\\boxed{12}", "<|end|>", "<|start|>"]
    final = ["<|channel|>", "final", "<|message|>", "c", "3", "<|return|>"]
    for until in ([], ["<|return|>"], ["<|end|>", "<|return|>"]):
        assert write([*thought, *final], *marks, until=until) == "c3"
        for cut in (4, 5, 6, 8):
            assert write([*thought, *final][:cut], *marks, until=until) == ""


def test_channels_whose_special_tokens_were_dropped():
    assert spoken("analysismaybe 9assistantfinalIt is 10.") == "It is 10."
    assert spoken("analysisWe need 9") == ""
    for prose in ("analysis of 9", "analysis: 9", "An analysis, assistantfinal"):
        assert spoken(prose) == prose


def test_thoughts_of_the_embedded_policy(lm, ask):
    def answer(request, **options):
        (response,) = lm(method="greedy", **options).generate_until([request], disable_tqdm=True)
        return response

    whole = answer(ask())
    thought, _, said = whole.rpartition(";")
    assert "=" in thought and "=" in said
    token = lm().tokenizer.convert_tokens_to_ids(";")
    for end in (";", str(token)):
        cut = answer(ask(), think_end_token=end)
        assert cut == said and cut.stats["generated_tokens"] == whole.stats["generated_tokens"]
    # Stop strings do not fire inside a thought.
    stopped = answer(ask(until=["="]), think_end_token=";", enable_thinking=True)
    assert stopped == said.partition("=")[0]
    assert stopped.stats["generated_tokens"] > len(thought) / 3  # it was not cut in the thought
    # A thought that is cut off is no answer.
    open_ = answer(ask(max_gen_toks=3), think_end_token="#", enable_thinking=True)
    assert open_ == "" and open_.stats["truncated"] and open_.stats["generated_tokens"] == 3
    with pytest.raises(ConfigError, match="leaves no trace in a response's text"):
        lm(think_end_token=lm().pair.policy.end_ids[0])


def test_thoughts_do_not_vote():
    texts = [r"\boxed{5}", r"\boxed{5}", r"5?</think>\boxed{4}"]
    drafts = [Trajectory((), text, 0, "eos", (), (), (), PROBLEM.key) for text in texts]
    for thought, winner in ((None, 0), (OPENED, 2)):
        method = self_consistency(replace(PROBLEM, thought=thought), SelfConsistency(n=3))
        next(method)
        with pytest.raises(StopIteration) as ended:
            method.send(drafts)
        assert ended.value.value.text == texts[winner]


def test_traces_tell_runs_with_other_thoughts_apart():
    hashes = {problem_hash(replace(PROBLEM, thought=t)) for t in (None, TAGS, OPENED)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"enable_thinking": True, "think_end_token": "</think>"}, True),
        ({"enable_thinking": False}, False),
        ({"enable_thinking": True, "think_end_token": "x", "reward_thinking": False}, False),
        ({"reward_thinking": True}, True),
    ],
)
def test_the_reward_model_expects_thoughts_where_they_are_enabled(options, expected):
    assert loading._template(arguments.read(options)).thinking == expected


def test_reward_templates_that_leave_thoughts_out():
    strips = (
        "{% for m in messages %}{{ m['content'].split('</think>')[-1].strip() }}"
        "{{ eos_token }}{% endfor %}"
    )
    tokenizer = build.word_tokenizer([*build.WORDS, *"<>thinkNablresposx"], chat=strips)
    asked = [{"role": "user", "content": "1+2"}]
    with pytest.raises(ModelError, match="need reward_thinking=false"):
        AffixFinder(tokenizer, Template(thinking=True))(asked)
    assert AffixFinder(tokenizer, Template(thinking=False))(asked).after == (
        tokenizer.eos_token_id,
    )
