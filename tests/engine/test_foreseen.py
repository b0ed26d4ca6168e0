"""What an eviction looked ahead to begins the answer, and is not written twice."""

from itertools import islice

import llama_cpp
import numpy as np
import pytest
from helpers.llamas import answer, opened, set_decode, stock
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import Control, Fused, KVCache, get_policy, open_model
from dapq_edge.cache.look_ahead import LookAhead
from dapq_edge.errors import AbortedError, DapqError
from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies.parts import AtAnswer
from dapq_edge.llamacpp import context

PROMPT, N = random_tokens(700, 1), Fused().queries.n_look_ahead

# of K and V, which batches of other sizes round otherwise
ROUNDING = 0.05

# one that fits, and one that is read in chunks
LENGTHS = (700, 100)

FAMILIES = {
    "full attention": Spec(n_ctx=4096),
    "sliding windows": Spec(arch="gemma2", n_layer=4, window=40, n_ctx=4096),
}


class Batches:
    """Sizes of the batches that llama.cpp decodes."""

    def __init__(self, monkeypatch):
        self.sizes = []
        decode = llama_cpp.llama_decode

        def counted(ctx, batch):
            self.sizes.append(batch.n_tokens)
            return decode(ctx, batch)

        set_decode(monkeypatch, counted)


@pytest.fixture(params=FAMILIES)
def path(tiny_model, request):
    return tiny_model(FAMILIES[request.param])


@pytest.fixture
def engine(path):
    engine = open_model(path, n_threads=1, seed=0)
    yield engine
    engine.close()


def read(engine, policy="fused", budget="100", **options):
    return engine.read(PROMPT, get_policy(policy), parse_budget(budget), n_predict=100, one_shot=True, **options)


def sampled(engine, n):
    """Greedy tokens, and the logits that gave them."""
    tokens, rows = [], []
    for _ in range(n):
        rows.append(engine._cache.logits.copy())
        tokens.append(int(rows[-1].argmax()))
        engine.append(tokens[-1:])
    return tokens, np.array(rows)


def test_an_answer_begins_as_with_the_full_cache(engine):
    """To the bit, as far as was looked ahead; what comes then is from the cells that were kept."""
    read(engine, "full", "100%")
    expected, rows = sampled(engine, N + 8)
    read(engine)
    tokens, ours = sampled(engine, N + 8)
    assert tokens[:N] == expected[:N]
    assert ours[:N].tobytes() == rows[:N].tobytes()
    assert not np.array_equal(ours[N], rows[N])


def test_the_cells_are_those_of_the_tokens(engine):
    """As if each token had been read behind the eviction, wherever the answer ends."""
    for n in (0, 1, 5, N - 1, N, N + 3):
        read(engine)
        tokens, _ = sampled(engine, n)
        after = random_tokens(20, 3)
        engine.append(after)
        ours, sequence = engine.cache.logits.copy(), engine.sequence
        read(engine)
        cache = engine.cache
        cache.read(tokens)
        cache.read(after)
        assert sequence.text.tolist() == cache.sequence.text.tolist() == [*PROMPT, *tokens, *after]
        np.testing.assert_allclose(ours, cache.logits, atol=ROUNDING)


def test_what_was_written_ahead_is_read_at_once(engine, monkeypatch):
    read(engine)
    batches = Batches(monkeypatch)
    sampled(engine, N - 1)
    assert batches.sizes == []
    assert engine.n_tokens == len(PROMPT) + N - 1
    # what anybody wants to know of the cells is true
    assert engine.usage.n_tokens == len(PROMPT) + N - 1
    assert batches.sizes == [N - 1]
    sampled(engine, 2)
    assert batches.sizes == [N - 1, 1, 1]


def test_who_looks_changes_nothing(engine):
    """The state of the sequence is asked for in the middle of an answer, or a part of it is saved and put back."""
    read(engine)
    expected, rows = sampled(engine, N)
    read(engine)
    tokens, ours = [], []
    for _ in range(N):
        step, row = sampled(engine, 1)
        tokens, ours = tokens + step, [*ours, *row]
        assert engine.sequence.text.tolist() == [*PROMPT, *tokens]
    assert (tokens, np.stack(ours).tobytes()) == (expected, rows.tobytes())


