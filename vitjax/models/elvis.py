"""ELViS: two images scored from their local descriptors, by transport with learned dustbins and votes."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vitjax.layers.activations import gelu
from vitjax.layers.basic import LayerNorm

Values = Array | np.ndarray
xavier_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()


class ElvisOutput(NamedTuple):
    """What an image pair is scored by; n query tokens, m candidate tokens.

    Attributes:
        query_gain: score of leaving each token unmatched, in [-1, 1].
        candidate_gain: likewise.
        similarity: cosine of the projected tokens; -inf where either is padding.
        plan: matched mass of two tokens, in units of a token's own mass.
        best: largest mass of each query token, then of each candidate token, in [0, 1].
        vote: what each of these adds to the score, in [0, 1]; 0 for padding.
        score: sum of the votes, which grows with the number of tokens; not a probability.
        logit: of the pair being relevant, for the loss alone: it need not rise with the score.
    """

    query_gain: Float[Array, "b n"]
    candidate_gain: Float[Array, "b m"]
    similarity: Float[Array, "b n m"]
    plan: Float[Array, "b n m"]
    best: Float[Array, "b tokens"]
    vote: Float[Array, "b tokens"]
    score: Float[Array, " b"]
    logit: Float[Array, " b"]


class Elvis(nn.Module):
    """The published head, `match_head(compat="elvis")`.

    Source: ELViS (ICLR 2026), behaviour of its released code (pavelsuma/ELViS, commit 6a37f20); written from
    its description, no code taken. Weights keep its names. As there, the iterations are counted, not run to
    convergence, and the last one is on the columns, so swapped images score a little differently; padding
    takes part in the dustbins' mass, so a pair scores differently with it.

    Attributes:
        local_dim: length of a token.
        model_dim: length of a projected token.
        temperature: factor of similarities and gains before the transport; no weight, so not in a file.
        iterations: of Sinkhorn.
        norm_eps: of the norm of projected tokens.
        vote_eps: of the norm in the voting network.
    """

    local_dim: int = 768
    model_dim: int = 128
    temperature: float | int = 10.0
    iterations: int = 10
    norm_eps: float | int = 1e-5
    vote_eps: float | int = 1e-6

    def blank(self) -> tuple[Array, Array]:
        """Inputs of the shapes that it takes."""
        tokens = jnp.zeros((1, 2, self.local_dim), jnp.float32)
        return tokens, tokens

    @nn.compact
    def __call__(
        self,
        query: Float[Values, "b n d"],
        candidate: Float[Values, "b m d"],
        query_valid: Bool[Values, "b n"] | None = None,
        candidate_valid: Bool[Values, "b m"] | None = None,
    ) -> ElvisOutput:
        """Scores each query with its candidate, in float32.

        Args:
            query: tokens of b images.
            candidate: tokens of b images.
            query_valid: False = padding; None: no token is.
            candidate_valid: likewise.
        """
        n = query.shape[1]
        valid = jnp.concatenate(
            [
                jnp.ones(x.shape[:2], bool) if there is None else there
                for x, there in ((query, query_valid), (candidate, candidate_valid))
            ],
            axis=1,
        )
        tokens = self._projected(jnp.concatenate([query, candidate], axis=1))
        gain = self._gain(tokens)
        similarity = jnp.einsum("bnd,bmd->bnm", tokens[:, :n], tokens[:, n:], precision="highest")
        real = valid[:, :n, None] & valid[:, None, n:]
        similarity = jnp.where(real, similarity, -jnp.inf)
        corner = self.param("dust_bin", nn.initializers.ones, (), jnp.float32)
        rows = jnp.concatenate([similarity, gain[:, :n, None]], axis=2)
        last = jnp.concatenate([gain[:, n:], jnp.broadcast_to(corner, (len(gain), 1))], axis=1)
        scores = self.temperature * jnp.concatenate([rows, last[:, None]], axis=1)
        plan = _plan(scores, self.iterations)
        best = jnp.concatenate([plan.max(axis=2), plan.max(axis=1)], axis=1)
        vote = jnp.where(valid, self._vote(best), 0.0)
        score = vote.sum(axis=1)
        return ElvisOutput(gain[:, :n], gain[:, n:], similarity, plan, best, vote, score, self._logit(score))

    def _projected(self, tokens: Float[Array, "b t d"]) -> Float[Array, "b t k"]:
        tokens = nn.Dense(self.model_dim, kernel_init=xavier_init, name="remap_local_0")(
            tokens.astype(jnp.float32)
        )
        tokens = LayerNorm(self.norm_eps, name="remap_local_1")(tokens)
        length = jnp.sqrt(jnp.sum(tokens * tokens, axis=-1, keepdims=True))
        return tokens / jnp.maximum(length, 1e-12)

    def _gain(self, tokens: Float[Array, "b t k"]) -> Float[Array, "b t"]:
        hidden = gelu(nn.Dense(self.model_dim, kernel_init=xavier_init, name="dust_bin_mlp_0")(tokens))
        return jnp.tanh(nn.Dense(1, kernel_init=xavier_init, name="dust_bin_mlp_2")(hidden)[..., 0])

    def _vote(self, best: Float[Array, "b t"]) -> Float[Array, "b t"]:
        hidden = LayerNorm(self.vote_eps, name="f_1")(
            nn.Dense(16, kernel_init=xavier_init, name="f_0")(best[..., None])
        )
        return jax.nn.sigmoid(nn.Dense(1, kernel_init=xavier_init, name="f_3")(gelu(hidden))[..., 0])

    def _logit(self, score: Float[Array, " b"]) -> Float[Array, " b"]:
        hidden = gelu(nn.Dense(64, kernel_init=xavier_init, name="g_0")(score[:, None]))
        return nn.Dense(1, kernel_init=xavier_init, name="g_2")(hidden)[:, 0]


def _plan(scores: Float[Array, "b n1 m1"], iterations: int) -> Float[Array, "b n m"]:
    """Counted Sinkhorn iterations in the log domain; dustbins last, each as heavy as the other side."""
    n, m = (size - 1 for size in scores.shape[1:])
    a, b = (np.log(np.array([*[1] * one, other], np.float32) / (n + m)) for one, other in ((n, m), (m, n)))
    a, b = jnp.asarray(a)[None], jnp.asarray(b)[None]

    def both(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        v = carry[1]
        u = a - jax.nn.logsumexp(scores + v[:, None], axis=2)
        v = b - jax.nn.logsumexp(scores + u[..., None], axis=1)
        return (u, v), None

    start = jnp.zeros(scores.shape[:2]), jnp.zeros((len(scores), m + 1))
    (u, v), _ = jax.lax.scan(both, start, None, length=iterations)
    return (n + m) * jnp.exp(scores + u[..., None] + v[:, None])[:, :-1, :-1]
