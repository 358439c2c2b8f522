"""The dynamic stage of DynamicCNN: selected positions take the MLP (slow path), others a linear layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, drop_branch, linear_init
from vitjax.layers.depthwise import DepthwiseConv
from vitjax.models.convnext_blocks import Block, downsampled
from vitjax.models.two_paths import Split, each_its_way, run_two_paths


class DynamicBlock(Block):
    """ConvNeXt's block with a slow and a fast path after its convolution, which is over all positions.

    Source: Rao et al. 2023, "Dynamic Spatial Sparsification" (arXiv:2207.01580), Sec. 3.3.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        keep: Float[Array, "b h w 1"],
        split: Split | None = None,
        other: Float[Array, "b h w d"] | None = None,
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w d"] | None, None]:
        """Returns the updated map, the other stream, and no attention.

        Args:
            x: the map.
            keep: 1 = slow path, 0 = fast path; carries gradient where there is no `split`.
            split: the same as positions: each path is computed for its own positions only.
            other: the released training form keeps two values of every position, `x` as if it had gone the
                slow way and `other` as if the fast one, and `keep` chooses what the convolution sees.
        """
        shape, channels = x.shape, x.shape[-1]
        merged = x if other is None else x * keep + other * (1 - keep)
        mixed = DepthwiseConv(self.kernel_size, name="conv_dw")(merged)

        def flat(x: Array) -> Array:
            return x.reshape(shape[0], -1, x.shape[-1])

        def fast(x: Array) -> Array:
            normal = LayerNorm(self.eps, name="fast_path_0")(x).astype(self.dtype)
            linear = nn.Dense(channels, dtype=self.dtype, kernel_init=linear_init, name="fast_path_1")
            return self.scaled(linear(normal), "fast_path_gamma")

        def added(to: Array, update: Array) -> Array:
            return to + drop_branch(self, update, self.drop_path).reshape(shape).astype(to.dtype)

        if split is not None and not self.is_initializing():  # a path that no position takes has weights too
            return added(x, each_its_way(flat(mixed), split, self.pointwise, fast)), None, None
        if other is None:
            update = flat(keep) * self.pointwise(flat(mixed)) + (1 - flat(keep)) * fast(flat(mixed))
            return added(x, update), None, None
        slow_input, fast_input = mixed * keep + x * (1 - keep), mixed * (1 - keep) + other * keep
        return added(x, self.pointwise(flat(slow_input))), added(other, fast(flat(fast_input))), None


class DynamicStage(nn.Module):
    """A stage of ConvNeXt whose predictors select the positions of the slow path; each among all positions.

    Fields as in `convnext.Stage`; `pruning_loc` are blocks of this stage that a predictor comes before.
    """

    dim: int
    depth: int
    block: dict[str, Any]
    pruning_loc: tuple[int, ...]
    eps: float | int = 1e-6
    dtype: str = "float32"
    remat: bool = False
    compat: str | None = None
    drop_path_rate: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        last: int,
        ratios: tuple[float, ...],
        train: bool = False,
        decisions: Float[Array, "b stages _"] | None = None,
    ) -> tuple[Float[Array, "b y x d"], dict[str, Any]]:
        """Returns the map after block `last` of this stage, and fields of the output.

        Args:
            x: the map of the stage before.
            last: index from 0.
            ratios: share of positions on the slow path after each predictor.
            train: samples decisions, from the rng "gumbel", and computes both paths for every position.
            decisions: given ones instead; both paths are computed whatever `train` says.
        """

        def layer(i: int, two_paths: bool) -> Callable:
            kind: Any = DynamicBlock if two_paths else Block
            made: Any = nn.remat(kind) if self.remat else kind
            rate = self.drop_path_rate[i] if self.drop_path_rate else 0.0
            return made(**self.block, drop_path=rate, name=f"blocks_{i}")

        x, _, parts = run_two_paths(
            self, layer, downsampled(x, self.dim, self.eps, self.dtype), depth=last + 1, ratios=ratios,
            train=train, decisions=decisions, predictor_eps=self.eps,
        )  # fmt: skip
        return x, parts
