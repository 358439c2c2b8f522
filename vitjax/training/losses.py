"""The loss of each task, as a function of variables and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vitjax.config import RerankConfig
from vitjax.config.train_config import DistillConfig, HeadConfig, MetricConfig, SparsifyConfig
from vitjax.models.outputs import dense, reduction_of
from vitjax.ot import structural_similarity
from vitjax.retrieval.reranking import matching
from vitjax.retrieval.reranking.plans import match_each
from vitjax.sparsify.losses import Prediction, Weights, soft_cross_entropy, sparsification_loss
from vitjax.training import metric_losses
from vitjax.training.batch import Batch, Renormalise

# (variables, teacher's variables, batch, rng) -> loss, (updated collections, metrics)
Loss = Callable[[dict, Any, Batch, Array], tuple[Array, tuple[dict, dict[str, Array]]]]


def is_dynamic(model: Any) -> bool:
    """Tells whether a model learns which tokens to drop."""
    reduction = reduction_of(model)
    return reduction is not None and reduction.trained


def make_loss(model: Any, config: SparsifyConfig) -> Loss:
    """Cross entropy, and for a dynamic model the other three terms against its dense self.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eqs. 13 to 17, in the form of the official code,
    which compares LV-ViT's tokens by their class scores and all tokens of a Swin.
    """
    teacher = dense(model) if is_dynamic(model) else None
    if teacher is not None and config.teacher_dtype:
        teacher = teacher.clone(dtype=config.teacher_dtype)
    weights = Weights(config.classify, config.ratio, config.distill, config.token)

    def loss(variables: dict, theirs: Any, batch: Batch, rng: Array) -> tuple[Array, tuple[dict, dict]]:
        output, updated = model.apply(
            variables, batch.images, train=True, rngs=_draws(rng), mutable=["batch_stats"]
        )
        scores = _scores(output)
        if teacher is None:
            return soft_cross_entropy(scores, batch.labels), (updated, {})
        target = teacher.apply(theirs, batch.images)
        terms = sparsification_loss(
            Prediction(scores, _tokens(output)),
            Prediction(_scores(target), _tokens(target)),
            batch.labels,
            output.decisions,
            jnp.array(model.token_reduction.ratios, jnp.float32),
            keep=output.decisions[:, -1] if _tokens_by(model, output) != "all" else None,
            weights=weights,
            tokens_by=_tokens_by(model, output),
            level=config.level,
        )
        kept = output.decisions[:, -1].mean()
        return terms.total, (updated, terms._asdict() | {"kept": kept})

    return loss


def make_metric_loss(model: Any, config: MetricConfig) -> Loss:
    """The chosen loss on embeddings, and where asked for the same order between patch tokens.

    Embeddings are the model's classifier, where it has one, of length 1. Variables hold what `metric_start`
    gives beside the model's own.

    The structural term is a triplet over transport scores in [-1, 1], "Beyond the CLS Token" (BMVC 2022) in
    the loss: max(0, margin - S(anchor, next of its class) + S(anchor, most alike of another class)), mean
    over the batch; its gradient goes through the plan.
    """

    def loss(variables: dict, _: Any, batch: Batch, rng: Array) -> tuple[Array, tuple[dict, dict]]:
        mine, draws = jax.random.split(rng)
        own = variables["params"].get("metric", {})
        output, updated = model.apply(
            variables, batch.images, train=True, rngs=_draws(draws), mutable=["batch_stats"]
        )
        embeddings, classes = embedding_of(output), batch.labels.argmax(axis=-1)
        if config.loss == "margin":
            value = metric_losses.margin_loss(mine, embeddings, classes, own["beta"], margin=config.margin)
        elif config.loss == "multi_similarity":
            value = metric_losses.multi_similarity_loss(embeddings, classes)
        else:
            value = metric_losses.proxy_anchor_loss(embeddings, classes, own["proxies"])
        if not config.structural:
            return value, (updated, {})
        structural = _structural(embeddings, output.tokens, classes, config)
        return value + config.structural * structural, (updated, {"metric": value, "structural": structural})

    return loss


def make_distill_loss(model: Any, teacher: Any, to_teacher: Renormalise, config: DistillConfig) -> Loss:
    """Embeddings as a teacher has them, and a triplet with the hardest negative of the batch.

    Source: the training of the place-recognition students in "Beyond the CLS Token" (BMVC 2022): smooth L1
    between embeddings of length 1, weighted by 10, beside a triplet loss of margin sqrt(0.1), with negatives
    from a cache that is renewed now and then (see `vitjax.training.mining`). Where images have classes
    instead of positions, the negative is the nearest of the batch.

    Args:
        model: its classifier, where it has one, gives the embedding.
        teacher: another model; None: its variables are vectors, one for each image of the source.
        to_teacher: how pixels normalised for the model become input of the teacher.
        config: weights.
    """

    def loss(variables: dict, theirs: Any, batch: Batch, rng: Array) -> tuple[Array, tuple[dict, dict]]:
        output, updated = model.apply(
            variables, batch.images, train=True, rngs=_draws(rng), mutable=["batch_stats"]
        )
        mine = embedding_of(output)
        if teacher is None:
            target = metric_losses.normalise(theirs[batch.index])
        else:
            target = embedding_of(teacher.apply(theirs, to_teacher(batch.images)))
        gap = optax.losses.huber_loss(mine, jax.lax.stop_gradient(target)).mean()
        if config.negatives:
            triplet = metric_losses.groups_loss(mine, group=2 + config.negatives, margin=config.margin)
        else:
            triplet = metric_losses.triplet_loss(mine, batch.labels.argmax(axis=-1), margin=config.margin)
        total = config.weight * gap + config.triplet * triplet
        return total, (updated, {"distill": gap, "triplet": triplet})

    return loss


def make_rerank_loss(model: Any, config: HeadConfig) -> Loss:
    """Cross entropy of finding an image of the class among all others of the batch, by the reranked score.

    The score is what `vitjax.retrieval.rerank` gives, so the gradient reaches the weights through the plans:
    by the optimality conditions where `config.tolerance` is above 0, else through all iterations. Scores of a
    pair and of the same pair turned around are taken to be one, as converged plans are.

    Args:
        model: gives descriptors with learned weights, and a price, see `vitjax.training.head`.
        config: how pairs are matched; a price is learned where the mass is "auto".
    """
    spec, params = matching.settings(rule_of(config))

    def loss(variables: dict, _: Any, batch: Batch, rng: Array) -> tuple[Array, tuple[dict, dict]]:
        found, price = model.apply(variables, batch.images)
        rows, columns = np.triu_indices(len(found), 1)
        priced = params.replace(price=price)  # pyright: ignore[reportAttributeAccessIssue]
        pairs = match_each(found.take(rows), found.take(columns), priced, spec)
        half = jnp.zeros((len(found), len(found))).at[rows, columns].set(pairs.score)
        logits = jnp.where(jnp.eye(len(found), dtype=bool), -jnp.inf, (half + half.T) / config.temperature)
        same, _ = metric_losses.pairs(batch.labels.argmax(axis=-1))
        there = same.any(axis=1)
        wanted = same | ~there[:, None]  # an image that is alone counts for nothing, and has a gradient of 0
        log_share = jax.nn.log_softmax(logits, axis=1)
        each = -jax.nn.logsumexp(jnp.where(wanted, log_share, -jnp.inf), axis=1)
        value = jnp.where(there, each, 0.0).sum() / jnp.maximum(there.sum(), 1)
        first = jnp.take_along_axis(same, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
        share = found.weights.max(axis=1) * found.valid.sum(axis=1)
        figures = {"precision_at_1": (first & there).sum() / jnp.maximum(there.sum(), 1)}
        return value, ({}, figures | {"largest_weight": share.mean(), "price": price})

    return loss


def rule_of(config: HeadConfig) -> RerankConfig:
    """How images are matched while their weights are learned: by weights that come with the descriptors."""
    return RerankConfig(
        marginals="keep",
        epsilon=config.epsilon,
        mass=config.mass,
        tau=config.tau,
        weight=config.weight,
        iterations=config.iterations,
        tolerance=config.tolerance,
        top_k=config.top_k,
    )


def _draws(rng: Array) -> dict[str, Array]:
    """Random numbers of a forward pass: which tokens are dropped, and which images go without a branch."""
    return {"gumbel": rng, "dropout": jax.random.fold_in(rng, 1)}


def embedding_of(output: Any) -> Float[Array, "b d"]:
    """Of length 1: the classifier's, where there is one, else that among texts, else the pooled feature."""
    found = (output.logits, getattr(output, "embedding", None), output.pooled)
    return metric_losses.normalise(next(vector for vector in found if vector is not None))


