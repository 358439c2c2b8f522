"""A backbone of your own: a linen module that returns a `BackboneOutput`, and one entry in `MODELS`."""

import flax.linen as nn
import jax.numpy as jnp

from vitjax.models import BackboneOutput
from vitjax.pretrained import MODELS, InputSpec, ModelCard


class PatchNet(nn.Module):
    """One convolution and one MLP for every patch."""

    img_size: int = 64  # pixels
    num_classes: int = 0  # these three fields are set by the programs
    dtype: str = "float32"
    patch_size: int = 16  # these are set by your table entry or by config.model
    embed_dim: int = 32

    @nn.compact
    def __call__(self, images, *, block=None, return_attention=False, train=False):
        """Images are normalised, (b, h, w, 3); the grid is static."""
        side = (self.patch_size, self.patch_size)
        x = nn.Conv(self.embed_dim, side, side, padding="VALID", name="patch_embed")(images)
        x = x + nn.Dense(self.embed_dim, name="mlp")(nn.gelu(x))
        tokens = x.reshape(len(x), -1, self.embed_dim).astype(jnp.float32)
        return BackboneOutput(tokens, tokens.mean(axis=1), tokens[:, :0], grid=x.shape[1:3])


MODELS["patchnet"] = ModelCard(PatchNet, {"embed_dim": 48}, input=InputSpec(image_size=64, crop_pct=1.0))
