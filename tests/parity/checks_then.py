"""k-reciprocal re-ranking, query expansion and database-side augmentation (kind h6)."""

from collections.abc import Callable

import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.retrieval.reranking.then import expand, expanded_neighbours, k_reciprocal


def check_k_reciprocal(fixture: Fixture) -> None:
    q, similarity = fixture.meta["queries"], fixture.inputs["similarity"]
    features = fixture.inputs["features"]
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    ours = {}
    for name, chosen in fixture.meta["config"]["settings"].items():
        k1, k2, share = chosen["k1"], chosen["k2"], chosen["lambda"]
        order = np.argsort(2 - 2 * similarity, axis=1, kind="stable")
        ours[f"{name}/euclidean/neighbours"] = order[:, : k1 + 1].astype(np.int32)
        ours[f"{name}/euclidean/expanded"] = expanded_neighbours(order, k1).astype(np.int32)
        for distance in ("euclidean", "squared"):
            jaccard, final = k_reciprocal(similarity, q, k1, k2, share, distance)
            reference = fixture.outputs[f"{name}/{distance}/order"]
            ranked = np.argsort(final, axis=1, kind="stable")[:, : reference.shape[1]].astype(np.int32)
            ours |= {
                f"{name}/{distance}/{key}": x
                for key, x in {"jaccard": jaccard, "final": final, "order": ranked}.items()
            }
    queries, gallery = features[:q], features[q:]
    for chosen in fixture.meta["config"]["alpha_qe"]:
        k, alpha = chosen["k"], chosen["alpha"]
        name = f"k{k}_alpha{alpha:g}"
        expanded = expand(queries, gallery, _nearest(queries @ gallery.T, k), alpha)
        ours[f"alpha_qe/{name}/query"] = expanded
        ours[f"alpha_qe/{name}/similarity"] = expanded @ gallery.T
        others = gallery @ gallery.T
        np.fill_diagonal(others, -np.inf)
        ours[f"dba/{name}/gallery"] = expand(gallery, gallery, _nearest(others, k), alpha)
    assert_all_compared(fixture, ours)


def _nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


CHECKS: dict[str, Callable[[Fixture], None]] = {"h6": check_k_reciprocal}
