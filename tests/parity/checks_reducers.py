"""Token reducers against published code (kinds g1 to g3)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.compiled import compiled
from tests.parity.fixture import Fixture, assert_all_compared, assert_close
from vitjax.layers.attention import Attention
from vitjax.layers.basic import LayerNorm, Mlp
from vitjax.models.vit import Block
from vitjax.sparsify.reducers import EViT, TopK
from vitjax.sparsify.reduction import ats, diffrate, dpcknn, evit, groups, kmedoids, mctf, pitome, tofu, tome
from vitjax.sparsify.reduction.patchmerger import PatchMerger
from vitjax.sparsify.reduction.sinkhorn import SinkhornPool
from vitjax.sparsify.reduction.sit import TokenSlimming
from vitjax.sparsify.token_map import TokenMap
from vitjax.weights.rename import to_path


def _params(weights: dict[str, np.ndarray]) -> dict:
    """Weights under torch's names as linen's parameters."""
    tree: dict = {}
    for name, value in weights.items():
        *path, leaf = to_path(name, value)[0]
        node = functools.reduce(lambda node, part: node.setdefault(part, {}), path, tree)
        node[leaf] = value.T if leaf == "kernel" else value
    return tree


def _apply(module: Any, params: dict, *given: Any, **settings: Any) -> Any:
    return jax.jit(lambda p, *x: module.apply({"params": p}, *x, **settings))(params, *given)


def _cases(fixture: Fixture) -> list[str]:
    return sorted({name.split("/")[0] for name in fixture.inputs})


def _given(fixture: Fixture, case: str) -> tuple[Any, ...]:
    """What is compared, the tokens, and their sizes or None."""
    found = [fixture.inputs.get(f"{case}/{name}") for name in ("metric", "x", "size")]
    return found[0], found[1], None if found[2] is None else found[2][..., 0]


def _only(fixture: Fixture, ours: dict) -> None:
    """Compares those that the fixture has."""
    assert_all_compared(fixture, {key: value for key, value in ours.items() if key in fixture.outputs})


def _named(case: str, found: groups.Groups, **more: Any) -> dict:
    named = {"tokens": found.tokens, "sizes": found.sizes, "source": found.source, **more}
    return {f"{case}/{name}": np.asarray(value) for name, value in named.items()}


def check_tome(fixture: Fixture) -> None:
    config, ours = fixture.meta["config"], {}
    merged = jax.jit(groups.merged, static_argnums=2)
    for case in _cases(fixture):
        wanted = config[case]
        metric, x, sizes = _given(fixture, case)
        if "heads" in wanted:
            params = _params(fixture.weights)
            layer = Attention(wanted["heads"])
            ours[f"{case}/proportional"], _, facets = _apply(layer, params, x, None, sizes)
            ours[f"{case}/plain"] = _apply(layer, params, x)[0]
            ours[f"{case}/metric"] = facets.key.mean(axis=2)
            continue
        if "k" in wanted:
            source, count = compiled(tome.every_kth_match)(metric, k=wanted["k"])
            ours |= _named(case, merged(x, source, int(count), sizes))
            continue
        steps = wanted["r"] if isinstance(wanted["r"], list) else [wanted["r"]]
        start = total = np.broadcast_to(np.arange(x.shape[1], dtype=np.int32)[None], x.shape[:2])
        prefix = {name: wanted[name] for name in ("class_token", "distill_token")}
        for i, r in enumerate(steps):
            seen = fixture.inputs[f"{case}/metric.{i}"] if metric is None else metric
            if i:
                extra = fixture.inputs.get(f"{case}/delta.{i - 1}", fixture.inputs.get(f"{case}/delta"))
                x = x + extra
            source, count = compiled(tome.alternating_match)(seen, r=r, **prefix)
            found = merged(x, source, int(count), sizes)
            x, sizes = found.tokens, found.sizes
            total = np.take_along_axis(np.asarray(source), total, axis=1)
        if "merged" in wanted:
            assert start.shape[1] - x.shape[1] == wanted["merged"]
        ours |= _named(case, groups.Groups(x, sizes, jnp.asarray(total)))
    _only(fixture, ours)


def _attention_half(config: dict, params: dict, x: np.ndarray) -> tuple[Any, Any]:
    """Tokens after the attention residual, and the maps."""
    normal = _apply(LayerNorm(config["eps"]), params["norm1"], x)
    update, weights, _ = _apply(Attention(config["heads"]), params["attn"], normal, return_attention=True)
    return x + update, weights


def _mlp_half(config: dict, params: dict, x: Any) -> Any:
    mlp = Mlp(int(config["width"] * config["mlp_ratio"]))
    return x + _apply(mlp, params["mlp"], _apply(LayerNorm(config["eps"]), params["norm2"], x))


def _block_of_ours(config: dict, params: dict, x: np.ndarray, reducer: Any) -> tuple[Any, Any]:
    """The block of our backbones with a reducer, all but the first token being patches."""
    block = Block(config["heads"], config["mlp_ratio"], eps=config["eps"], reducer=reducer, prefix=1)
    token_map = TokenMap.all(len(x), x.shape[1] - 1)
    tokens, (_, after) = _apply(block, params, x, None, token_map)
    return np.asarray(tokens), np.asarray(after.index)


def check_evit(fixture: Fixture) -> None:
    config, params = fixture.meta["config"], _params(fixture.weights)
    ours = {}
    for case in _cases(fixture):
        wanted = config["cases"][case] if "cases" in config else {"fuse": case == "evit"}
        x = fixture.inputs[f"{case}/x"]
        left = x.shape[1] - 1
        k = int(config["keep_rate"] * config["init_n"]) if "init_n" in config else None
        k = k or wanted.get("tokens") or math.ceil(wanted["keep_rate"] * left)
        middle, weights = _attention_half(config, params, x)
        by_cls = evit.cls_attention(weights)
        found = compiled(evit.keep_by_attention)(middle, by_cls, k=k, fused=wanted["fuse"])
        tokens = np.asarray(_mlp_half(config, params, found.tokens))
        kept = np.asarray(groups.falling(by_cls))[:, :k]
        end = np.full((len(x), 1), -1, np.int32)
        fused = wanted["fuse"] and k < left
        shown = np.concatenate([kept, end], axis=1) if fused and "init_n" in config else kept
        ours |= {
            f"{case}/cls_attn": by_cls,
            f"{case}/middle": middle,
            f"{case}/kept": shown,
            f"{case}/kept_sorted": np.sort(kept, axis=1),
            f"{case}/reduced": found.tokens,
            f"{case}/fused": found.tokens[:, -1],
            f"{case}/tokens": tokens,
            f"{case}/attn": weights,
        }
        kind = EViT if wanted["fuse"] else TopK
        block, index = _block_of_ours(config, params, x, kind(blocks=(0,), keep_ratio=(k - 0.5) / left))
        order = np.concatenate([[[0]] * len(x), 1 + np.argsort(np.argsort(kept))], axis=1)
        np.testing.assert_array_equal(index[:, :k], np.sort(kept, axis=1))
        order = np.concatenate([order, np.full((len(x), int(fused)), k + 1)], axis=1)
        reference = fixture.outputs[f"{case}/tokens"]
        block = np.take_along_axis(block, order[..., None], axis=1)
        assert_close(block, reference, fixture.tolerance, f"{case} in a block")
    _only(fixture, ours)


def check_dpcknn(fixture: Fixture) -> None:
    config, x, ours = fixture.meta["config"], fixture.inputs["x"], {}
    score = x @ fixture.weights["score.weight"][0] + fixture.weights["score.bias"][0]
    mask = fixture.inputs["token_mask"]
    for case, weights in {"equal": None, "weighted": np.exp(score), "masked": mask}.items():
        seen = {"mask": mask} if case == "masked" else {}
        options = {"count": config["clusters"], "neighbours": config["k"]}
        found = compiled(dpcknn.density_peaks)(x, **options, noise=fixture.inputs["noise"], **seen)
        again = compiled(dpcknn.density_peaks)(x, **options, **seen)
        np.testing.assert_array_equal(found.cluster, again.cluster)
        (tokens, sizes, source), share = compiled(dpcknn.merge_clusters)(
            x, found.cluster, count=config["clusters"], weights=weights
        )
        ours |= {
            f"{case}/tokens": tokens,
            f"{case}/centres": found.centres,
            f"{case}/idx_token": source,
            f"{case}/agg_weight": share,
            f"{case}/cluster": found.cluster,
            f"{case}/sizes": np.asarray(sizes).astype(np.int32),
        }
    _only(fixture, ours)


def check_kmedoids(fixture: Fixture) -> None:
    config, x, ours = fixture.meta["config"], fixture.inputs["x"], {}
    weights = fixture.inputs["token_weight"][..., 0]
    for start, given in {"weighted": {"weights": weights}, "equal": {"first": config["first"]}}.items():
        for iterations in config["iterations"]:
            options = {"count": config["clusters"], "iterations": iterations}
            medoids, cluster = compiled(kmedoids.k_medoids)(x, **options, **given)
            ours |= {
                f"{start}/{iterations}/tokens": np.take_along_axis(x, medoids[..., None], axis=1),
                f"{start}/{iterations}/medoids": medoids,
                f"{start}/{iterations}/cluster": cluster,
                f"{start}/{iterations}/sizes": (cluster[:, None] == np.arange(config["clusters"])[:, None])
                .sum(axis=-1)
                .astype(np.int32),
            }
    _only(fixture, ours)


def check_ats(fixture: Fixture) -> None:
    config, given = fixture.meta["config"], fixture.inputs
    share = compiled(ats.significance)(given["attn"], given["value"])
    ours: dict[str, Any] = {"significance": share, "cdf": np.cumsum(share, axis=1)}
    masks = {"full": np.ones_like(given["mask"]), "masked": given["mask"]}
    for samples in config["samples"]:
        steps = ours[f"steps.{samples}"] = fixture.outputs[f"steps.{samples}"]
        np.testing.assert_allclose(ats.even_steps(samples)[: len(steps)], steps, atol=1e-6)
        for case, mask in masks.items():
            seen = {"mask": mask[:, 1:].astype("f")} if case == "masked" else {}
            found = compiled(ats.inverse_transform)(share, steps, **seen)
            longest = found.valid.sum(axis=1).max()
            assert found.index.shape[1] == 1 + min(len(steps), share.shape[1])
            index, valid = found.index[:, :longest], found.valid[:, :longest]
            rows = np.take_along_axis(given["attn"], index[:, None, :, None], axis=2)
            ours |= {
                f"{case}/{samples}/ids": index,
                f"{case}/{samples}/mask": valid,
                f"{case}/{samples}/values": rows @ given["value"],
                f"{case}/{samples}/attn": rows,
            }
    _only(fixture, ours)


def check_learned(fixture: Fixture) -> None:
    config, params = fixture.meta["config"], _params(fixture.weights)
    count, x = config["clusters"], fixture.inputs["x"]
    module: Any
    if "patchmerger" in fixture.stem:
        module = PatchMerger(count, config["scaled_attention"], config["eps"])
    elif "sit" in fixture.stem:
        module = TokenSlimming(count, config["ratio"], config["eps"])
    else:
        module = SinkhornPool(count, config["eps"], config["iterations"])
    tokens, weights = _apply(module, params, x)
    ours = {"tokens": tokens, "attn": weights, "weights": weights}
    if "v" in params:
        ours["v_after"] = compiled(groups.unit)(params["v"][None])[0]
    _only(fixture, ours)


def check_g2(fixture: Fixture) -> None:
    method = fixture.stem.split("_")[1]
    checks = {"topk": check_evit, "dpcknn": check_dpcknn, "kmedoids": check_kmedoids, "ats": check_ats}
    checks.get(method, check_learned)(fixture)


def check_pitome(fixture: Fixture) -> None:
    ours = {}
    for case, wanted in fixture.meta["config"].items():
        metric, x, sizes = _given(fixture, case)
        total = x.shape[1] - wanted["class_token"]
        r = math.floor(total - total * wanted["ratio"])
        assert r == wanted["r"]
        options = {
            name: wanted[name] for name in ("margin", "kind", "class_token", "alpha") if name in wanted
        }
        found = compiled(pitome.energy_match)(metric, r=r, **options)
        merged = compiled(groups.merged)(x, found.source, count=int(found.count), sizes=sizes)
        ours |= _named(case, merged, energy=found.energy, order=found.order)
    _only(fixture, ours)


def check_tofu(fixture: Fixture) -> None:
    ours = {}
    for case, wanted in fixture.meta["config"].items():
        metric, x, _ = _given(fixture, case)
        prefix = {name: wanted[name] for name in ("class_token", "distill_token")}
        source, count = compiled(tome.alternating_match)(metric, r=wanted["r"], **prefix)
        ours[f"{case}/source"] = source
        for fusion in tofu.FUSIONS:
            ours[f"{case}/{fusion}"] = compiled(tofu.fuse)(x, source, count=int(count), fusion=fusion).tokens
    _only(fixture, ours)


def check_diffrate(fixture: Fixture) -> None:
    ours: dict[str, Any] = {}
    for case, wanted in fixture.meta["config"].items():
        if case == "rates":
            logits = fixture.inputs["rates/logits"]
            options = {name: wanted[name] for name in ("patches", "granularity", "class_token")}

            def rates(x: Any, options: dict = options) -> diffrate.Rates:
                return diffrate.learned_rates(x, **options)

            found = jax.jit(rates)(logits)
            ours |= {
                "rates/kept": np.asarray(found.kept).astype(np.int32)[None],
                "rates/probability": found.probability,
                "rates/mask": found.mask,
                "rates/grad_mask_sum": jax.jit(jax.grad(lambda x: rates(x).mask.sum()))(logits),
                "rates/grad_kept": jax.jit(jax.grad(lambda x: rates(x).kept))(logits),
            }
            continue
        _, x, sizes = _given(fixture, case)
        kept = {name: wanted[name] for name in ("prune_kept", "merge_kept")}
        by_cls = compiled(evit.cls_attention)(fixture.inputs[f"{case}/attn"])
        found = compiled(diffrate.prune_and_merge)(x, by_cls, **kept, sizes=sizes)
        ours |= _named(case, found.groups, order=found.order, similarity=found.similarity)
    _only(fixture, ours)


def check_mctf(fixture: Fixture) -> None:
    ours = {}
    for case, wanted in fixture.meta["config"].items():
        _, x, sizes = _given(fixture, case)
        attention = fixture.inputs[f"{case}/attn"]
        pooling = mctf.POOLINGS[wanted["pooling"]]
        criteria = mctf.Criteria(*(wanted[f"tau_{name}"] for name in ("sim", "info", "size")))

        @jax.jit
        def fused(
            x: Any, attention: Any, sizes: Any, wanted=wanted, pooling=pooling, criteria=criteria
        ) -> Any:
            heard, both = mctf.received(attention), bool(wanted["bidirection"])
            match = mctf.multi_criteria_match(
                x, heard, wanted["r"], sizes=sizes, criteria=criteria,
                protected=wanted["protected"], both_ways=both,
            )  # fmt: skip
            after = mctf.pool_attention(attention, match, sizes=sizes, pooling=pooling)
            return mctf.pool(x, match, heard, sizes=sizes, pooling=pooling), after

        found, after = fused(x, attention, sizes)
        ours |= _named(case, found, attn=after)
    _only(fixture, ours)


def check_g1(fixture: Fixture) -> None:
    (check_tome if "tome" in fixture.stem else check_evit)(fixture)


def check_g3(fixture: Fixture) -> None:
    methods = {"pitome": check_pitome, "tofu": check_tofu, "diffrate": check_diffrate, "mctf": check_mctf}
    methods[fixture.stem.split("_")[1]](fixture)


CHECKS: dict[str, Callable[[Fixture], None]] = {"g1": check_g1, "g2": check_g2, "g3": check_g3}
