"""Head profiles: calibration on a model with planted retrieval heads, and files that are wrong."""

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from helpers.context import Context
from helpers.profiles import random_profile
from helpers.reading import make_prompt
from helpers.tiny import EPS, N_EMBD, Spec
from helpers.tokens import random_tokens

from dapq_edge import open_model
from dapq_edge.cache.kv_cache import KVCache
from dapq_edge.calibration.calibrate import calibrate
from dapq_edge.calibration.needles import Needle
from dapq_edge.calibration.sensitivity import N_ANSWER, find_sensitivity
from dapq_edge.cells import LAYER_STEP
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.eviction.budget import by_weight, in_steps
from dapq_edge.eviction.heads import QueryHead, find_profile, load_profile, model_hash, profile_path
from dapq_edge.eviction.policies import CompressKV, get_policy
from dapq_edge.eviction.policies.parts import HeadsOfLayer

RARE = "XQ7Z"


# no blanks: the tiny vocabulary has no token of its own for them
NEEDLE = Needle(f" the-word-is-{RARE}-here. ", "what is the word?", "the word is", RARE)
HAYSTACK = "some ordinary words without any sense go on and on, and then they stop. " * 40
PLANTED = [1, 3]


@dataclass(frozen=True)
class PlantedSpec(Spec):
    """Two heads of the first layer look for the rare letter that they are at, the other heads for nothing."""

    n_ctx: int = 2048

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        weights = Spec().weights.copy()
        embedding = weights["token_embd"]
        letters = [3 + byte for byte in sorted({*HAYSTACK.encode(), *RARE.encode()})]
        x = embedding[letters] / np.sqrt((embedding[letters] ** 2).mean(axis=1, keepdims=True) + EPS)
        x *= weights["blk.0.attn_norm"]
        # one of the dimensions that RoPE hardly turns for each rare letter
        wanted = np.zeros((len(letters), self.head_dim), dtype=np.float32)
        for i, byte in enumerate(RARE.encode()):
            wanted[letters.index(3 + byte), self.head_dim - 2 * (1 + i)] = 12
        look = (np.linalg.pinv(x) @ wanted).T.astype(np.float32)
        q = np.zeros((self.n_head, self.head_dim, N_EMBD), dtype=np.float32)
        q[PLANTED] = look
        weights["blk.0.attn_q"] = q.reshape(-1, N_EMBD)
        weights["blk.0.attn_k"] = np.tile(look, (self.n_head_kv, 1))
        weights["blk.2.attn_output"] = np.zeros_like(weights["blk.2.attn_output"])
        return weights


@pytest.fixture(scope="module")
def planted(tiny_model):
    path = tiny_model(PlantedSpec())
    engine = open_model(path, n_threads=1)
    yield path, calibrate(engine, [HAYSTACK], [NEEDLE], 500)
    engine.close()


def test_calibration_finds_planted_heads(planted):
    _, profile = planted
    assert profile.top_heads(0, 2).tolist() == PLANTED
    others = [share for head, share in enumerate(profile.retrieval[0]) if head not in PLANTED]
    # of ten queries three see their letter in the fact, and as much of it in themselves
    assert min(profile.retrieval[0][head] for head in PLANTED) > 0.15 > 2 * max(others)
    assert all(0 <= error <= 1 for error in profile.errors.values())


def test_calibration_of_text_that_is_too_short(planted):
    engine = open_model(planted[0], n_threads=1)
    with pytest.raises(DapqError, match="too short"):
        calibrate(engine, ["short text"], [NEEDLE], 500)
    engine.close()


QUERY = [{"layer": 0, "head": 1, "score": 1.5, "mean": 0.1, "std": 0.2}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": QUERY}, None),
        # a profile of version 1
        ({"query": None}, None),
        ({"query": [{**QUERY[0], "std": 0}]}, "not positive"),
        ({"query": [{**QUERY[0], "mean": float("nan")}]}, "not finite"),
        ({"query": [{"layer": 0}]}, "head"),
        ({"query": 1}, "no head profile"),
    ],
)
def test_query_heads_of_a_file(planted, tmp_path, changes, message):
    model, profile = planted
    path = tmp_path / "profile.json"
    profile.save(path)
    data = json.loads(path.read_text())
    assert data["version"] == 3
    data |= changes
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
    if message:
        with pytest.raises(DapqError, match=message):
            load_profile(path, model)
        return
    found = load_profile(path, model)
    assert [vars(head) for head in found.query] == (changes["query"] or [])
    with Context(model, n_ctx=256) as c:
        found.check(KVCache(c.ctx).probed_heads())
        wrong = replace(found, query=(QueryHead(0, 99, 1, 0, 1),))
        with pytest.raises(DapqError, match="another model"):
            wrong.check(KVCache(c.ctx).probed_heads())


