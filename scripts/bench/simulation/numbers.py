"""Systems that give layers or heads other numbers of cells."""

import numpy as np

from dapq_edge.eviction.budget import by_weight

from .subject import ALWAYS, CANDIDATES, Scores, Subject

# cells that each head keeps in any case, of those that it can lose (Ada-KV's safeguard)
FLOOR = 0.2


def alike(subject: Subject, n_keep: int) -> list[int]:
    """The same number in all layers."""
    return [n_keep] * len(subject.layers)


def by_layer(subject: Subject, wanted: np.ndarray, n_keep: int, min_share: float, max_share: float) -> list[int]:
    return by_weight(n_keep, wanted.tolist(), ALWAYS, subject.n, min_share, max_share)


def cake(subject: Subject, n_keep: int) -> list[int]:
    """CAKE (arXiv 2503.12491, section 4.1): entropy of the window's attention times its variance over the window."""
    wanted = []
    for layer in subject.window:
        mean = layer.mean(axis=(0, 1)) / layer.mean(axis=(0, 1)).sum()
        entropy = -(mean * np.log(mean + 1e-12)).sum()
        wanted.append(entropy * layer.mean(axis=0).var(axis=0).sum())
    return by_layer(subject, np.array(wanted), n_keep, 0.5, 1.6)


def by_retrieval(subject: Subject, n_keep: int) -> list[int]:
    """RazorAttention's heads (arXiv 2407.15891, section 3), by layers: how well their heads find facts."""
    wanted = np.array([np.mean(subject.profile.retrieval[il]) for il in subject.layers])
    return by_layer(subject, wanted, n_keep, 0.5, 3.0)


def by_sensitivity(subject: Subject, n_keep: int) -> list[int]:
    """Fused's layers: how much harm evicting each of them does."""
    wanted = np.array([subject.profile.sensitivity[il] for il in subject.layers])
    return by_layer(subject, wanted, n_keep, 0.25, 3.0)


def razor(subject: Subject, n_keep: int) -> list[list[int]]:
    """The best retrieval heads keep everything, for half of the budget (RazorAttention); the others share the rest."""
    found = np.stack([np.reshape(subject.profile.retrieval[il], (-1, subject.n_group)) for il in subject.layers])
    found = found.max(axis=2)
    n_whole = n_keep * found.size // 2 // subject.n
    n_rest = (n_keep * found.size - n_whole * subject.n) // (found.size - n_whole)
    limit = np.sort(found.ravel())[found.size - n_whole] if n_whole else np.inf
    return [[subject.n if score >= limit else max(ALWAYS, n_rest) for score in layer] for layer in found]


def ada(subject: Subject, n_keep: int) -> list[list[int]]:
    """Ada-KV (arXiv 2407.11550, section 3): heads of a layer share its budget by their largest attention."""
    return [_shared([layer], n_keep)[0] for layer in subject.raw]


def all_heads(subject: Subject, n_keep: int) -> list[list[int]]:
    """The same for the heads of all layers together."""
    return _shared(subject.raw, n_keep)


def _shared(scores: Scores, n_keep: int) -> list[list[int]]:
    n_own = int(FLOOR * (n_keep - ALWAYS))
    others = [np.sort(layer[:, CANDIDATES], axis=1)[:, ::-1][:, n_own:] for layer in scores]
    n_others = (n_keep - ALWAYS - n_own) * sum(len(layer) for layer in scores)
    limit = np.sort(np.concatenate([layer.ravel() for layer in others]))[-n_others]
    return [[ALWAYS + n_own + int((head >= limit).sum()) for head in layer] for layer in others]


def fastgen(subject: Subject, n_keep: int) -> list[list[int]]:
    """FastGen's rule (arXiv 2310.01801, section 3): each head keeps what holds the same share of its attention."""
    held = [np.cumsum(np.sort(layer[:, CANDIDATES], axis=1)[:, ::-1], axis=1) for layer in subject.fused]
    held = [layer / layer[:, -1:] for layer in held]

    def counts(share: float) -> list[list[int]]:
        return [[ALWAYS + 1 + int(np.searchsorted(head, share)) for head in layer] for layer in held]

    least, most = 0.0, 1.0
    for _ in range(40):
        share = (least + most) / 2
        least, most = (share, most) if np.mean(counts(share)) <= n_keep else (least, share)
    return counts(least)
