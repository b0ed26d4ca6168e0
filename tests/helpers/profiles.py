"""Head profiles by chance."""

import numpy as np

from dapq_edge.eviction.heads import HeadProfile

from .tiny import Spec


def random_profile(spec: Spec) -> HeadProfile:
    rng = np.random.default_rng(0)
    retrieval = {il: rng.random(spec.n_head).tolist() for il in spec.full_layers}
    errors = dict(zip(spec.full_layers, [0.1, 0.4, 0.2], strict=False))
    return HeadProfile("", retrieval, errors, sensitivity=dict(zip(spec.full_layers, [0.2, 0.1, 0.7], strict=False)))
