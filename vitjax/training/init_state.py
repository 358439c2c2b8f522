"""Initial variables of a run: the model's weights and the teacher's."""

import contextlib
import dataclasses
import operator
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import models
from vitjax.config.train_config import TrainConfig
from vitjax.data.transforms import Preprocess, preprocess
from vitjax.errors import EntryError, UserError
from vitjax.models.from_config import create_model, init_variables
from vitjax.models.outputs import dense
from vitjax.models.token_head import match_head
from vitjax.training import optim
from vitjax.training.batch import Pixels, Renormalise
from vitjax.training.losses import embedding_of, is_dynamic, metric_start
from vitjax.training.output import SILENT, Output
from vitjax.weights import LoadReport, WeightsError, load_with_report


def build(config: TrainConfig, recipe: Preprocess, *, classes: int) -> Any:
    """The model that is trained; of two towers that of images, as no text is seen; in task rerank a head."""
    wanted = config.model
    if config.task == "rerank":
        frozen = create_model(wanted, recipe.image_size, num_classes=0)
        tokens = jax.eval_shape(
            lambda x: frozen.init_with_output(jax.random.key(0), x)[0].tokens, _blank(recipe)
        )
        return match_head(tokens.shape[-1])
    given = {"keep_ratio": wanted.keep_ratio, "remat": wanted.remat, "drop_path_rate": wanted.drop_path}
    fields = {name: value for name, value in given.items() if value}
    model = create_model(wanted, recipe.image_size, num_classes=classes, **fields)
    return model.image if isinstance(model, models.TwoTowers) else model


def check_dynamic(config: TrainConfig, model: Any) -> None:
    """Refuses fields of dynamic models for other models, and dynamic models in other tasks.

    Raises:
        UserError: with the fields, and the name of the model that was perhaps meant.
    """
    if is_dynamic(model):
        if config.task != "classify":
            raise UserError(
                f"model {config.model.name!r} learns what to drop from a teacher's classes, which task "
                f"{config.task!r} has not; choose a plain model, or 'classify'",
                fields=("model.name", "task"),
            )
        return
    fields = ["model.keep_ratio", *(f"sparsify.{f.name}" for f in dataclasses.fields(config.sparsify))]
    if config.task == "classify":
        fields += ["optim.freeze_epochs", "optim.backbone_lr"]
    usual = TrainConfig()
    other = [name for name in fields if (get := operator.attrgetter(name))(config) != get(usual)]
    if other:
        raise UserError(
            f"model {config.model.name!r} does not learn to drop tokens, and {len(other)} "
            f"{'field is' if len(other) == 1 else 'fields are'} only of one that does; leave "
            f"{'it' if len(other) == 1 else 'them'} as usual, or name {_dynamic_name(config.model.name)}",
            fields=[*other, "model.name"],
        )


def _dynamic_name(name: str) -> str:
    known = [x for x in models.list_models() if x.startswith("dynamic") and x.endswith(name)]
    return (
        repr(known[0])
        if known
        else "one of the models 'dynamicvit_*', 'dynamicswin_*' or 'dynamic_convnext_*'"
    )


def initial(
    config: TrainConfig,
    model: Any,
    recipe: Preprocess,
    *,
    fresh: bool = True,
    output: Output = SILENT,
) -> tuple[dict[str, Any], Any]:
    """Variables that the model starts from, and those of its teacher; {} where it has none.

    Args:
        config: names the weights.
        model: from `build`.
        recipe: how images become input.
        fresh: False: a checkpoint takes the place of the model's variables, which are 0 until then.
        output: is told what was loaded.

    Raises:
        WeightsError: a file that does not fit the model, in more than the parts that are new in it; or that
            does not fit the teacher.
    """
    wanted, source = config.model, config.sparsify.teacher or config.model.weights
    if config.task == "rerank":  # the frozen model's weights are loaded where images are described
        return model.init(jax.random.key(config.seed), *model.blank()), {}
    if not fresh:
        shapes = jax.eval_shape(model.init, jax.random.key(0), _blank(recipe))
        variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    elif wanted.weights:
        drop = wanted.new_head or (config.task != "classify" and bool(config.metric.embed_dim))
        variables, report = _load(wanted.weights, model, wanted.depth, drop_head=drop, entry=wanted.entry)
        rest = f"; {len(report.missing)} start at random" if report.missing else ""
        output.say(f"weights {wanted.weights!r}: {report.loaded} parameters loaded{rest}")
    else:
        variables = init_variables(model, recipe.image_size, config.seed)
    if not is_dynamic(model) or config.task != "classify":
        return variables, {}
    if source:
        entry = config.sparsify.teacher_entry or ("" if config.sparsify.teacher else wanted.entry)
        with _of_teacher("sparsify", "the dense teacher, which has the model's weights if none are given"):
            return variables, _load(source, dense(model), wanted.depth, entry=entry)[0]
    output.warn("the teacher is RANDOM: give weights of the teacher or of the model")
    return variables, init_variables(dense(model), recipe.image_size, config.seed)


