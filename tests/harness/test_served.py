"""`rollout=vllm` through NablaLM: arguments, what is refused when, and what traces remember."""

from __future__ import annotations

import pytest
from scripted_server import Script, choice, serving

from nabla_eval.errors import ConfigError, ContextError, DataError, ServerError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models.checkpoint import Checkpoint
from nabla_eval.traces import read as read_traces

URL = "http://127.0.0.1:8000"
ANSWER = "19*4=76;76-24=52"


@pytest.fixture
def script(double_pair):
    """A server of a model that knows one answer, and what the embedded policy likes to say."""
    policy = double_pair.policy
    known = [*policy.encode(ANSWER), *policy.end_ids]

    def complete(body):
        return choice(known[: body["max_tokens"]])

    models = (200, {"data": [{"id": "served", "max_model_len": 64}]})
    with serving(Script(complete, models)) as script:
        yield script


@pytest.fixture
def trusting(monkeypatch):
    """Without the comparison of models, which is tested with the engine: this server is a liar."""
    monkeypatch.setattr("nabla_eval.engine.vllm.VLLMRollout._compare", lambda self: None)


def test_the_options_of_a_server_are_read_with_their_types():
    asked = read({"rollout": "vllm", "vllm_url": URL, "vllm_concurrency": "8", "vllm_model": "m"})
    server = asked.server
    assert server is not None
    assert (server.vllm_url, server.vllm_concurrency, server.vllm_model) == (URL, 8, "m")
    assert read({}).server is None and read({"rollout": "local"}).server is None


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"stepz": 3}, ConfigError, "steps"),
        ({"rollout": "vllm", "vllm_url": "http://127.0.0.1:9", "vllm_attempts": 1}, ServerError,
         r"No answer from .* Start one with `vllm serve MODEL`"),
        ({"rollout": "vllm", "vllm_url": "HERE", "vllm_model": "serve"}, ConfigError,
         r"offers served; not 'serve'.* Did you mean served"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed_before_a_model_is_loaded(
    script, monkeypatch, options, kind, said
):
    monkeypatch.setattr(Checkpoint, "check", lambda _: pytest.fail("opened"))
    with pytest.raises(kind, match=said):
        NablaLM(**{name: script.url if v == "HERE" else v for name, v in options.items()})


@pytest.mark.usefixtures("trusting")
def test_answers_come_from_the_server_and_rewards_from_here(lm, ask, script, tmp_path):
    options = {"method": "best_of_n", "n": 2, "trace_dir": str(tmp_path)}
    model = lm(rollout="vllm", vllm_url=script.url, **options)
    script.asked.clear()
    (response,) = model.generate_until([ask("19,24,4=52?")], disable_tqdm=True)
    assert response == ANSWER
    tokens = len(model.pair.policy.encode(ANSWER)) + 1
    assert response.stats["generated_tokens"] == 2 * tokens
    assert response.stats["reward"] > 0, "the embedded reward model likes a right answer"
    assert len({asked["seed"] for asked in script.asked}) == 2
    (record,) = read_traces(tmp_path)
    assert record["models"]["rollout"] == "vllm served"
    assert model.get_model_info()["nabla"]["models"]["rollout"] == "vllm served"
    with pytest.raises(DataError, match="another run"):
        lm(**options).generate_until([ask("19,24,4=52?")], disable_tqdm=True)


@pytest.mark.usefixtures("trusting")
def test_the_servers_context_bounds_responses(lm, ask, script):
    model = lm(method="greedy", rollout="vllm", vllm_url=script.url)
    script.asked.clear()
    with pytest.raises(ContextError, match="vLLM server's context holds 64"):
        model.generate_until([ask(), ask(max_gen_toks=60)], disable_tqdm=True)
    assert script.asked == []
