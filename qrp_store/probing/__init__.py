"""Reverse probing: how well do human concepts explain the clusters of an embedding?

sparse      who has which concept, never dense               (no torch)
reverse     the probe's options and what a fit hands back    (no torch)
train       `fit`: SGD by the published schedule, or the optimum
optimum     L-BFGS with a certificate, and the path of weight decays
objective   the loss and its gradient over sparse batches
metrics     `score`: the bound on held-out samples
explain     which concepts define a cluster
alone       what each concept says by itself                 (no torch)
forward     the usual probes, from embedding to concepts: linear, neighbours
"""
