"""The ledger: what one problem cost, in the paper's units and in ours (DESIGN 8).

Floating-point operations are those of dense transformers, to first order: 2P per token forward and
as much again for a backward pass that stops at the input embeddings (weights get no gradient), P
the number of parameters outside the input embedding table (Kaplan et al. 2020, section 2.1;
attention's quadratic term is left out, as there).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Ledger:
    """Counts of one problem (or, summed, of a run). Every field adds up.

    `model_calls` follows the paper's accounting: a generated token is one call, a gradient pass
    four (policy and reward model, forward and backward), a scoring one. Prefills are listed but
    not counted there, as the paper does not count them.

    The same rule, a call for each forward and each backward pass of a model, covers what the paper
    does not have: the exact score of one token after a prefix is one call, and the gradient at one
    position of the reward model alone is two. A call says nothing of a pass's length (a scoring
    reads a whole response, a prefix score one token, and the tokens committed since the last one):
    `flops` does, and `reward_tokens` are those that went through the reward model for them.

    `prefill_tokens` are what was really forwarded: a prompt once for all responses that share it,
    and of a prefix whose keys and values were still there only the token that comes after it.
    """

    generated_tokens: int = 0  # tokens that the policy's decode loop produced
    gradient_passes: int = 0  # joint forward + backward passes of policy and reward model
    scorings: int = 0  # reward evaluations of a whole response
    prefills: int = 0  # prompts (with their committed prefixes) encoded from their beginning
    prefill_tokens: int = 0  # tokens encoded that were given, not generated
    refinements: int = 0  # refined distributions made: one per trajectory and position
    speculative_tokens: int = 0  # share of generated_tokens that lookahead threw away
    speculative_scorings: int = 0  # share of scorings that lookahead threw away
    speculative_passes: int = 0  # share of gradient_passes that lookahead threw away
    prefix_scorings: int = 0  # exact prefix scores: one candidate token each
    prefix_gradients: int = 0  # gradients of a prefix score at one position: forward + backward
    reward_tokens: int = 0  # forwarded for prefix scores and gradients, each once where kept
    parallel_tokens: int = 0  # length of the longest chain of tokens that had to be sequential
    flips: int = 0  # steps of DTO that changed a hard token: what makes a gradient stale
    flops: float = 0.0  # floating-point operations, 2P forward and 4P forward + backward a token

    @property
    def model_calls(self) -> int:
        """Model calls: tokens + 4 x gradient passes + scorings, and those about prefixes."""
        passes = 4 * self.gradient_passes + 2 * self.prefix_gradients
        return self.generated_tokens + passes + self.scorings + self.prefix_scorings

    def add(self, other: Ledger) -> None:
        """Add another ledger's counts to this one, in place."""
        mine = vars(self)
        for name, count in vars(other).items():
            if count:  # of most requests, most are 0
                mine[name] += count

    def __add__(self, other: Ledger) -> Ledger:
        total = Ledger(**vars(self))
        total.add(other)
        return total

    def as_dict(self) -> dict[str, float]:
        """The counts and `model_calls`, ready for JSON."""
        return {**asdict(self), "model_calls": self.model_calls}


def forward_flops(parameters: int, tokens: int) -> float:
    """Return the operations of `tokens` forward through a model of `parameters` parameters."""
    return 2.0 * parameters * tokens


def gradient_flops(parameters: int, tokens: int) -> float:
    """Return the operations of a forward pass and a backward pass to the inputs."""
    return 4.0 * parameters * tokens


def table_flops(vocabulary: int, hidden: int) -> float:
    """Return the operations of one vector times an embedding table: a mean embedding, or G."""
    return 2.0 * vocabulary * hidden