def test_profile_is_kept_and_found(planted, tmp_path, monkeypatch):
    model, profile = planted
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_profile(model) is None
    profile.save(profile_path(model))
    assert find_profile(model) == profile
    assert [path.name for path in profile_path(model).parent.iterdir()] == [f"{model_hash(model)}.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {**data, "model": "0" * 64}, "another model"),
        (lambda data: {**data, "errors": {}}, "no head profile"),
        (lambda data: {**data, "retrieval": {"x": [1]}}, "no head profile"),
        (lambda data: {**data, "retrieval": {"0": [float("nan")]}, "errors": {"0": 0.1}}, "no head profile"),
        (lambda data: [], "no head profile"),
        (lambda data: "text", "no head profile"),
    ],
)
def test_bad_profiles(planted, tmp_path, change, message):
    model, profile = planted
    path = tmp_path / "profile.json"
    profile.save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DapqError, match=message):
        load_profile(path, model)
    path.write_bytes(path.read_bytes()[:40] + b"\xff")
    with pytest.raises(DapqError, match="no head profile"):
        load_profile(path, model)
    with pytest.raises(DapqError, match="cannot read"):
        load_profile(tmp_path / "none", model)


def test_profile_that_cannot_be_written(planted, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DapqError, match="cannot write"):
        planted[1].save(tmp_path / "file" / "profile.json")


def test_compresskv_needs_a_profile_of_its_model(tiny_model):
    with Context(tiny_model(Spec())) as context:
        cache = KVCache(context.ctx)
        cache.read(random_tokens(90, 1))
        with pytest.raises(UsageError, match="dapq-edge heads calibrate"):
            get_policy("compresskv").evict(cache, 40)
        with pytest.raises(DapqError, match="another model"):
            get_policy("compresskv", heads=random_profile(Spec(n_head=2))).evict(cache, 40)


def test_compresskv_scores_with_some_heads(tiny_model):
    """Only the attention of the best heads counts, and the layers share the budget by their errors."""
    tokens, profile = random_tokens(90, 1), random_profile(Spec())
    policy = CompressKV(heads=profile, score=HeadsOfLayer(width=5, n_heads=2))
    with Context(tiny_model(Spec())) as context:
        cache = KVCache(context.ctx)
        cache.read(tokens)
        layers, scores, keep = cache.probe(tokens[-8:], 82), policy.scores(cache, 40), policy.keep(cache, 40)
    for il, layer in enumerate(layers):
        best = sorted(range(4), key=lambda head: profile.retrieval[il][head])[-2:]
        expected = np.convolve(layer.attention[best].mean(axis=0), np.ones(5) / 5, mode="same")
        np.testing.assert_allclose(scores[il], np.stack([expected, expected]), rtol=1e-3, atol=1e-7)
    budgets = by_weight(40, [0.1, 0.4, 0.2], 12, 10_000, 0.5, 1.6)
    assert [layer.shape[1] for layer in keep] == in_steps(budgets, [90] * 3, 12, LAYER_STEP) == [29, 61, 29]


@pytest.mark.parametrize(("n_room", "expected"), [(90, [19, 19, 83]), (60, [28, 28, 60]), (0, [40, 40, 40])])
def test_fused_keeps_more_where_eviction_does_harm(tiny_model, n_room, expected):
    """Layers share the budget by their sensitivity, so far as there is room for what comes behind."""
    with Context(tiny_model(Spec())) as context:
        cache = KVCache(context.ctx)
        cache.read(random_tokens(90, 1))
        cache.n_after = cache.allocated[0] - n_room
        keep = get_policy("fused", heads=random_profile(Spec())).keep(cache, 40)
    assert [layer.shape[1] for layer in keep] == expected


def test_sensitivity_is_the_harm_of_one_layer(planted):
    """Each layer's share of it; what the last layer reads changes nothing."""
    _, profile = planted
    assert profile.sensitivity[2] == 0
    assert min(profile.sensitivity[0], profile.sensitivity[1]) > 0.01
    assert sum(profile.sensitivity.values()) == pytest.approx(1)


def test_sensitivity_has_room_for_its_probe(tiny_model):
    """Whatever the cache is padded to."""
    engine = open_model(tiny_model(PlantedSpec()), n_threads=1)
    shares = find_sensitivity(engine, [make_prompt(512 - N_ANSWER - 25)])
    assert sum(shares.values()) == pytest.approx(1)
    engine.close()
