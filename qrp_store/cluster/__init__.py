"""Cluster: an embedding in, assignments with their part out, by K-means or from elsewhere."""

from qrp_store.cluster.story import ClusterReport, cluster

__all__ = ["ClusterReport", "cluster"]