def test_another_token_leaves_it(engine):
    """What was foreseen for one answer says nothing about another."""
    read(engine)
    expected, _ = sampled(engine, 4)
    read(engine)
    sampled(engine, 2)
    other = expected[2] ^ 1
    engine.append([other])
    ours = engine._cache.logits.copy()
    # also if a later token is the foreseen one again
    engine.append([expected[3]])
    read(engine)
    engine.cache.read([*expected[:2], other])
    np.testing.assert_allclose(ours, engine.cache.logits, atol=ROUNDING)
    assert engine._beginning.foreseen is not None
    engine.append([other])
    assert engine._beginning.foreseen is None


@pytest.mark.parametrize("n_prompt", LENGTHS)
@pytest.mark.parametrize("policy", ["fused", "dapq"])
def test_the_same_prompt_has_the_same_answer(path, policy, n_prompt):
    with opened(path, policy=policy) as llama:
        first = answer(llama, PROMPT[:n_prompt], N + 8)
        assert answer(llama, PROMPT[:n_prompt], N + 8) == first
        # and in a conversation that goes on behind a part of it
        more = [*PROMPT[:n_prompt], *first[:9], *random_tokens(30, 5)]
        assert len(answer(llama, more, 5)) == 5
        assert llama.n_tokens == llama.engine.sequence.n_tokens


def test_llama_begins_as_llama_cpp(path):
    """As `llama_cpp.Llama`, whose cache is full: the text that fits the cells before the eviction."""
    with opened(path, one_shot=True) as llama, stock(path) as theirs:
        rows = []
        for one in (llama, theirs):
            made = one.generate(PROMPT, temp=0)
            rows.append([(next(made), context.logits(one.ctx).copy()) for _ in range(N)])
        assert [token for token, _ in rows[0]] == [token for token, _ in rows[1]]
        for (_, ours), (_, expected) in zip(*rows, strict=True):
            np.testing.assert_allclose(ours, expected, atol=ROUNDING)
        assert llama.usage.n_evictions == 1


def test_sampled_answers(engine):
    """Whatever is sampled, the ledger has it."""
    for seed in range(5):
        engine.model._llama.set_seed(seed)
        read(engine)
        tokens = list(engine._answer(20, 0.5))
        text = engine.sequence.text.tolist()
        assert text == [*PROMPT, *tokens][: len(text)]
        assert len(text) >= len(PROMPT) + len(tokens) - 1


def test_an_answer_that_cannot_be_read(engine, monkeypatch):
    """The tokens are not in the sequence then, and the next prompt is read as ever."""
    read(engine)
    tokens, _ = sampled(engine, 5)
    with monkeypatch.context() as broken:
        set_decode(broken, lambda ctx, batch: -3)
        with pytest.raises(DapqError, match="cannot read 5 tokens"):
            _ = engine.usage
    assert engine.sequence.text.tolist() == PROMPT
    read(engine)
    assert sampled(engine, 5)[0] == tokens


def test_no_look_ahead_is_no_beginning(engine):
    for policy in ("dapq", "snapkv", "streaming"):
        read(engine, policy)
        assert engine._beginning.foreseen is None


def test_other_text_before_the_answer(engine):
    """What was foreseen behind one ending is not what stands behind another."""
    cache, ending = engine.cache, random_tokens(6, 4)
    for read_then, is_right in ((ending, True), (ending[:3], True), (random_tokens(6, 5), False)):
        engine.open(1024)
        cache = engine.cache
        cache.read(PROMPT[:200])
        with cache.before(ending, 100):
            assert cache.foresee(5) == cache.peek(5)[0]
        cache.read(read_then)
        assert (cache.foreseen is not None) == is_right
        cache.truncate(200)
        assert (cache.foreseen is not None) == is_right
        cache.truncate(199)
        assert cache.foreseen is None


