"""Describe images, search a gallery, rerank its top by matching patch tokens, measure and explain the order.

Works on arrays of any model: `Descriptors` hold one pooled vector and the patch tokens of each image.
"""

from vitjax.config import RerankConfig as RerankConfig
from vitjax.retrieval import metrics as metrics
from vitjax.retrieval.centering import positional_bias as positional_bias
from vitjax.retrieval.centering import positional_subspace as positional_subspace
from vitjax.retrieval.centering import token_center as token_center
from vitjax.retrieval.descriptor_set import DescriptorSet as DescriptorSet
from vitjax.retrieval.descriptors import Descriptors as Descriptors
from vitjax.retrieval.descriptors import describe_batches as describe_batches
from vitjax.retrieval.descriptors import make_describe as make_describe
from vitjax.retrieval.explanation.correspondence import Correspondence as Correspondence
from vitjax.retrieval.explanation.correspondence import disparity_correspondence as disparity_correspondence
from vitjax.retrieval.explanation.correspondence import homography_correspondence as homography_correspondence
from vitjax.retrieval.explanation.faithfulness import Deletion as Deletion
from vitjax.retrieval.explanation.faithfulness import MatchAccuracy as MatchAccuracy
from vitjax.retrieval.explanation.faithfulness import deletion as deletion
from vitjax.retrieval.explanation.faithfulness import match_accuracy as match_accuracy
from vitjax.retrieval.explanation.keypoints import PartTransfer as PartTransfer
from vitjax.retrieval.explanation.keypoints import part_transfer as part_transfer
from vitjax.retrieval.explanation.matches import Explanation as Explanation
from vitjax.retrieval.explanation.matches import Match as Match
from vitjax.retrieval.explanation.matches import Matches as Matches
from vitjax.retrieval.explanation.matches import explain_pair as explain_pair
from vitjax.retrieval.explanation.matches import match_pairs as match_pairs
from vitjax.retrieval.first_stage.exact import search as search
from vitjax.retrieval.first_stage.faiss_index import FaissIndex as FaissIndex
from vitjax.retrieval.first_stage.qdrant_index import QdrantIndex as QdrantIndex
from vitjax.retrieval.first_stage.searcher import ExactSearcher as ExactSearcher
from vitjax.retrieval.first_stage.searcher import Searcher as Searcher
from vitjax.retrieval.gallery.gallery import Gallery as Gallery
from vitjax.retrieval.gallery.storage import GalleryError as GalleryError
from vitjax.retrieval.metrics import runs as runs
from vitjax.retrieval.reranking.accept import Acceptance as Acceptance
from vitjax.retrieval.reranking.gate import Gate as Gate
from vitjax.retrieval.reranking.gate import calibrate_gate as calibrate_gate
from vitjax.retrieval.reranking.gate import judge_gate as judge_gate
from vitjax.retrieval.reranking.gate import plan_sharpness as plan_sharpness
from vitjax.retrieval.reranking.plans import PairPlan as PairPlan
from vitjax.retrieval.reranking.plans import pair_plans as pair_plans
from vitjax.retrieval.reranking.pricing import match_price as match_price
from vitjax.retrieval.reranking.rerank_candidates import Reranked as Reranked
from vitjax.retrieval.reranking.rerank_candidates import rerank as rerank
from vitjax.retrieval.reranking.rerank_candidates import reweighed as reweighed
from vitjax.retrieval.reranking.then import Shortlist as Shortlist
from vitjax.retrieval.reranking.then import refine as refine