def _load(
    source: str, model: Any, depth: int, *, drop_head: bool = False, entry: str = ""
) -> tuple[dict[str, Any], LoadReport]:
    """Weights of a model, whose new parts start at random; of a file of more blocks, the first ones."""
    variables, report = load_with_report(
        source, model, strict=False, drop_head=drop_head, entry=entry or None
    )
    missing = [m for m in report.missing if not optim.is_new(m.name)]
    unexpected = [m for m in report.unexpected if not _is_cut_off(m.name, depth)]
    if missing or unexpected or report.mis_shaped:
        raise WeightsError(str(report))
    return variables, report


@contextlib.contextmanager
def _of_teacher(section: str, what: str) -> Iterator[None]:
    """Says of errors of weights that they are a teacher's, and which fields of a section name them."""
    try:
        yield
    except WeightsError as error:
        weights = {"sparsify": "sparsify.teacher", "distill": "distill.teacher_weights"}[section]
        field = f"{section}.teacher_entry" if isinstance(error, EntryError) else weights
        raise type(error)(f"{what}: {error}", fields=[field]) from None


def _is_cut_off(name: str, depth: int) -> bool:
    """Tells whether a weight belongs to a block behind the first `depth`; 0 = all blocks are wanted."""
    # timm's and Hugging Face's names; DINOv2's training puts the number of a chunk before.
    block = re.search(r"\b(?:blocks|layer)\.(?:\d+\.)?(\d+)\.", name)
    return bool(depth) and block is not None and int(block[1]) >= depth


def embedding_width(model: Any, variables: Any, recipe: Preprocess) -> int:
    """Numbers of a model's embedding; nothing is computed."""
    return jax.eval_shape(lambda v, x: embedding_of(model.apply(v, x)), variables, _blank(recipe)).shape[-1]


def with_metric(
    config: TrainConfig, model: Any, variables: dict[str, Any], recipe: Preprocess, classes: int
) -> dict[str, Any]:
    """Variables with what the metric's loss learns beside the model."""
    width = embedding_width(model, variables, recipe)
    start = metric_start(config.metric, classes, width, jax.random.key(config.seed))
    params = variables["params"] | ({"metric": start} if start else {})
    return {**variables, "params": params}


def open_teacher(
    config: TrainConfig, recipe: Preprocess, images: int, width: int
) -> tuple[Any, Any, Renormalise]:
    """The teacher of embeddings, None where it is vectors; its variables, and what it does to pixels.

    Args:
        config: its `distill` names the teacher.
        recipe: how images become input of the student.
        images: number of training images.
        width: numbers of the student's embedding.

    Raises:
        UserError: vectors that are not one for each image, or of another length than the embedding.
    """
    wanted = config.distill
    ours = Pixels(recipe.mean, recipe.std)
    if wanted.vectors:
        vectors = np.load(wanted.vectors, allow_pickle=False)
        if vectors.shape != (images, width):
            raise UserError(
                f"{wanted.vectors} has shape {vectors.shape}; expected ({images} images to learn from, "
                f"{width} numbers of the embedding)",
                fields=("distill.vectors", "metric.embed_dim"),
            )
        return None, vectors.astype(np.float32), Renormalise(ours, ours)
    model = models.build(
        wanted.teacher,
        img_size=recipe.image_size,
        num_classes=config.metric.embed_dim,
        dtype=config.model.dtype,
    )
    theirs = preprocess(wanted.teacher)
    with _of_teacher("distill", "the teacher"):
        variables = load_with_report(wanted.teacher_weights, model, entry=wanted.teacher_entry or None)[0]
    if (found := embedding_width(model, variables, recipe)) != width:
        raise UserError(
            f"teacher {wanted.teacher!r} has an embedding of {found} numbers, the model that learns one of "
            f"{width}",
            fields=("distill.teacher", "metric.embed_dim"),
        )
    return model, variables, Renormalise(ours, Pixels(theirs.mean, theirs.std))


def _blank(recipe: Preprocess) -> jax.Array:
    return jnp.zeros((1, recipe.image_size, recipe.image_size, 3), jnp.float32)
