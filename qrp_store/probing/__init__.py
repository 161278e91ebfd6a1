"""Reverse probing: how well do human concepts explain the clusters of an embedding?

To follow one training from data to score, read four files in this order:

1. sparse      `ConceptMatrix`: which concepts each sample has                     (no torch)
2. train       `fit`: the epochs of SGD, and what a fit returns
3. descent     one step: loss and gradient over a sparse batch, new weights
4. metrics     `score`: the lower bound on held-out samples

The rest can be read alone:

optimum        solver lbfgs and protocol tight: L-BFGS with a certificate, a path of weight decays
resident       the step of `descent` on a GPU, recorded once and replayed
stack          `fit_all`: many probes, trained together where a GPU gains by it     (no torch)
controls       the same probe with other concepts: ablation, permutations           (no torch)
explain        which concepts define a cluster                                      (no torch)
alone          the score of each single concept                                     (no torch)
forward        the usual probes, from embedding to concepts: `linear`, `neighbours`
upper          probes that are not linear in the concepts, as a reference for the bound
agreement      two groupings of the same samples: AMI, homogeneity, purity          (no torch)
codelength, limit, paired, student, known: statistics and generated data with known answers
"""