def test_a_state_that_is_put_back_is_another_text(engine):
    """With as many tokens, and the same next one."""
    read(engine)
    engine.append([7])
    state = engine.cache.state(of_context=True)
    read(engine)
    tokens, _ = sampled(engine, 1)
    engine.cache.restore(state)
    assert engine._beginning.foreseen is None
    engine.append(tokens)
    ours = engine.cache.logits.copy()
    engine.cache.restore(state)
    engine.cache.read(tokens)
    assert ours.tobytes() == engine.cache.logits.tobytes()


def test_what_holds_behind_a_part():
    ahead = LookAhead([7, 8], 12, [1, 2, 3], np.zeros((3, 4), np.float32))
    assert ahead.holds_behind(10, [7])
    assert ahead.holds_behind(10, [7, 8])
    assert ahead.holds_behind(11, [8, 1])
    assert not ahead.holds_behind(11, [7])
    assert not ahead.holds_behind(10, [8])
    assert ahead.logits_at(11) is None
    assert ahead.logits_at(14) is not None
    assert ahead.logits_at(15) is None
    assert ahead.goes_on(12, [1])
    assert ahead.goes_on(13, [2])
    # behind the last one, nothing is known
    assert not ahead.goes_on(14, [3])
    assert not ahead.goes_on(12, [1, 2])


def test_evaluation_measures_what_was_kept(engine):
    """Cells that are evicted by hand answer alone."""
    read(engine, "full", "100%")
    cache: KVCache = engine.cache
    state = cache.state(of_context=True)
    cache.restore(state)
    Fused().evict(cache, 100)
    assert cache.foreseen is not None
    assert engine._beginning.foreseen is None
    ours, rows = sampled(engine, 3)
    cache.restore(state)
    assert sampled(engine, 3)[0][0] == ours[0]
    assert not np.array_equal(sampled(engine, 1)[1], rows[2:3])


def due(llama, prompt=PROMPT, n=1, **options):
    """An answer of which `n` tokens were written, and those."""
    made = llama.generate(prompt, **{"temp": 0, **options})
    return made, list(islice(made, n))


def test_the_first_token_waits_for_no_eviction(path, monkeypatch):
    """Nothing is looked ahead to, and what is evicted is read again at once."""
    with opened(path) as llama:
        batches = Batches(monkeypatch)
        made, _ = due(llama)
        assert llama.engine._beginning.is_due
        assert 1 not in batches.sizes
        batches.sizes = []
        list(islice(made, N - 1))
        assert batches.sizes == [1] * (N - 1)
        assert llama.engine._beginning.is_due
        list(islice(made, 2))
        assert batches.sizes[N - 1 :] == [N, 1]
        assert not llama.engine._beginning.is_due
        assert llama.usage.n_cells_used == 100 + N + 1
        assert batches.sizes[N - 1 :] == [N, 1]


@pytest.mark.parametrize("prompt", [PROMPT, random_tokens(1500, 2)], ids=["that fits", "skimmed"])
def test_who_looks_in_the_middle_changes_nothing(path, prompt):
    """And what is seen is true: as if the eviction had been before the answer."""
    with opened(path) as llama:
        expected = answer(llama, prompt, N + 8)
        kept, last = llama.engine.sequence.coverage()[: len(prompt)], llama.engine.last_read
        for n in (1, 2, 9, N - 1, N, N + 1, N + 3):
            llama.reset()
            made, tokens = due(llama, prompt, n)
            read, usage = llama.engine.last_read, llama.usage
            if last:
                assert (read.cells_kept, read.attention_kept) == (last.cells_kept, last.attention_kept)
                assert 0 < read.evict_seconds < read.seconds
            assert usage.n_cells_used == 100 + n - 1
            assert usage.attention_kept > 0
            assert llama.engine.sequence.text.tolist() == [*prompt, *tokens[:-1]]
            assert llama.engine.sequence.coverage()[: len(prompt)].tolist() == kept.tolist()
            assert [*tokens, *islice(made, N + 8 - n)] == expected


