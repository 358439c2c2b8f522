"""Reranker and similarity: models, weights, data, search and transport behind one Python interface."""

import copy
import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.progress import track

from vitjax import doctor, models, sharding
from vitjax.config import EvalConfig, RerankConfig, blocks_of, demo_config, validate
from vitjax.data import transforms
from vitjax.data.eval_loader import Batch, Batches, Skipped, batches
from vitjax.data.images import ImageError, ImageLike
from vitjax.data.sources.base import FolderSource, ImageSource, ListSource, fingerprint
from vitjax.data.sources.synthetic import KINDS, SyntheticSource
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.models.call_checks import refuse_same_block
from vitjax.models.from_config import backbone, init_variables
from vitjax.models.text_encoder import TextEncoder, has_text_tower, text_encoder
from vitjax.models.token_head import TokenHead
from vitjax.retrieval import (
    Acceptance,
    Descriptors,
    DescriptorSet,
    GalleryError,
    Reranked,
    Searcher,
    Shortlist,
    describe_batches,
    make_describe,
    match_price,
    positional_subspace,
    refine,
    rerank,
    token_center,
)
from vitjax.retrieval.descriptors import NothingToDescribe, describe_each
from vitjax.retrieval.explanation.matches import Match, match_pairs
from vitjax.retrieval.gallery import image_ids
from vitjax.retrieval.gallery.manifest import check_recipe, check_same
from vitjax.retrieval.measured import Measured
from vitjax.retrieval.words import describe_words
from vitjax.system import disk_cache
from vitjax.system.compilation_cache import use_compilation_cache
from vitjax.text import Text, Tokenizer, load_tokenizer
from vitjax.weights import LoadReport, load_weights, load_with_report
from vitjax.weights import fingerprint as fingerprint_weights

Progress = Callable[[Iterable[Batch], int], Iterable[Batch]]

SYNTHETIC_IMAGES = 32  # of a kind, for `Reranker.center` and `Reranker.rule`
FLAT_IMAGES = 0, 128, 255  # grey levels of the images for `Reranker.subspace`
_ROW = 32  # candidates of one row of the comparison: one compilation, whatever their number


@dataclass(frozen=True, slots=True)
class Hit:
    """One candidate in the new order.

    Attributes:
        corpus_id: position in `candidates`, or the given id.
        score: structural + weight * pooled; the same whatever the other candidates are.
        rank: from 0, best first.
        structural: what the matched patches contribute together; `vitjax.retrieval.rerank` states its range,
            for transport [-mass, mass].
        pooled: cosine of the pooled vectors, in [-1, 1].
        matches: matched patch pairs, largest contribution first; empty unless asked for.
    """

    corpus_id: int | str
    score: float
    rank: int
    structural: float
    pooled: float
    matches: tuple[Match, ...] = ()


