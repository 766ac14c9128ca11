"""`--model nabla`: an lm-eval model that answers with a test-time method (DESIGN 7)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from lm_eval.utils import simple_parse_args_string

from nabla_eval.cost.peak import PeakMemory, larger
from nabla_eval.engine.drive import Execute
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server
from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments as model_args
from nabla_eval.harness import loading
from nabla_eval.harness.answer import Answerer, Work
from nabla_eval.harness.instances import GenerationReader, SampleRequest, Thinking, fit, samples
from nabla_eval.harness.loggers import accept_absent_metrics
from nabla_eval.harness.metrics import NablaResponse
from nabla_eval.harness.preflight import NO_CACHE, plain_errors
from nabla_eval.harness.progress import Progress
from nabla_eval.harness.ranks import RankedLM
from nabla_eval.models.chat import check_asked, has_chat_template, render
from nabla_eval.models.identity import identity
from nabla_eval.models.memory import Meter, devices
from nabla_eval.models.pair import Messages, Pair
from nabla_eval.models.tokenizers import to_be_continued
from nabla_eval.options import flatten
from nabla_eval.protocol import Problem
from nabla_eval.signals import stoppable
from nabla_eval.terminal import LOGGER


class NablaLM(RankedLM):
    """A policy and a reward model under a test-time method, as lm-eval's `--model nabla`.

    Keyword arguments are those of `--model_args`: `pretrained` and `reward` (hub ids or folders;
    the embedded pair by default), `method`, `preset`, every option of the method (`n=8`, `lr=0.1`),
    `seed`, `trace_dir`, `max_batch_tokens` (padded tokens of a micro-batch),
    `gradient_checkpointing` (backward passes keep less and take longer), and whatever `HFLM` takes.
    `pair` is an embedded pair's name (`pair=words`) or a loaded pair; `progress(done, total)` is
    called after each response. `begin(self, work)` is called before the work is begun, and what it
    returns is done instead; no answer is kept then (`nabla-eval run --dry-run`).

    `batch_size` is the number of problems that are active at once. No token, verdict or accuracy
    depends on it; in float32 recorded rewards and norms differ by up to 8e-5. Without `seed`, draws
    are keyed by the torch seed that lm-eval's `--seed` sets, or by 0.

    Raises `ConfigError` for arguments that are unknown or contradict each other, before anything
    is loaded, and `ModelError` for models that do not fit.
    """

    def __init__(
        self,
        pretrained: Any = None,
        *,
        pair: Pair | str | None = None,
        progress: Callable[[int, int], None] | None = None,
        begin: Callable[[NablaLM, Sequence[Work]], list[Work]] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(pair, str):
            pair, options = None, {**options, "pair": pair}
        self.arguments = model_args.read(
            {"pretrained": pretrained, **options},
            paired=pair is not None,
            rewarded=pair is not None and pair.reward is not None,
        )
        self.arguments = replace(self.arguments, dry=begin is not None)
        accept_absent_metrics()
        self.progress, self.begin = progress, begin
        self._adopted = pair is not None
        self._conversations: dict[str, Messages] = {}
        self._warned = False
        self.seconds = 0.0  # spent in generate_until
        self.peak_memory: PeakMemory | None = None  # there
        # A server that is away is noticed before any model is loaded.
        server = None if self.arguments.server is None else Server(self.arguments.server)
        self.pair = self._load() if pair is None else self._adopt(pair)
        policy = self.pair.policy
        if self.arguments.config.needs_chat:
            check_asked(self.tokenizer)
        if not self.arguments.hf.get("tp_plan"):  # whose processes hold one model together
            self.join(self.arguments.trace_dir)
        self._remote = None
        if server is not None:
            self._remote = VLLMRollout(policy, server, self.arguments.max_batch_tokens)
        self.models = identity(self.pair)
        if server is not None:  # whose draws are others than the local ones
            self.models["rollout"] = f"vllm {server.model}"
        self._thinking = Thinking.of(
            self.think_end_token, self.enable_thinking, self._end_of_thought, policy.thought
        )
        self._read = GenerationReader(self.arguments, self.tok_decode([self.eot_token_id], False))

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> NablaLM:
        """Make the model of `--model_args`, which beat lm-eval's own `--batch_size`, `--device`."""
        if "lm_eval._cli.run" in sys.modules:
            plain_errors()
        given = {n: v for n, v in (additional_config or {}).items() if v is not None}
        if given.get("device") == "cuda:0" and not torch.cuda.is_available():
            del given["device"]  # lm-eval's default; where it was typed, it was refused before
        return cls(**{**given, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> NablaLM:
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _load(self) -> Pair:
        loading.check_reward(self.arguments)
        super().__init__(**loading.policy_options(self.arguments))
        return loading.load_pair(self.arguments, self.model, self.tokenizer, self.device)

    def _adopt(self, pair: Pair) -> Pair:
        hf = {"batch_size": 32, **self.arguments.hf}
        super().__init__(pretrained=pair.policy.base, tokenizer=pair.policy.tokenizer, **hf)
        if "max_length" in hf:
            pair = replace(pair, policy=replace(pair.policy, context=self.max_length))
        if self.arguments.needs_reward:
            pair.judge  # noqa: B018 - raises where there is none, before any decoding
            return pair
        return replace(pair, reward=None)  # as where it is loaded: traces tell models apart

    def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
        """Logits for loglikelihood tasks; an adopted policy comes as base and head."""
        if not self._adopted:
            return super()._model_call(inps, attn_mask, labels)
        with torch.no_grad():
            return self.pair.policy.head(self.pair.policy.base(input_ids=inps).last_hidden_state)

    def _end_of_thought(self, ids: list[int]) -> str:
        """Text of a token that ends thoughts; "" for one that ends responses, and for none."""
        ends = not {*self.pair.policy.end_ids}.isdisjoint(ids)
        return "" if ends else self.pair.policy.decode(ids, special=True)

    @property
    def seed(self) -> int:
        """Seed of every draw: the argument `seed`, else what lm-eval seeded torch with, else 0."""
        if self.arguments.seed is not None:
            return self.arguments.seed
        ambient = torch.initial_seed()
        # Unseeded, torch starts from 64 random bits: larger than any seed that anybody would type.
        return ambient if ambient < 2**32 else 0

    @property
    def width(self) -> int:
        """Problems that are active at once."""
        if str(self.batch_size).startswith("auto"):
            return int(self.max_batch_size or 64)
        return int(self.batch_size)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation, and remember it: the reward model has a template of its own."""
        prompt = render(
            self.tokenizer,
            chat_history,
            generate=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.chat_template_args,
        )
        self._conversations[prompt] = [dict(message) for message in chat_history]
        return prompt

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """HFLM's token ids, without an EOS that the tokenizer appends: all texts are continued."""
        ids = super().tok_encode(string, add_special_tokens, **kwargs)
        ids = list(to_be_continued(self.tokenizer, ids, string))
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's `--use_cache`, whose keys name neither method, options, seed nor models.

        Raises `ConfigError`.
        """
        if cache_hook.dbdict is not None:
            raise ConfigError(NO_CACHE)
        super().set_cache_hook(cache_hook)

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[NablaResponse]:
        """Answer requests with the method: one `NablaResponse` each, in their order.

        Whatever can be refused (`ConfigError`, `ContextError`, `DataError`) is refused before the
        first token is drawn.
        """
        todo = samples(requests, alike=not self.arguments.spec.samples)
        seed = self.seed
        began = time.perf_counter()
        meter = Meter.start(devices(self.pair))
        work = [self._problem(sample, seed) for sample in todo]
        work = work if self.begin is None else self.begin(self, work)
        answer = Answerer(
            self.arguments, self.pair.policy, self.models, self._executor(), self.width, self.rank,
            self.world_size,
        )  # fmt: skip
        progress = Progress(
            len(todo), self.arguments.method, self.progress, quiet=disable_tqdm or self.rank != 0
        )

        responses: dict[int, NablaResponse] = {}
        told = stoppable(lambda: self._how_to_go_on(progress.done, len(todo)))
        with told, progress, closing(answer(work)) as answers:
            for index, response, stored in answers:
                responses[index] = response
                progress.advance(stored)
        self.seconds += time.perf_counter() - began
        self.peak_memory = larger(self.peak_memory, meter.read())
        ordered = {
            place: responses[index] for index, sample in enumerate(todo) for place in sample.places
        }
        return [ordered[place] for place in range(len(requests))]

    def _how_to_go_on(self, done: int, total: int) -> str:
        folder = self.arguments.trace_dir
        if self.arguments.dry:
            return f"{done} of {total} documents were tried. A dry run keeps no answers."
        if folder is None:
            return f"{done} of {total} answers are lost. With trace_dir=FOLDER they would be kept."
        return f"{done} of {total} answers are in {folder}; the same command goes on from there."

    def _executor(self) -> Execute:
        return Executor(
            self.pair,
            max_batch_tokens=self.arguments.max_batch_tokens,
            chat=self.chat_template_args,
            rollout=self._remote,
        )

    def _problem(self, sample: SampleRequest, seed: int) -> tuple[Problem, Any]:
        prompt, options = sample.request.args
        asked = self._read(options)
        problem = self.pair.problem(
            self.tok_encode(prompt) or [self.prefix_token_id],
            sample.key(seed),
            messages=self._messages(prompt),
            max_new_tokens=asked.max_new_tokens or self.max_gen_toks,
            stop=asked.stop,
            id=sample.id,
        )
        problem = fit(
            problem,
            self.pair,
            asked=asked.max_new_tokens is not None,
            served=None if self._remote is None else self._remote.server.context,
        )
        thought = self._thinking(prompt, self._conversations.get(prompt))
        return replace(problem, text=prompt, thought=thought), asked.config

    def _messages(self, prompt: str) -> Messages:
        """The conversation behind a prompt; one that no template made is the user's message."""
        if prompt in self._conversations:
            return self._conversations[prompt]
        text = prompt.removeprefix(self.tokenizer.bos_token or "")
        if not self._warned and any(t in text for t in self.tokenizer.all_special_tokens):
            LOGGER.warning(
                "A prompt holds special tokens, and no conversation is known that it was made of "
                "(--cache_requests?): the reward model sees it as one user message, %.60r...",
                text,
            )
        elif not self._warned and has_chat_template(self.tokenizer):
            LOGGER.warning(
                "The policy has a chat template and is prompted without it: that suits base models "
                "only. Add --apply_chat_template for an instruction-tuned one."
            )
        self._warned = True
        return [{"role": "user", "content": text}]

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say about the model: hf's facts, the method, the models."""
        nabla = {
            "method": self.arguments.method,
            "preset": self.arguments.preset,
            "config": flatten(self.arguments.config),
            "config_hash": self.arguments.fingerprint,
            "seed": self.seed,
            "models": self.models,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
        }
        return {**super().get_model_info(), "nabla": nabla}
