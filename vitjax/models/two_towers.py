"""An image tower and a text tower with a joint space; a backbone wherever images alone are given."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.layers.basic import linear_init
from vitjax.models.outputs import BackboneOutput, TextOutput, TokenReduction
from vitjax.models.text_transformer import TextTransformer
from vitjax.models.vit import VisionTransformer
from vitjax.sparsify.reducers import Reducer

SHARED = ("dtype", "remat", "scan_layers", "attention")  # fields that both towers take alike
_TINY = 1e-12


class TwoTowers(nn.Module):
    """Image tower and text tower whose embeddings are compared by cosine.

    Source: Radford et al. 2021, CLIP (arXiv:2103.00020); Zhai et al. 2023, SigLIP (arXiv:2303.15343).

    Called with images alone it is the image tower, whose fields it also answers for (`model.grid`,
    `model.clone(dtype=...)`); its result has the `embedding` besides.

    Attributes:
        image: the image tower.
        text: the text tower.
        projection_dim: width of the joint space, which pooled image vectors are projected to, without bias;
            None = pooled itself (SigLIP).
        temperature: what cosines are divided by where weights do not say, as TIPS's at Hugging Face do not;
            None = they do.
        sigmoid: scores are of single pairs, for a sigmoid, and have a bias (SigLIP); False: of a text among
            others, for a softmax (CLIP).
    """

    image: VisionTransformer
    text: TextTransformer
    projection_dim: int | None = None
    sigmoid: bool = False
    temperature: float | None = None

    @property
    def img_size(self) -> int | tuple[int, int]:
        """Of the image tower, like the properties below."""
        return self.image.img_size

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.image.patch_size

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.image.depth

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at `img_size`."""
        return self.image.grid

    @property
    def prefix_count(self) -> int:
        """Number of tokens before the patch tokens."""
        return self.image.prefix_count

    @property
    def num_classes(self) -> int:
        """Classes of the classifier beside the texts."""
        return self.image.num_classes

    @property
    def dtype(self) -> str:
        """Type of matrix products."""
        return self.image.dtype

    @property
    def scan_layers(self) -> bool:
        """Whether blocks are scanned."""
        return self.image.scan_layers

    @property
    def reducer(self) -> Reducer | None:
        """How tokens become fewer on the way."""
        return self.image.reducer

    @property
    def token_reduction(self) -> TokenReduction | None:
        """See `VisionTransformer`."""
        return self.image.token_reduction

    @nn.nowrap
    def clone(self, **changes: Any) -> "TwoTowers":
        """A copy with other fields: its own, or the image tower's, of which `SHARED` change in both."""
        own = {field.name for field in dataclasses.fields(self)} | {"parent", "_deep_clone", "_reset_names"}
        image = {name: value for name, value in changes.items() if name not in own}
        text = {name: value for name, value in image.items() if name in SHARED}
        rest = {name: value for name, value in changes.items() if name in own}
        if image:
            rest["image"] = self.image.clone(**image)
        if text:
            rest["text"] = self.text.clone(**text)
        return super().clone(**rest)

    def setup(self) -> None:
        """Makes what both calls share: `logit_scale`, the logarithm of a factor, and `logit_bias`."""
        start = nn.initializers.constant(math.log(10.0 if self.sigmoid else 1 / (self.temperature or 0.07)))
        self.logit_scale: Array = self.param("logit_scale", start, (), jnp.float32)
        start = nn.initializers.constant(-10.0)
        self.logit_bias: Array | None = (
            self.param("logit_bias", start, (), jnp.float32) if self.sigmoid else None
        )
        if self.projection_dim is not None:
            self.image_projection: nn.Dense = nn.Dense(
                self.projection_dim, use_bias=False, dtype=self.image.dtype, kernel_init=linear_init
            )

    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"],
        ids: Int[Array | np.ndarray, "t l"] | None = None,
        valid: Bool[Array | np.ndarray, "t l"] | None = None,
        *,
        train: bool = False,
        return_attention: bool = False,
        block: int | None = None,
        keep_ratio: float | int | Sequence[float] | None = None,
        decisions: Float[Array, "b stages _"] | None = None,
        facet: str = "token",
    ) -> BackboneOutput:
        """Runs the image tower, and where texts are given the text tower, too.

        Args:
            images: as for the image tower, like all keywords.
            ids: texts; `logits` are then the scores (b, t) of every text for every image, see `score`.
            valid: see `TextTransformer`.
            train: see `VisionTransformer`.
            return_attention: see `VisionTransformer`.
            block: see `VisionTransformer`; the embedding is then that of an earlier block.
            keep_ratio: see `VisionTransformer`.
            decisions: see `VisionTransformer`.
            facet: see `VisionTransformer`.

        Raises:
            ValueError: see both towers.
        """
        output = self.encode_image(
            images, train=train, return_attention=return_attention, block=block, keep_ratio=keep_ratio,
            decisions=decisions, facet=facet,
        )  # fmt: skip
        if ids is None:
            if self.is_initializing():  # the text tower has parameters, too
                self.encode_text(jnp.zeros((1, self.text.context_length), jnp.int32))
            return output
        assert output.embedding is not None
        scores = self.score(output.embedding, self.encode_text(ids, valid).embedding)
        return output.replace(logits=scores)

    def encode_image(self, images: Float[Array | np.ndarray, "b h w c"], **call: Any) -> BackboneOutput:
        """The image tower's result with the `embedding` in the joint space; arguments as for the tower."""
        output = self.image(images, **call)
        return output.replace(embedding=self._project(output.pooled))

    def encode_text(
        self,
        ids: Int[Array | np.ndarray, "b l"],
        valid: Bool[Array | np.ndarray, "b l"] | None = None,
        *,
        return_attention: bool = False,
    ) -> TextOutput:
        """The text tower's result; see `TextTransformer`."""
        return self.text(ids, valid, return_attention=return_attention)

    def project_tokens(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n j"]:
        """Patch tokens in the joint space: the embedding of an image of which pooling saw that token alone.

        Args:
            tokens: after the final norm, as the image tower returns them.
        """
        return self._project(self.image.pool_alone(tokens))

    def project_words(self, tokens: Float[Array, "b l d"]) -> Float[Array, "b l j"]:
        """Tokens of a text in the joint space, each projected as the pooled one is.

        Args:
            tokens: after the final norm, as the text tower returns them.
        """
        return self.text.project(tokens)

    def score(self, images: Float[Array, "b j"], texts: Float[Array, "t j"]) -> Float[Array, "b t"]:
        """Scaled cosines of embeddings, with the bias where there is one: what the loss was trained on."""
        images, texts = (
            x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _TINY) for x in (images, texts)
        )
        cosines = jnp.einsum("bj,tj->bt", images, texts, precision="highest")
        scores = cosines * jnp.exp(self.logit_scale)
        return scores if self.logit_bias is None else scores + self.logit_bias

    def _project(self, pooled: Float[Array, "*b d"]) -> Float[Array, "*b j"]:
        if self.projection_dim is None:
            return pooled
        return self.image_projection(pooled.astype(self.image.dtype)).astype(jnp.float32)