@pytest.mark.parametrize("n", [1, 5, N + 3])
def test_an_answer_that_is_left(path, n):
    """Another prompt, the same one, and one that goes on with it find what the eviction before the answer had left."""
    following = random_tokens(30, 5)
    with opened(path) as llama:
        first, second = answer(llama, PROMPT, N + 8), answer(llama, PROMPT[100:], 5)
        llama.reset()
        made, tokens = due(llama, n=n)
        made.close()
        assert answer(llama, PROMPT, N + 8) == first
        made, tokens = due(llama, n=n)
        more = [*PROMPT, *tokens, *following]
        assert len(answer(llama, more, 5)) == 5
        assert llama.engine.sequence.text[: len(more)].tolist() == more
        llama.reset()
        due(llama, n=n)
        assert answer(llama, PROMPT[100:], 5) == second
        due(llama, n=n)
        llama.reset()
        assert llama.usage.n_tokens == 0


@pytest.mark.parametrize("policy", ["fused", "base+question", "oracle"])
def test_sampled_tokens_are_the_queries(tiny_model, policy, monkeypatch):
    seen, tokens_of = [], AtAnswer.tokens

    def noted(*args):
        tokens, pos = tokens_of(*args)
        seen.append((tokens.tolist(), pos))
        return tokens, pos

    monkeypatch.setattr(AtAnswer, "tokens", noted)
    with opened(tiny_model(Spec(n_ctx=4096)), policy=policy, one_shot=True, seed=5) as llama:
        _, tokens = due(llama, n=N + 2, temp=2.0, top_k=0, top_p=1.0)
        assert [(queries[:N], pos) for queries, pos in seen] == [(tokens[:N], len(PROMPT))]
        assert list(llama.kv_cache.foreseen.tokens) == tokens[:N]
        # what is not written yet is looked ahead to
        seen.clear()
        llama.reset()
        _, tokens = due(llama, n=5, temp=2.0, top_k=0, top_p=1.0)
        assert llama.usage.n_evictions == 2
        assert seen[0][0][:4] == tokens[:4]
        assert len(llama.kv_cache.foreseen.tokens) == N


def test_an_eviction_that_fails_in_an_answer(path, monkeypatch):
    """The sequence is empty then, and the next prompt is read as ever."""

    def fail(*args):
        raise DapqError("no memory")

    with opened(path) as llama:
        expected = answer(llama, PROMPT, N + 8)
        for n in (3, N):
            llama.reset()
            made, _ = due(llama, n=n)
            with monkeypatch.context() as broken:
                broken.setattr(KVCache, "evict", fail)
                with pytest.raises(DapqError, match="no memory"):
                    _ = llama.usage if n < N else next(made)
            made.close()
            assert llama.usage.n_tokens == 0
            assert answer(llama, PROMPT, N + 8) == expected


def test_an_eviction_that_fails_before_the_next_prompt(path, monkeypatch):
    """What could not be evicted is read again."""
    with opened(path) as llama:
        expected, evict, n_evicted = answer(llama, PROMPT, N + 8), KVCache.evict, []

        def fail_once(*args):
            n_evicted.append(1)
            if len(n_evicted) == 1:
                raise DapqError("no memory")
            evict(*args)

        llama.reset()
        due(llama, n=3)
        monkeypatch.setattr(KVCache, "evict", fail_once)
        assert answer(llama, PROMPT, N + 8) == expected


def test_what_was_read_is_known_before_the_eviction(path):
    """For what is said before an answer, and for those who look at its tokens."""
    prompt = random_tokens(1500, 2)
    with opened(path) as llama:
        _, tokens = due(llama, prompt, 4)
        text = [*prompt, *tokens[:-1]]
        found = llama.engine.unsettled
        assert llama._input_ids.tolist() == found.sequence.text.tolist() == text
        assert llama.n_tokens == len(text)
        assert found.read.tokens_evaluated >= len(prompt)
        assert found.n_windows == found.read.n_windows
        assert llama.engine._beginning.is_due
        # and when it is done, but not all is read
        assert llama.usage.n_evictions > 0
        llama.eval(tokens[-1:])
        assert llama.engine._beginning.unread == tokens[-1:]
        assert llama._input_ids.tolist() == [*text, tokens[-1]]
        assert llama.engine.unsettled.sequence is llama.engine.unsettled.sequence
        assert llama.engine._beginning.unread == tokens[-1:]


