"""Describe images, search a gallery, rerank its top by matching patch tokens, measure and explain the order.

Works on arrays of any model: `Descriptors` hold one pooled vector and the patch tokens of each image.
"""

from vitjax.config import RerankConfig as RerankConfig
from vitjax.retrieval import metrics as metrics
from vitjax.retrieval import runs as runs
from vitjax.retrieval.correspondence import Correspondence as Correspondence
from vitjax.retrieval.correspondence import disparity_correspondence as disparity_correspondence
from vitjax.retrieval.correspondence import homography_correspondence as homography_correspondence
from vitjax.retrieval.descriptors import Descriptors as Descriptors
from vitjax.retrieval.descriptors import describe_batches as describe_batches
from vitjax.retrieval.descriptors import make_describe as make_describe
from vitjax.retrieval.descriptors import token_center as token_center
from vitjax.retrieval.explain import Explanation as Explanation
from vitjax.retrieval.explain import Match as Match
from vitjax.retrieval.explain import Matches as Matches
from vitjax.retrieval.explain import explain_pair as explain_pair
from vitjax.retrieval.explain import match_pairs as match_pairs
from vitjax.retrieval.faiss_index import FaissIndex as FaissIndex
from vitjax.retrieval.faithfulness import Deletion as Deletion
from vitjax.retrieval.faithfulness import MatchAccuracy as MatchAccuracy
from vitjax.retrieval.faithfulness import deletion as deletion
from vitjax.retrieval.faithfulness import match_accuracy as match_accuracy
from vitjax.retrieval.gallery import Gallery as Gallery
from vitjax.retrieval.gate import Gate as Gate
from vitjax.retrieval.gate import calibrate_gate as calibrate_gate
from vitjax.retrieval.gate import judge_gate as judge_gate
from vitjax.retrieval.gate import plan_sharpness as plan_sharpness
from vitjax.retrieval.part_transfer import PartTransfer as PartTransfer
from vitjax.retrieval.part_transfer import part_transfer as part_transfer
from vitjax.retrieval.plans import PairPlan as PairPlan
from vitjax.retrieval.plans import pair_plans as pair_plans
from vitjax.retrieval.pricing import match_price as match_price
from vitjax.retrieval.qdrant_index import QdrantIndex as QdrantIndex
from vitjax.retrieval.reranking import Reranked as Reranked
from vitjax.retrieval.reranking import rerank as rerank
from vitjax.retrieval.reranking import reweighed as reweighed
from vitjax.retrieval.searcher import ExactSearcher as ExactSearcher
from vitjax.retrieval.searcher import Searcher as Searcher
from vitjax.retrieval.storage import GalleryError as GalleryError
from vitjax.retrieval.topk import search as search