def _structural(
    embeddings: Float[Array, "b d"],
    tokens: Float[Array, "b n e"],
    classes: Int[Array, " b"],
    config: MetricConfig,
) -> Float[Array, ""]:
    same, other = metric_losses.pairs(classes)
    cosine = jax.lax.stop_gradient(embeddings @ embeddings.T)
    positive = jnp.argmin(jnp.where(same, cosine, jnp.inf), axis=1)
    negative = jnp.argmax(jnp.where(other, cosine, -jnp.inf), axis=1)
    tokens = metric_losses.normalise(tokens)
    weights = jnp.full(tokens.shape[:2], 1 / tokens.shape[1])

    def score(index: Int[Array, " b"]) -> Float[Array, " b"]:
        return structural_similarity(
            tokens, tokens[index], weights, weights, epsilon=config.epsilon, iterations=config.iterations
        )

    gap = jax.nn.relu(config.margin - score(positive) + score(negative))
    counts = same.any(axis=1) & other.any(axis=1)
    return jnp.where(counts, gap, 0.0).sum() / jnp.maximum(counts.sum(), 1)


def metric_start(config: MetricConfig, classes: int, width: int, rng: Array) -> dict[str, Array]:
    """What a metric loss learns beside the model: class boundaries, proxies, or nothing."""
    if config.loss == "margin":
        return {"beta": jnp.full(classes, config.beta, jnp.float32)}
    if config.loss == "proxy_anchor":
        return {"proxies": jax.random.normal(rng, (classes, width)) * (2 / width) ** 0.5}
    return {}


def _scores(output: Any) -> Array:
    """What the label is compared with: of LV-ViT the CLS token's scores alone."""
    return output.heads["cls"] if "aux" in output.heads else output.logits


def _tokens(output: Any) -> Array:
    return output.heads.get("aux", output.tokens)


def _tokens_by(model: Any, output: Any) -> str:
    if not model.token_reduction.drops:
        return "all"
    return "scores" if "aux" in output.heads else "kept"
