"""K-means over points in memory or streamed, and the split of its assignments. Only this package imports faiss."""

from __future__ import annotations

from qrp_store.clustering.engines import Chosen, choose
from qrp_store.clustering.kmeans import KMeansOptions, KMeansResult, KMeansState, kmeans, quantized
from qrp_store.clustering.nearest import FaissNearest, Nearest, faiss_builds
from qrp_store.clustering.passes import Step
from qrp_store.clustering.points import Blocks, MemoryPoints, Points, StreamedPoints
from qrp_store.clustering.split import split

__all__ = [
    "Blocks",
    "Chosen",
    "FaissNearest",
    "KMeansOptions",
    "KMeansResult",
    "KMeansState",
    "MemoryPoints",
    "Nearest",
    "Points",
    "Step",
    "StreamedPoints",
    "choose",
    "faiss_builds",
    "kmeans",
    "quantized",
    "split",
]
