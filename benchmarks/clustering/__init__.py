"""Clustering, measured: k-means against scikit-learn, extraction against the bare forward pass, peak memory."""
