"""LV-ViT fixtures (a7): stem, tokens, attention and both classifiers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.compiled import compiled
from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import build
from vitjax.models.lvvit import ConvStem
from vitjax.weights import load_weights

_DOCUMENTARY = {"p_emb", "act", "grid"}  # of a fixture's config: words for what the other fields say


def check_lvvit(fixture: Fixture) -> None:
    """Compares every output, with and without attention maps."""
    config = {k: v for k, v in fixture.meta["config"].items() if k not in _DOCUMENTARY}
    model = build("lvvit_s", **config)
    variables = load_weights(fixture.weights, model)
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1), jnp.float32)
    plain = jax.jit(model.apply)(variables, images)
    out = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    stem = ConvStem(model.patch_size, model.embed_dim, model.stem_dim, model.bn_eps)
    on_grid = compiled(stem.apply)({kind: tree["patch_embed"] for kind, tree in variables.items()}, images)
    ours = {
        "patch_embed": on_grid.transpose(0, 3, 1, 2),
        "tokens": jnp.concatenate([plain.prefix, plain.tokens], axis=1),
        "pooled": plain.pooled,
        "logits_cls": plain.heads["cls"],
        "logits_aux": plain.heads["aux"],
        "logits": plain.logits,
        **{f"attn.{i}": weights for i, weights in enumerate(out.attention)},
    }
    assert_all_compared(fixture, {k: v for k, v in ours.items() if k in fixture.outputs})
    np.testing.assert_allclose(out.tokens, plain.tokens, rtol=1e-4, atol=1e-4)


CHECKS: dict[str, Callable[[Fixture], None]] = {"a7": check_lvvit}
