import os

import pytest
import tensorstore as ts

from vitjax.retrieval import GalleryError
from vitjax.retrieval.gallery import storage
from vitjax.retrieval.gallery.storage import locate


@pytest.mark.parametrize(
    ("path", "kvstore"),
    [
        ("gs://shop/a/b", {"driver": "gcs", "bucket": "shop", "path": "a/b/"}),
        (
            "s3://shop/a b/#1/",
            {"driver": "s3", "bucket": "shop", "path": "a b/#1/", "use_conditional_write": True},
        ),
        ("memory://x", {"driver": "memory", "path": "x/"}),
        ("/a/../b", {"driver": "file", "path": "/b/"}),
        ("c:d", {"driver": "file", "path": f"{os.getcwd()}/c:d/"}),
    ],
)
def test_a_path_becomes_what_tensorstore_opens(path, kvstore, monkeypatch):
    """Nothing is reached; tests/retrieval/test_gallery_object_store.py does that."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    place = locate(path)
    assert place.kvstore == kvstore and (place.folder is None) == ("://" in path)
    assert ts.KvStore.Spec(place.kvstore).to_json()["path"] == kvstore["path"]
    assert place.below("tokens")["path"] == kvstore["path"] + "tokens/"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DATA_LOSS: Digest mismatch [tensorstore_spec='{}']", "x is damaged; put that file back"),
        ("NOT_FOUND: chunk 3", "x has a file missing"),
        ("RESOURCE_EXHAUSTED: No space", "no space left"),
        ("PERMISSION_DENIED: no", "check who owns it"),
        ("UNAVAILABLE: no network", r"x: UNAVAILABLE \(no network\)"),
    ],
)
def test_errors_of_the_store_are_put_in_plain_words(text, words):
    with pytest.raises(GalleryError, match=words) as caught, storage.plain_errors(locate("g"), "x"):
        raise ValueError(text)
    assert str(caught.value).startswith("gallery g: x") and "tensorstore_spec" not in str(caught.value)


def test_other_errors_pass():
    with pytest.raises(ValueError, match=r"^mine$"), storage.plain_errors(locate("g"), "x"):
        raise ValueError("mine")
