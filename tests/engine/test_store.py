"""Windows that were read once: another question takes them from the store, and finds what it would have found."""

import os
from dataclasses import replace
from functools import partial

import pytest
from helpers.llamas import opened
from helpers.profiles import random_profile
from helpers.tiny import Spec

from dapq_edge.control import Control
from dapq_edge.errors import DapqError, UsageError
from dapq_edge.eviction.budget import Cells
from dapq_edge.eviction.heads import QueryHead
from dapq_edge.eviction.policies import get_policy
from dapq_edge.prompt.chat_template import chat_prompt
from dapq_edge.reading.open_model import open_model

SPEC = Spec(n_ctx=32768)
TEXT = "\n\n".join(f"The-clerk-counted-crate-{i}-and-the-gulls." for i in range(120))
FIRST, SECOND = "What-is-the-code-of-the-vault?", "Who-counted-the-crates?"


def profile(spec=SPEC, layer=1):
    return replace(random_profile(spec), query=(QueryHead(layer, 2, 2.0, 0, 1),))


def read(engine, question, text=TEXT, **options):
    return engine.read(chat_prompt(engine.model, text, question), get_policy("fused"), Cells(300), **options)


@pytest.fixture
def engine_of(tiny_model, tmp_path):
    engines = []

    def make(spec=SPEC, heads=None, store="store", store_type="f16", **options):
        folder = store and tmp_path / store
        options |= {"n_threads": 1, "skim": "all", "store": folder, "store_type": store_type}
        engine = open_model(tiny_model(spec), heads=heads or profile(spec), **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def relevance(stats):
    return [chunk.relevance for chunk in stats.chunks]


@pytest.mark.parametrize("store_type", ["f16", "q8_0"])
def test_window_that_was_chosen_is_not_read_again(engine_of, store_type):
    """It is kept with all layers as they are, so that only the question is evaluated, with the same to the bit."""
    # one chunk is relevant, in the middle of a window
    question, heads = "Who-is-it?", replace(profile(), query=(QueryHead(1, 2, 2.0, 4.0, 0.05),))
    engine_of = partial(engine_of, heads=heads, store_type=store_type)
    engine, plain = engine_of(), engine_of(store=None)
    first, fresh = read(engine, question), read(plain, question)
    assert first.tokens_evaluated == fresh.tokens_evaluated > 6000
    logits, expected = plain.cache.logits.copy(), list(plain.stream(8))
    for again in (engine, engine_of()):
        second = read(again, question)
        assert second.tokens_evaluated < 2 * len(question) + 20
        assert (again.cache.logits == logits).all()
        assert list(again.stream(8)) == expected


@pytest.mark.parametrize(
    ("spec", "heads"),
    [
        (SPEC, None),
        (SPEC, random_profile(SPEC)),
        (Spec(arch="gemma2", n_layer=4, n_ctx=32768), None),
        (Spec(n_layer=4, n_ctx=32768), None),
    ],
    ids=["query heads", "guess", "windows", "half of the layers"],
)
def test_another_question_reads_no_window_again(engine_of, spec, heads):
    engine, plain = engine_of(spec, heads), engine_of(spec, heads, store=None)
    first = read(engine, FIRST)
    n_read, n_all = first.n_windows
    assert n_read == n_all > 2
    assert first.n_stored == 0
    assert relevance(first) == relevance(read(plain, FIRST))
    second, fresh = read(engine, SECOND), read(plain, SECOND)
    assert second.n_stored == n_all
    assert fresh.n_stored == 0
    # cells of a sliding window come back in another order
    equal = partial(pytest.approx, rel=1e-4 if spec.arch == "gemma2" else 0, abs=0)
    assert relevance(second) == equal(relevance(fresh))
    assert relevance(second) != equal(relevance(first))
    assert second.tokens_evaluated < fresh.tokens_evaluated - len(TEXT) // 2
    assert list(engine.stream(8)) == list(plain.stream(8))
    assert second.faults == []
    # another process
    again = read(engine_of(spec, heads), SECOND)
    assert again.n_stored == n_all
    assert relevance(again) == equal(relevance(fresh))


@pytest.mark.parametrize("flash_attn", ["on", "off"])
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_half_of_the_bytes(engine_of, tmp_path, arch, flash_attn):
    """K and V come back as q8_0 has them, and everything else to the bit."""
    spec, sizes, found = Spec(arch=arch, n_layer=4, n_ctx=32768), {}, {}
    for store_type in ("f16", "q8_0"):
        engine = engine_of(spec, store=store_type, store_type=store_type, flash_attn=flash_attn)
        read(engine, FIRST)
        second = read(engine, SECOND)
        assert second.n_stored == second.n_windows[1]
        found[store_type] = relevance(second)
        sizes[store_type] = sum(path.stat().st_size for path in (tmp_path / store_type).glob("*.kv"))
    assert 0 < sizes["q8_0"] < 0.6 * sizes["f16"]
    assert found["q8_0"] == pytest.approx(found["f16"], abs=0.05)
    assert found["q8_0"] != found["f16"]


@pytest.mark.parametrize("cache_type", ["q8_0", "f32"])
def test_other_types_are_kept_as_they_are(engine_of, cache_type):
    engine, plain = (
        engine_of(store=store, store_type="q8_0", type_k=cache_type, type_v=cache_type, flash_attn="on")
        for store in ("store", None)
    )
    read(engine, FIRST)
    second = read(engine, SECOND)
    assert second.n_stored == second.n_windows[1]
    assert relevance(second) == relevance(read(plain, SECOND))


def test_no_such_type(engine_of):
    with pytest.raises(UsageError, match="choose of q8_0, f16"):
        engine_of(store_type="q4_0")


def test_only_the_layers_that_are_looked_at_are_kept(engine_of, tmp_path):
    spec = Spec(n_layer=6, n_ctx=32768)
    read(engine_of(spec, profile(spec, 0), store="one"), FIRST)
    read(engine_of(spec, profile(spec, 5), store="all"), FIRST)
    one, every = (sum(path.stat().st_size for path in (tmp_path / name).glob("*.kv")) for name in ("one", "all"))
    assert one < every / 4


@pytest.mark.parametrize(
    "change",
    [
        {"spec": Spec(n_ctx=32768, n_layer=4)},
        {"type_k": "q8_0"},
        {"heads": profile(layer=0)},
        {"flash_attn": "off"},
    ],
    ids=["model", "type", "heads", "flash attention"],
)
def test_what_was_read_in_another_way_is_not_taken(engine_of, change):
    read(engine_of(flash_attn="on"), FIRST)
    options = {"flash_attn": "on"} | change
    assert read(engine_of(**options), FIRST).n_stored == 0


def test_a_text_that_goes_on_is_read_from_there(engine_of):
    engine = engine_of()
    n_all = read(engine, FIRST).n_windows[1]
    other = "\n\n".join(f"A-gull-sat-on-post-{i}." for i in range(150))
    changed = TEXT[:-400] + TEXT[-400:].upper()
    assert read(engine, FIRST, changed).n_stored >= n_all - 2
    assert read(engine, FIRST, other).n_stored == 0


def test_reading_goes_on_where_it_was_interrupted(engine_of):
    engine, n_done = engine_of(), []

    def stop():
        if len(n_done) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(engine, FIRST, control=Control(lambda done, total: n_done.append(done), stop))
    found = read(engine_of(), FIRST)
    assert 0 < found.n_stored < found.n_windows[1]
    assert relevance(found) == relevance(read(engine_of(store=None), FIRST))


def test_a_damaged_window_is_read_again(engine_of, tmp_path):
    fresh = relevance(read(engine_of(), SECOND))
    path = sorted((tmp_path / "store").glob("*.kv"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    found = read(engine_of(), SECOND)
    assert found.n_stored == found.n_windows[1] - 1
    assert relevance(found) == fresh
    (fault,) = found.faults
    assert "damaged" in fault
    assert read(engine_of(), SECOND).n_stored == found.n_windows[1]


def test_cells_that_llama_cpp_refuses_are_read_again(engine_of, monkeypatch):
    engine = engine_of()
    fresh = relevance(read(engine, FIRST))
    store = engine.store
    get = store.catalog.get
    monkeypatch.setattr(store.catalog, "get", lambda key: {"cells": get(key)["cells"][:-100]})
    found = read(engine, FIRST)
    assert found.n_stored == 0
    assert relevance(found) == fresh
    assert "read again" in found.faults[0]


def test_a_full_disk_is_said_once(engine_of, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    engine = engine_of()
    monkeypatch.setattr(os, "replace", fail)
    found = read(engine, FIRST)
    assert found.n_windows[0] > 1
    assert len(found.faults) == 1
    assert "No space left" in found.faults[0]
    assert relevance(found) == relevance(read(engine_of(store=None), FIRST))


def test_a_small_store_keeps_what_fits(engine_of, tmp_path):
    read(engine_of(store_size=2_000_000), FIRST)
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "store").glob("*.kv")) <= 2_000_000


def test_no_place_for_a_store(engine_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DapqError, match="no store in"):
        engine_of(store="file/store")


def test_the_drop_in(tiny_model, tmp_path):
    options = {"kv_budget": 200, "n_ctx": 32768, "heads": profile(), "skim": "all", "store": tmp_path}
    with opened(tiny_model(SPEC), **options) as llama:
        answers = []
        for question in (FIRST, SECOND, FIRST):
            answers.append(llama.create_completion(f"{TEXT}\n\n{question}", max_tokens=4, temperature=0))
            assert llama.usage.n_stored == (0 if len(answers) == 1 else llama.usage.n_windows[1])
            llama.reset()
    assert answers[0]["choices"] == answers[2]["choices"]


def test_the_drop_in_and_the_engine_share_what_they_read(engine_of, tiny_model):
    """So that `chat` and `serve` take what `ask` and `read` read."""
    with opened(tiny_model(SPEC), flash_attn="auto", n_batch=512) as llama:
        assert llama.engine.model.cache_key == engine_of(flash_attn="auto").model.cache_key
