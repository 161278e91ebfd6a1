"""K-means over points in memory or streamed, and the split of its assignments. Only this package imports faiss."""

from __future__ import annotations

from qrp_store.kmeans.engines import Chosen, choose
from qrp_store.kmeans.lloyd import KMeansOptions, KMeansResult, KMeansState, kmeans, quantized
from qrp_store.kmeans.nearest import FaissNearest, Nearest, faiss_builds
from qrp_store.kmeans.passes import Step
from qrp_store.kmeans.points import Blocks, MemoryPoints, Points, StreamedPoints
from qrp_store.kmeans.split import split

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
