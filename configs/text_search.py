r"""Search your own images by texts: which image shows it, and which word is where?

python eval.py --config configs/text_search.py --workdir runs/text \
    --config.data.gallery=DIR --config.data.text_queries=FILE

FILE is JSON, {"red dress with a round collar": ["a.jpg", "b.jpg"]} (texts and the images that are relevant to
them) or a list of texts; or lines of text. `--config configs/text_search.py:NAME` takes another model with
two towers, such as clip_vit_base_patch16. Needs the extras hub and text: `pip install -e '.[hub,text]'`.

Images are found by the embeddings; the first 50 are ordered anew by matching words with patches. Words and
patches may stay unmatched: "with a" is nowhere to be seen, and nobody speaks of the background. These numbers
were not tuned: no text tower's weights could be had where this was made.
"""

from configs.common import two_towers
from vitjax.config import EvalConfig, ModelConfig, RerankConfig
from vitjax.pretrained import pretrained_source


def get_config(arg: str = "") -> EvalConfig:
    name = two_towers(arg)
    return EvalConfig(
        weights=pretrained_source(name),
        model=ModelConfig(name=name, space="joint"),
        rerank=RerankConfig(top_k=50, epsilon=0.02, tau=0.5, weight=1.0, iterations=200, tolerance=1e-3),
    )