class Reranker:
    """Orders images by how well their patches match a query's, with one model and one config.

    Args:
        model: a backbone of `vitjax.build`.
        variables: its weights, as `vitjax.load_weights` gives them.
        config: which tokens (`config.model`), how they are matched (`config.rerank`), how
            images become input (`config.data.resize`, `config.data.interpolation`), and photos to measure
            the tokens' centre on (`config.data.center`). A RerankConfig alone takes the last block and every
            patch token. None = the last block, balanced transport.
        preprocess: how images become input; None = what belongs to `config.weights` or `config.model.name`,
            which must then be the model's: a model does not know its name.
        mesh: devices to compute on; None = all of them.
        tokenizer: of the model's text tower; None = read when the first text comes, from `config.tokenizer`
            by the rules of `config.model.name`.
        compilation_cache: keep compiled programs in the cache folder, for a faster next start; what is set of
            JAX's cache already stays (see `use_compilation_cache`).
        keep_measured: keep centre, subspace and price in the cache folder, for a faster next start; only of
            models of this package, whose code is part of the key.

    Raises:
        ValueError: a config field is out of range, or neither `config` nor `preprocess` says what images
            the model expects.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: dict[str, Any],
        config: EvalConfig | RerankConfig | None = None,
        *,
        preprocess: Preprocess | None = None,
        mesh: Mesh | None = None,
        tokenizer: Tokenizer | None = None,
        compilation_cache: bool = True,
        keep_measured: bool = True,
    ) -> None:
        if compilation_cache:
            use_compilation_cache()
        if isinstance(config, RerankConfig):
            config = EvalConfig(rerank=config)
        if config is not None and not isinstance(config, EvalConfig):
            raise TypeError(
                f"Reranker: config is a {type(config).__name__}; give an EvalConfig, as vitjax.demo_config() "
                "returns one, or a RerankConfig."
            )
        if not isinstance(variables, Mapping):
            raise TypeError(
                f"Reranker: variables is a {type(variables).__name__}; give what "
                "vitjax.load_weights(source, model) returns."
            )
        self.config: EvalConfig = config or EvalConfig()
        validate(self.config)
        if (self.config.rerank.marginals == "learned") != bool(self.config.rerank.head):
            raise UserError(
                f"Reranker: marginals are {self.config.rerank.marginals!r}, the head is "
                f"{self.config.rerank.head!r}: 'learned' and the file of a trained head go together",
                fields=("rerank.marginals", "rerank.head"),
            )
        self.model = model
        self.preprocess: Preprocess = preprocess or model_input(self.config, getattr(model, "img_size", 0))
        self.mesh: Mesh = sharding.make_mesh() if mesh is None else mesh
        self.variables: Any = sharding.replicate(variables, self.mesh)
        self.load_report: LoadReport | None = None
        self._tokenizer = tokenizer
        self._keep_measured = keep_measured
        self._suited: dict[tuple[str, str], Reranker] = {}
        if self.config.model.space == "joint" and not has_text_tower(model):
            raise UserError(
                f"Reranker: space is 'joint', but {type(model).__name__} has no text tower; use 'model'",
                fields=("model.space",),
            )
        facet = self.config.model.facet
        if facet != "token" and "facet" not in inspect.signature(type(model).__call__).parameters:
            raise UserError(
                f"Reranker: facet is {facet!r}, which {type(model).__name__} cannot give; use 'token'",
                fields=("model.facet",),
            )
        side = self.preprocess.image_size
        rows = NamedSharding(self.mesh, sharding.ROWS)  # as `describe` has them: traced once for both
        blank = jax.ShapeDtypeStruct((self._rounded(1), side, side, 3), jnp.float32, sharding=rows)
        grid = self.config.model.grid
        self._forward: Callable[[Any, Any], Any] = _forward_of(model, self.config)
        try:
            shapes: Any = jax.eval_shape(self._shapes, self.variables, blank)
        except FlaxError as error:
            raise UserError(
                f"Reranker: these variables are not of this {type(model).__name__}; give what "
                f"vitjax.load_weights(source, model) returns ({_first_sentence(error)})"
            ) from None
        refuse_same_block(model, blocks_of(self.config.model))
        native: tuple[int, int] = shapes[0].shape
        if grid > min(native):
            raise UserError(
                f"Reranker: grid is {grid}; this model has {native[0]} x {native[1]}: give no more, or 0",
                fields=("model.grid",),
            )
        if preprocess is None and not _could_be(model, self.config.model.name):
            raise UserError(
                f"Reranker: the config's model is {self.config.model.name!r}, which this one is not; give "
                "preprocess=vitjax.preprocess(NAME) with the name it was built by, or a config that has it."
            )
        self.patch_grid: tuple[int, int] = native  # of the model, before any token is dropped or pooled
        self.token_length: int = shapes[1].shape[-1]
        self.pooled_length: int = shapes[2].shape[-1]
        self.token_grid: tuple[int, int] = (grid, grid) if grid else native

    def _shapes(self, variables: dict[str, Any], images: jax.Array) -> tuple[jax.Array, ...]:
        output = self._forward(variables, images)
        return jnp.zeros(output.grid), output.tokens, output.pooled

    @functools.cached_property
    def center(self) -> np.ndarray | None:
        """(t, d), subtracted from tokens before they are normalised; None = nothing is.

        Measured once, when it is first needed, on the photos of `config.data.center` or on synthetic images;
        see `vitjax.retrieval.token_center`. Kept in the cache folder; a gallery brings its own (`suited_to`).
        """
        kind, folder = self.config.model.center.partition("+")[0], self.config.data.center
        if kind in ("none", "subspace"):
            return None

        def measure() -> np.ndarray:
            raw = self._raw(FolderSource(folder)) if folder else self._leaves
            return token_center(raw.tokens, kind, photos=bool(folder), valid=raw.valid)

        return self._kept("center", measure)

    @functools.cached_property
    def subspace(self) -> np.ndarray | None:
        """(d, k), directions that are projected out of tokens after that; None = none are.

        Those of flat images, black, grey and white, as many as leave tokens of synthetic images little
        positional bias; see `vitjax.retrieval.positional_subspace`.
        """
        if not self.config.model.center.endswith("subspace"):
            return None

        def measure() -> np.ndarray:
            from scipy.linalg import block_diag  # takes longer than all else that a start imports

            side = self.preprocess.image_size
            flat = self._raw(ListSource([np.full((side, side, 3), grey, np.uint8) for grey in FLAT_IMAGES]))
            parts = (np.split(x.tokens, self._parts, axis=2) for x in (flat, self._leaves))
            return np.asarray(block_diag(*map(positional_subspace, *parts)))

        return self._kept("subspace", measure)

    @functools.cached_property
    def _leaves(self) -> Descriptors:
        return self._raw(SyntheticSource("leaves", SYNTHETIC_IMAGES))

    def _raw(self, source: ImageSource) -> Descriptors:
        """Tokens at their length, every token on its order."""
        plain = make_describe(self._forward, **self._layout, normalise=False, mesh=self.mesh)
        loader = self._batches(source, min(32, len(source)), self.config.data.on_bad_image)
        try:
            return describe_batches(plain, self.variables, loader, mesh=self.mesh)[0]
        except NothingToDescribe:
            raise ImageError(loader.nothing_read("images to measure the centre on")) from None

    @functools.cached_property
    def rule(self) -> RerankConfig:
        """`config.rerank` with the price it needs, if it needs one and names none.

        Found without labels, by how well unrelated images match: photos of `config.data.center`, or
        synthetic images (`vitjax.retrieval.match_price`). So it belongs to the model, not to a
        gallery, and a score stays the same whatever the other candidates are.
        """
        return self.priced(self.config.rerank)

    def priced(self, rule: RerankConfig) -> RerankConfig:
        """Another way to match, with the price it needs, as `rule` has it."""
        return replace(rule, price=self._price) if _needs_price(rule) else rule

    @functools.cached_property
    def _head(self) -> tuple[TokenHead, dict[str, Any]] | None:
        """What weighs tokens, and its variables; None where nothing learned does."""
        if self.config.rerank.marginals != "learned":
            return None
        head = TokenHead(self.token_length)
        return head, load_weights(self.config.rerank.head, head)

    @property
    def _weigh(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        if self._head is None:
            return None
        head, variables = self._head

        def weigh(tokens: jax.Array, valid: jax.Array) -> jax.Array:
            found: Any = head.apply(variables, tokens, valid)
            return found.weights

        return weigh

    @functools.cached_property
    def _price(self) -> float:
        if self._head is not None:
            return float(np.clip(self._head[1]["params"]["price"], 1e-3, 2.0))
        bias = Measured(self.center, self.subspace).digest
        return float(self._kept("price", lambda: np.asarray(self._measure_price()), center=bias))

    def _measure_price(self) -> float:
        if folder := self.config.data.center:
            photos = self.describe(FolderSource(folder), on_bad_image=self.config.data.on_bad_image)[0]
            return match_price(photos)
        leaves, clouds = (self.describe(SyntheticSource(kind, SYNTHETIC_IMAGES))[0] for kind in KINDS)
        return match_price(leaves, clouds)

    def _kept(self, what: str, measure: Callable[[], Any], **also: str) -> np.ndarray:
        """What is measured without labels, out of the cache folder where it was measured before."""
        # Processes that measure together must not find it one by one.
        if not self._keep_measured or jax.process_count() > 1 or not _of_this_package(self.model):
            return measure()
        return disk_cache.kept("measured", {"what": what, **self._made_of, **also}, measure)

    @functools.cached_property
    def _made_of(self) -> dict[str, Any]:
        """Whatever decides, to the last bit, what is measured without labels."""
        data, names = self.config.data, ("jax_default_matmul_precision", "jax_enable_x64")
        return self.recipe | {
            "center": FolderSource(data.center).content() if data.center else "",
            "on_bad_image": data.on_bad_image,
            "images": [SYNTHETIC_IMAGES, FLAT_IMAGES],
            "code": disk_cache.code_version(os.path.dirname(models.__path__[0])),
            "versions": doctor.versions(),
            "devices": [
                self.mesh.size,
                self.mesh.devices.flat[0].device_kind,
                os.environ.get("XLA_FLAGS", ""),
            ],
            "numbers": {name: str(getattr(jax.config, name)) for name in names},
        }

    @property
    def measured(self) -> Measured:
        """What belongs to the descriptors beside the weights; the price where `config.rerank` needs one."""
        price = self._price if _needs_price(self.config.rerank) else 0.0
        return Measured(self.center, self.subspace, price)

    def suited_to(self, gallery: Any, name: str) -> "Reranker":
        """This reranker, or one with the centre, subspace and price of a gallery: nothing is measured then.

        What a gallery keeps is what its descriptors were made with, so the photos it was measured on need not
        be there: unless `config.data.center` names some, those of the gallery count.

        Args:
            gallery: whose queries are to be described.
            name: for the message.

        Raises:
            GalleryError: another model, other weights, another block, ... made it; the text says which.
        """
        there = getattr(gallery, "recipe", {})
        self.check_described_alike(gallery, name)
        values: Measured | None = getattr(gallery, "measured", None)
        if values is None or not self.recipe.keys() <= there.keys():
            return self
        known = {"center", "subspace"} <= self.__dict__.keys()
        if known and there["center"] == self.recipe["center"]:
            price = self.__dict__.get("_price", values.price)
            if values.same(Measured(self.center, self.subspace, price)):
                return self
        key = values.digest, there["center"]
        if key not in self._suited:
            other = self._suited[key] = copy.copy(self)
            for cached in ("rule", "_price", "_describe"):
                other.__dict__.pop(cached, None)
            other.__dict__ |= {"center": values.center, "subspace": values.subspace}
            other.__dict__ |= {"_price": values.price} if values.price > 0 else {}
            other.__dict__["recipe"] = self.recipe | {"center": there["center"]}
        return self._suited[key]

    @functools.cached_property
    def _describe(self) -> Callable[[Any, Any, Any], Descriptors]:
        return make_describe(
            self._forward,
            **self._layout,
            rollout=self.config.rerank.marginals == "rollout",
            start=self.config.model.rollout_start,
            keep=self.config.rerank.marginals == "keep",
            weigh=self._weigh,
            count=self.config.model.tokens,
            aggregate=self.config.model.aggregate,
            center=self.center,
            subspace=self.subspace,
            mesh=self.mesh,
        )

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the descriptors, plain data that a gallery stores: whatever they depend on."""
        chosen, photos = self.config.model, self.config.data.center
        kept = {"block": chosen.block, "grid": chosen.grid, "center": chosen.center}
        kept |= {"facet": chosen.facet, "smooth": chosen.smooth}
        kept |= {"space": chosen.space} if chosen.space != "model" else {}  # a key that older galleries lack
        if chosen.tokens:
            kept |= {"tokens": chosen.tokens, "aggregate": chosen.aggregate}
        weighed = self.config.rerank.marginals
        weighed = weighed if weighed in ("rollout", "keep", "learned") else "alike"
        if self._head is not None:
            weighed = f"learned, {fingerprint_weights(self._head[1])}"
        if weighed == "rollout":
            weighed = f"rollout from block {chosen.rollout_start}"
        return check_recipe(
            {
                "model": {"class": type(self.model).__name__, **_built_with(self.model), **kept},
                "weights": fingerprint_weights(sharding.fetch(self.variables)),
                "input": asdict(self.preprocess),
                "tokens_weighed": weighed,
                "center": fingerprint(FolderSource(photos)) if photos else "",
            }
        )

    def check_described_alike(self, found: Any, name: str) -> None:
        """Refuses a gallery, or an index of one, whose descriptors this reranker would not have made.

        Args:
            found: what has a `recipe` with the keys of ours, as `index_images` writes it; any other passes.
            name: for the message.

        Raises:
            GalleryError: another model, other weights, another block, ... made it; the text says which.
        """
        there, here = getattr(found, "recipe", {}), dict(self.recipe)
        if not here.keys() <= there.keys():
            return
        if getattr(found, "measured", None) is not None and not self.config.data.center:
            here["center"] = there["center"]
        check_same(name, {key: there[key] for key in here}, here)

    @property
    def _layout(self) -> dict[str, Any]:
        """How tokens of the model become those that are kept."""
        return {"grid": self.config.model.grid, "smooth": self.config.model.smooth, "parts": self._parts}

    @property
    def _parts(self) -> int:
        return len(blocks_of(self.config.model))

    def _batches(self, source: ImageSource, batch_size: int, on_bad_image: str) -> Batches:
        return batches(
            source,
            self.preprocess,
            self._rounded(batch_size),
            workers=self.config.data.workers,
            on_bad_image=on_bad_image,
            shard=(jax.process_index(), jax.process_count()),
        )

    def _rounded(self, batch_size: int) -> int:
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def _compiled_size(self, batch_size: int, images: int) -> int:
        """The batch for so many images: a few never wait for a full one, and four sizes an octave compile."""
        step = max(1 << (max(images, 1) - 1).bit_length() >> 3, 1)
        return self._rounded(min(batch_size, -(-max(images, 1) // step) * step))

    @classmethod
    def from_config(
        cls, config: EvalConfig, *, compilation_cache: bool = True, keep_measured: bool = True
    ) -> "Reranker":
        """Builds the model a config names and loads its weights; without weights they are random.

        Args:
            config: of the model, its weights, and how images are described and matched.
            compilation_cache: as for `Reranker`.
            keep_measured: likewise.

        Raises:
            ValueError: a wrong field, or weights that cannot be had or do not fit; one line says which.
        """
        if compilation_cache:
            use_compilation_cache()
        validate(config)
        preprocess = model_input(config)
        model = backbone(config, preprocess.image_size, num_classes=0)
        report = None
        if config.weights:
            variables, report = load_with_report(config.weights, model, entry=config.entry or None)
        else:
            variables = init_variables(model, preprocess.image_size, config.seed)
        reranker = cls(
            model, variables, config, preprocess=preprocess, compilation_cache=compilation_cache,
            keep_measured=keep_measured,
        )  # fmt: skip
        reranker.load_report = report
        return reranker

    def describe(
        self,
        images: ImageSource | Iterable[ImageLike],
        *,
        batch_size: int = 32,
        on_bad_image: str = "error",
        progress: Progress | bool | None = None,
    ) -> tuple[Descriptors, np.ndarray, list[Skipped]]:
        """Turns images into descriptors.

        Args:
            images: paths, PIL images, uint8 arrays (h, w, 3), bytes of image files, or a source of
                `vitjax.data`.
            batch_size: images per forward pass, over all devices; rounded up to a multiple of them. For
                fewer images it is their number, above 8 rounded up by less than a quarter.
            on_bad_image: "error" stops at the first unreadable image; "skip" leaves it out.
            progress: True = a bar on stderr; or what wraps the iteration over batches, called with it and
                the number of batches.

        Returns:
            Descriptors on the host, one row per image that could be read; which image each row is (n,);
            and the images left out with their reasons.

        Raises:
            ImageError: an image cannot be read and `on_bad_image` is "error"; or none of them can: the line
                names the first and why.
            TypeError: `images` is one image and not several.
        """
        source = images if isinstance(images, ImageSource) else ListSource(images, what="describe: images")
        loader = self._batches(source, self._compiled_size(batch_size, len(source)), on_bad_image)
        steps = _with_progress(loader, progress)
        try:
            descriptors, index = describe_batches(self._describe, self.variables, steps, mesh=self.mesh)
        except NothingToDescribe:
            raise ImageError(loader.nothing_read("images")) from None
        return descriptors, index, loader.skipped

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the model's text tower."""
        if self._tokenizer is not None:
            return self._tokenizer
        return load_tokenizer(self.config.tokenizer, self.config.model.name)

    @functools.cached_property
    def _encode_texts(self) -> TextEncoder:
        return text_encoder(self.model)

    def describe_texts(self, texts: Sequence[str | Text]) -> tuple[Descriptors, list[list[str]]]:
        """Turns texts into descriptors: the embedding of each, and a token for each of its words.

        Words are the text tower's tokens projected as its pooled token is, the mean over those of a word.
        That is a heuristic: only the embeddings were trained to be near those of images.

        Args:
            texts: each a query; what is too long for the model is cut.

        Returns:
            Descriptors on the host, one row per text; and the words of each, in the order of its tokens.

        Raises:
            ValueError: the model has no text tower, its descriptors are not of the joint space
                (`config.model.space`), or there is no text, or one without a word.
        """
        if self.config.model.space != "joint" and has_text_tower(self.model):
            raise UserError(
                "a text can only be compared with descriptors of the joint space of images and texts; use "
                "space 'joint', and describe the images with it",
                fields=("model.space",),
            )
        encode = self._encode_texts
        if not texts:
            raise UserError("describe_texts: there are no texts; give at least one")
        found = encode(self.variables, [str(text) for text in texts], self.tokenizer)
        words = [self.tokenizer.words(*row) for row in zip(found.ids, found.valid, strict=True)]
        spans = [[(word.start, word.stop) for word in each] for each in words]
        descriptors = describe_words(found.tokens, found.embeddings, spans)
        return descriptors, [[word.text for word in each] for each in words]

    def describe_each(
        self,
        source: ImageSource,
        *,
        batch_size: int = 32,
        on_bad_image: str = "error",
        progress: Progress | bool | None = None,
    ) -> Iterator[tuple[Descriptors, np.ndarray, int]]:
        """Turns images into descriptors batch by batch: memory does not grow with their number.

        Args:
            source: of `vitjax.data`.
            batch_size: as for `describe`, but never less: a build that resumes computes in the same shapes.
            on_bad_image: likewise.
            progress: likewise.

        Yields:
            descriptors on the host of the images of a batch that could be read, which image each row is,
            and how many images have been gone through.
        """
        loader = self._batches(source, batch_size, on_bad_image)
        steps = _with_progress(loader, progress)
        size = self._rounded(batch_size)
        each = describe_each(self._describe, self.variables, steps, mesh=self.mesh)
        for batch, (found, index) in enumerate(each, 1):
            yield found, index, min(batch * size, len(source))

    def rank(
        self,
        query: ImageLike | Text,
        candidates: ImageSource | Iterable[ImageLike] | DescriptorSet,
        *,
        searcher: Searcher | None = None,
        top_k: int | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 32,
        return_matches: bool = False,
        accept: Acceptance | str | os.PathLike[str] | None = None,
        progress: Progress | bool | None = None,
    ) -> list[Hit]:
        """Orders candidates by how well they match the query, best first; equal scores keep their order.

        Args:
            query: a path, PIL image, uint8 array (h, w, 3), or the bytes of an image file; or a
                `vitjax.Text`, where the model has a text tower and `config.model.space` is "joint".
            candidates: images, several; or descriptors of them from `describe`, to describe them once; or a
                gallery on a disk (see `vitjax.evaluation.index_images`), whose `config.rerank.top_k` nearest
                are ranked.
            searcher: what finds those nearest; None = the gallery itself, exactly.
            top_k: how many hits to return; None = all.
            ids: what `corpus_id` names the candidates by: a text, a path or a whole number for each, of any
                library; None = their positions, or the gallery's ids.
            batch_size: images per forward pass.
            return_matches: also say which patch matched which, for the returned hits.
            accept: when the first hit is an answer: an `Acceptance`, or the file `vitjax threshold` wrote;
                None = as `config.rerank.accept` says, and without it always.
            progress: as for `describe`.

        Returns:
            One `Hit` per returned candidate; none where the first is not accepted: no match.

        Raises:
            ImageError: an image cannot be read; the line names it.
            ValueError: no candidates, `top_k` below 1, another number of ids than candidates, ids that are
                neither texts nor whole numbers, or a gallery or searcher that another model, other weights or
                another recipe described (`GalleryError`).
            TypeError: `candidates` is one image and not several.
        """
        if not isinstance(candidates, DescriptorSet | ImageSource):
            candidates = ListSource(candidates, what="rank: candidates")
        count = len(candidates)
        if not count:
            raise UserError("rank: there are no candidates; give at least one image.")
        ids = None if ids is None else image_ids.plain(ids, "rank")
        if ids is not None and len(ids) != count:
            raise UserError(f"rank: {len(ids)} ids for {count} candidates; give one each.")
        if ids is not None and len(set(ids)) < count:
            twice = next(name for name, times in Counter(ids).items() if times > 1)
            raise UserError(f"rank: id {twice!r} is given twice; a hit could be either candidate.")
        if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
            raise UserError(f"rank: top_k is {top_k!r}; give 1 or more, or None for all.")
        own = self if isinstance(candidates, ImageSource) else self.suited_to(candidates, _called(candidates))
        by_text = isinstance(query, Text)
        described, *_ = own.describe_texts([query]) if by_text else own.describe([query], batch_size=1)
        if isinstance(candidates, ImageSource):
            candidates, *_ = own.describe(candidates, batch_size=batch_size, progress=progress)
        rows, gallery = np.arange(count), candidates
        if not candidates.in_memory:
            rows = own._nearest(described, candidates, searcher)
            gallery = candidates.take(rows)
        ids = candidates.ids(rows) if ids is None else [ids[i] for i in rows]
        shortlist = Shortlist(described, gallery, own.rule, self.token_grid)
        found = refine(shortlist, own._ranked(described, gallery))
        if accept := accept or self.config.rerank.accept:
            rule = accept if isinstance(accept, Acceptance) else Acceptance.read(accept)
            if not rule.accepted(shortlist, found)[0]:
                return []
        order = found.index[0, :top_k]
        grid = (1, described.sizes.tokens) if by_text else self.token_grid
        matches = own._matches(described, gallery, order, grid) if return_matches else [()] * len(order)
        score, structural, pooled = (x[0].tolist() for x in (found.score, found.structural, found.pooled))
        return [
            Hit(ids[i], score[rank], rank, structural[rank], pooled[rank], m)
            for rank, (i, m) in enumerate(zip(order, matches, strict=True))
        ]

    def _nearest(self, query: Descriptors, gallery: DescriptorSet, searcher: Searcher | None) -> np.ndarray:
        """Rows of a gallery that one query is compared with."""
        name, content = _called(gallery), getattr(gallery, "content", None)
        if searcher is not None:
            self.check_described_alike(searcher, "rank: what the searcher searches")
            if getattr(searcher, "content", content) != content:
                raise GalleryError(
                    f"rank: the searcher was made of another {name}, or of an earlier "
                    "commit of it; build it again"
                )
        k = self.config.rerank.top_k
        _, rows = searcher.search(query, k) if searcher else gallery.search(query, k, mesh=self.mesh)
        return rows[0][rows[0] >= 0]

    def _ranked(self, query: Descriptors, gallery: DescriptorSet) -> Reranked:
        """Every gallery row, best first; equal scores keep the gallery's order.

        The candidates are laid out in rows of a fixed length, the query being repeated: shapes, and so the
        compiled program and its rounding, do not depend on how many candidates there are.
        """
        count = len(gallery)
        rows = -(-count // _ROW)
        index = np.full((rows * _ROW,), -1, np.int32)
        index[:count] = np.arange(count)
        config = replace(self.rule, top_k=_ROW)
        repeated = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), rows, axis=0), query)
        result = rerank(repeated, gallery, index.reshape(rows, _ROW), config=config, mesh=self.mesh)
        order = np.asarray(result.index).ravel()
        real = order >= 0
        found = np.empty((3, count), np.float32)
        for row, x in zip(found, (result.structural, result.pooled, result.mass), strict=True):
            row[order[real]] = np.asarray(x).ravel()[real]
        structural, pooled, mass = found
        score = structural + np.float32(self.config.rerank.weight) * pooled
        best_first = np.argsort(-score, kind="stable")[None]
        score, structural, pooled, mass = (x[best_first] for x in (score, structural, pooled, mass))
        blank = np.zeros_like(score)
        return Reranked(best_first, score, structural, pooled, blank, blank.astype(bool), mass)

    def _matches(
        self, query: Descriptors, gallery: DescriptorSet, rows: np.ndarray, grid: tuple[int, int]
    ) -> list[tuple[Match, ...]]:
        found = match_pairs(
            query,
            gallery,
            np.zeros_like(rows),
            rows,
            config=self.rule,
            top=self.config.figures.matches,
        )
        grids = grid, self.token_grid
        return [tuple(found.explanation(pair, *grids).matches) for pair in range(len(rows))]


def _called(gallery: Any) -> str:
    """A gallery in messages."""
    return f"gallery {getattr(gallery, 'path', type(gallery).__name__)}"


def _forward_of(model: nn.Module, config: EvalConfig) -> Callable[[Any, Any], Any]:
    """The model's result for images; compiled, so that whoever calls it with one shape traces it once."""
    wanted = config.model
    rollout = config.rerank.marginals == "rollout"
    rollout |= bool(wanted.tokens) and wanted.aggregate == "attention"
    call: dict[str, Any] = {"return_attention": rollout}
    call |= {} if wanted.facet == "token" else {"facet": wanted.facet}
    call |= {"method": _joint} if wanted.space == "joint" else {}

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> Any:
        # What the calls of several blocks share is computed once: the compiler finds it equal.
        found = [model.apply(variables, images, block=block, **call) for block in blocks_of(wanted)]
        return _side_by_side(found)

    return forward


def _side_by_side(outputs: Sequence[Any]) -> Any:
    """The last of the outputs of several blocks, with the tokens of all of them side by side.

    Raises:
        ValueError: they lie on different grids.
    """
    if len(outputs) == 1:
        return outputs[0]
    counts = [output.tokens.shape[1] for output in outputs]
    if len({output.grid for output in outputs}) > 1 or len(set(counts)) > 1:
        raise UserError(
            f"Reranker: these blocks leave {', '.join(map(str, counts))} tokens, which do not lie side by "
            "side; give one block, or several with the same tokens",
            fields=("model.block",),
        )
    tokens = jnp.concatenate([output.tokens for output in outputs], axis=2)
    return outputs[-1].replace(tokens=tokens, prefix=tokens[:, :0])


def _joint(module: Any, images: jax.Array, **call: Any) -> Any:
    """The image tower's result with patch tokens and pooled vector in the joint space."""
    output = module.encode_image(images, **call)
    tokens = module.project_tokens(output.tokens)
    return output.replace(tokens=tokens, pooled=output.embedding, prefix=tokens[:, :0])


def _with_progress(loader: Batches, progress: Progress | bool | None) -> Iterable[Batch]:
    if progress is True:
        hidden = not sharding.is_main_process()
        return track(loader, "describing", len(loader), console=Console(stderr=True), disable=hidden)
    return progress(loader, len(loader)) if progress else loader


def _first_sentence(error: Exception) -> str:
    """What went wrong in one line, without the address of a page about it."""
    return " ".join(str(error).split()).partition(" (http")[0].rstrip(".")


@dataclass(frozen=True, slots=True)
class Similarity:
    """Similarity of two images: `score` = structural + weight * pooled, and the matched patches."""

    score: float
    structural: float
    pooled: float
    matches: tuple[Match, ...]


def similarity(
    image_a: ImageLike,
    image_b: ImageLike,
    *,
    reranker: Reranker | None = None,
    compilation_cache: bool = True,
) -> Similarity:
    """Compares two images, by default with the weights of the demo (fetched once, 90 MB).

    Args:
        image_a: a path, PIL image, uint8 array (h, w, 3), or the bytes of an image file.
        image_b: another.
        reranker: model and config to compare with.
        compilation_cache: as for `Reranker`; of a given reranker it is settled already.

    Returns:
        One number, its two parts, and the matched patches (boxes are shares of what the
        model saw of each image: `Preprocess.to_image` gives pixels).
    """
    reranker = reranker or _demo_reranker(compilation_cache)
    (hit,) = reranker.rank(image_a, [image_b], return_matches=True)
    return Similarity(hit.score, hit.structural, hit.pooled, hit.matches)


def _built_with(model: Any) -> dict[str, Any]:
    """The numbers and names that a model was built with: the same weights fit models of different ones."""
    names = [field.name for field in fields(model) if field.name != "parent"]
    values = {name: getattr(model, name) for name in names}
    found: dict[str, Any] = {
        name: x for name, x in values.items() if isinstance(x, bool | int | float | str | tuple)
    }
    found |= {name: _built_with(x) for name, x in values.items() if isinstance(x, nn.Module)}
    if (reducer := values.get("reducer")) is not None:
        found["reducer"] = {"name": reducer.name, **asdict(reducer)}
    return found


def _needs_price(rule: RerankConfig) -> bool:
    return rule.method == "transport" and isinstance(rule.mass, str) and not rule.price > 0


def _of_this_package(model: Any) -> bool:
    """Whether all of a model's code is the package's, so that its hash tells a change."""
    parts = [getattr(model, field.name) for field in fields(model) if field.name != "parent"]
    reducer = getattr(model, "reducer", None)
    ours = all(type(x).__module__.startswith("vitjax.") for x in (model, reducer) if x is not None)
    plain = all(
        isinstance(x, bool | int | float | str | tuple | nn.Module | None) or x is reducer for x in parts
    )
    return ours and plain and all(_of_this_package(x) for x in parts if isinstance(x, nn.Module))


def _could_be(model: nn.Module, name: str) -> bool:
    """Whether a model is of the kind that a name stands for: the same class and patches."""
    known, compared = models.build(name), ("patch_size", "reg_tokens")
    return type(model) is type(known) and all(
        getattr(model, field, None) == getattr(known, field, None) for field in compared
    )


def model_input(config: EvalConfig, img_size: int | tuple[int, int] = 0) -> Preprocess:
    """How images become input for the model a config names.

    Args:
        config: names the weights and the model; `data.resize`, `data.interpolation` and `model.img_size`
            override.
        img_size: side the model was built for, used where the config names none; 0 = the weights' own.

    Raises:
        ValueError: the model was built for images that are not square, and the config names no side.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else img_size
    if sides[0] != sides[1] and not config.model.img_size:
        raise UserError(
            f"the model is built for images of {' x '.join(map(str, sides))} pixels, but preprocessing "
            "gives square ones: say of which side, or give preprocess=vitjax.preprocess(NAME, img_size=SIDE)",
            fields=("model.img_size",),
        )
    return transforms.model_input(
        config.weights,
        config.model.name,
        img_size=config.model.img_size or sides[0],
        resize=config.data.resize,
        interpolation=config.data.interpolation,
    )


@functools.cache
def _demo_reranker(compilation_cache: bool) -> Reranker:
    return Reranker.from_config(demo_config(), compilation_cache=compilation_cache)