@pytest.mark.parametrize("n", [1, 5])
def test_a_conversation_is_saved_as_it_was_evicted(path, tmp_path, n, monkeypatch):
    options = {"store": tmp_path, "cache_ram": 64}
    with opened(path) as llama:
        _, tokens = due(llama, n=n)
        more = [*PROMPT, *tokens[:-1], *random_tokens(20, 6)]
        expected, n_cells = answer(llama, more, 1), llama.usage.n_cells_used
    with opened(path, **options) as llama:
        due(llama, n=n)
    with opened(path, **options) as llama:
        evaluated = Batches(monkeypatch)
        assert answer(llama, more, 1) == expected
        assert llama.usage.n_cells_used == n_cells
        assert sum(evaluated.sizes) < 50


def test_a_model_is_closed_whatever_is_due(path, tmp_path, monkeypatch):
    """Nothing is evicted for nobody, and what fails then is lost."""
    n_evicted = []

    def fail(*args):
        n_evicted.append(1)
        raise DapqError("no memory")

    monkeypatch.setattr(KVCache, "evict", fail)
    for options, n in (({}, 0), ({"store": tmp_path, "cache_ram": 64}, 1)):
        with opened(path, **options) as llama:
            due(llama)
        assert len(n_evicted) == n


def test_an_answer_that_is_aborted(path):
    """It goes on where it was."""
    with opened(path) as llama:
        expected = answer(llama, PROMPT, N + 8)
        for n in (1, 7, N):
            llama.reset()
            made, _ = due(llama, n=n)
            llama.control = Control(should_abort=lambda: True)
            with pytest.raises(AbortedError):
                llama.eval([1])
            llama.control = Control()
            made.close()
            assert answer(llama, PROMPT, N + 8) == expected


def test_a_token_that_cannot_be_read(tiny_model, monkeypatch):
    """It is not in the sequence, and the answer goes on from the last one that is."""
    with opened(tiny_model(Spec(n_ctx=4096))) as llama:
        expected = answer(llama, PROMPT, N)
        llama.reset()
        _, tokens = due(llama, n=5)
        with monkeypatch.context() as broken:
            set_decode(broken, lambda ctx, batch: -3)
            with pytest.raises(DapqError, match="cannot read 1 token"):
                llama.eval(tokens[-1:])
        for token in expected[4:]:
            llama.eval([token])
        assert list(llama.kv_cache.foreseen.tokens) == expected


def test_a_turn_behind_an_eviction(path, monkeypatch):
    """The next turns of a conversation are evicted behind the first tokens of their answers, too."""
    with opened(path) as llama:
        text, n_due = answer(llama, PROMPT, 5), 0
        text = [*PROMPT, *text]
        for turn in range(8):
            text += random_tokens(150, 10 + turn)
            made, tokens = due(llama, text, 6)
            n_due += llama.engine._beginning.is_due
            assert llama.engine.sequence.text.tolist() == [*text, *tokens[:-1]]
            tokens += islice(made, N)
            text += tokens
            assert llama.engine.sequence.text.tolist() == text[:-1]
        assert n_due > 0


@pytest.mark.parametrize("family", ["lfm2", "qwen3next"])
def test_hybrid_models(family_model, family):
    """Recurrent states are taken back, too."""
    with opened(family_model(family)) as llama:
        prompt = random_tokens(600, 1)
        expected = answer(llama, prompt, N + 8)
        for n in (1, 9, N, N + 2):
            llama.reset()
            made, tokens = due(llama, prompt, n)
            assert llama.usage.n_tokens == len(prompt) + n - 1
            assert [*tokens, *islice(made, N + 8 - n)] == expected
