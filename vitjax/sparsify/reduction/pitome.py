"""PiToMe: tokens in crowds merge, by an energy of how alike each is to the others."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.base import EveryBlock, StepInput, in_raster_order
from vitjax.sparsify.reduction.groups import cosine, falling, merged, targets_of
from vitjax.sparsify.token_map import TokenMap

KINDS = ("vision", "text", "bsm")


class EnergyMatch(NamedTuple):
    """Row that each token goes to, the number of rows; energy, order and which stay of those without CLS."""

    source: Int[Array, "b n"]
    count: int
    energy: Float[Array, "b m"]
    order: Int[Array, "b m"]
    stays: Bool[Array, "b m"]


def energy_of(
    alike: Float[Array, "b m m"], *, margin: float, alpha: float = 1.0, gaussian: bool = False
) -> Float[Array, "b m"]:
    """How crowded the surroundings of each token are, from cosines.

    Source: Tran et al. 2024, PiToMe (arXiv:2405.16148), Eq. 4, with the token itself among the others, as
    in its code: the mean of ELU(cosine - margin); `gaussian`: of a normal density of 1 - cosine with
    deviation 1 - margin, which its text models have.
    """
    if gaussian:
        width = 1.0 - margin
        return jnp.mean(jnp.exp(-(((1.0 - alike) / width) ** 2) / 2) / (width * (2 * jnp.pi) ** 0.5), axis=-1)
    return jax.nn.elu(alike - margin, alpha=alpha).mean(axis=-1)


def energy_match(
    metric: Float[Array, "b n w"],
    r: int,
    *,
    margin: float,
    kind: str = "vision",
    class_token: bool = False,
    alpha: float = 1.0,
) -> EnergyMatch:
    """Groups of tokens that are alike, among those of the highest energy.

    Source: as `energy_of`, Sec. 3.2, in the form of its code.

    Args:
        metric: what is compared by cosine: keys, mean over heads.
        r: tokens that leave; at most half of those without CLS.
        margin: of the energy; falls from block to block in the paper: 0.9 - 0.9 * block / depth.
        kind: "vision": the 2 r of the highest energy alternate between those that leave and those they may
            join, all others are protected; "text": the first r leave, the next r are joined; "bsm": all
            tokens alternate, and the r of them with the most similar partner leave.
        class_token: the first token stays and takes no part.
        alpha: of the ELU.

    Returns:
        Rows are CLS, protected ones by falling energy ("bsm": those that did not leave, by falling
        similarity), then the joined ones by falling energy.

    Raises:
        UserError: an unknown kind, or more tokens to merge than there are.
    """
    start = int(class_token)
    total = metric.shape[1] - start
    if kind not in KINDS or not 0 <= 2 * r <= total:
        raise UserError(f"kind is {kind!r}, r {r}; kinds are {KINDS}, r is at most {total // 2}.")
    alike = cosine(metric[:, start:], metric[:, start:])
    energy = energy_of(alike, margin=margin, alpha=alpha, gaussian=kind == "text")
    order = falling(energy)
    if kind == "bsm":
        leaving, joined, protected = order[:, 0::2], order[:, 1::2], order[:, :0]
    else:
        crowd, protected = order[:, : 2 * r], order[:, 2 * r :]
        halves = (
            (slice(None, r), slice(r, None)) if kind == "text" else (slice(0, None, 2), slice(1, None, 2))
        )
        leaving, joined = (crowd[:, half] for half in halves)
    if r == 0:
        leaving, joined, protected = order[:, :0], order[:, :0], order
    each = jnp.arange(len(metric))[:, None]
    between = alike[each[..., None], leaving[..., None], joined[:, None, :]]
    first_joined = start + total - r - joined.shape[1]
    source = jnp.zeros((len(metric), total), jnp.int32)

    def placed(source: Array, index: Array, rows: Array) -> Array:
        return source.at[each, index].set(rows.astype(jnp.int32))

    source = placed(source, joined, (first_joined + jnp.arange(joined.shape[1]))[None])
    if r:
        source = placed(source, leaving, first_joined + between.argmax(axis=-1))
    if kind == "bsm" and r:
        best = falling(between.max(axis=-1))
        protected = jnp.take_along_axis(leaving, best[:, r:], axis=1)
    source = placed(source, protected, (start + jnp.arange(protected.shape[1]))[None])
    stays = jnp.zeros(source.shape, bool).at[each, joined].set(True).at[each, protected].set(True)
    if start:
        source = jnp.concatenate([jnp.zeros((len(metric), 1), jnp.int32), source], axis=1)
    return EnergyMatch(source, start + total - r, energy, order, stays)


@dataclass(frozen=True)
class PiToMe(EveryBlock):
    """Merges r pairs among the tokens of the highest energy in every block; see `energy_match`.

    Needs the block's keys: no attention, no CLS, no training. Sizes count in attention, as in the paper and
    not in its code. The margin falls from 0.9 in the first block to 0.9 / depth in the last.
    """

    name = "pitome"
    merges = True
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        r = tokens.shape[1] - kept
        margin = 0.9 - 0.9 * given.stage / max(self.steps, 1)
        found = energy_match(self.given_keys(given), r, margin=margin)
        groups = merged(tokens, found.source, found.count, token_map.size)
        targets = targets_of(found.source, found.stays, found.count)
        return in_raster_order(groups.tokens, token_map, found.source, targets)
