"""A conversation: what is remembered, and in how many cells."""

import numpy as np
import pytest
from helpers.llamas import opened
from helpers.tiny import Spec

from dapq_edge.chat.conversation import Chat
from dapq_edge.chat.session import load_session, save_session
from dapq_edge.errors import TooLongError

SPEC = Spec(n_ctx=4096)


def words(n: int, seed: int) -> str:
    return " ".join(f"{word:x}" for word in np.random.default_rng(seed).integers(16, 4096, n))


@pytest.mark.slow
def test_a_chat_is_bounded(tiny_model):
    """Cells, positions and what is remembered, over many turns with documents in between."""
    with opened(tiny_model(Spec(n_ctx=2048)), n_ctx=2048, kv_budget=300) as llama:
        chat, n_forgotten = Chat(llama, system="Be brief.", n_predict=16, temperature=0), 0
        for turn in range(40):
            if turn % 15 == 3:
                assert chat.add_document(words(500, turn)) > 1000
            list(chat.ask(words(30, 100 + turn)))
            n_forgotten += chat.n_forgotten
            usage = llama.usage
            assert usage.n_cells == 1024
            assert usage.n_cells_used <= 1024
            assert llama.kv_cache.next_position <= 2048
        assert 2 <= len(chat.turns) == 40 - n_forgotten < 40
        # documents are not forgotten with the turns that they came with
        assert sum(len(turn.documents) for turn in chat.turns) == 3
        messages = chat.messages
        assert messages[0] == {"role": "system", "content": "Be brief."}
        # an answer that is empty is no message
        roles = ["user", "assistant"] * len(chat.turns)
        assert [message["role"] for message in messages[1:]] == roles[: len(roles) - (not chat.turns[-1].answer)]


def test_a_chat_survives_its_session(tiny_model, tmp_path):
    path = tmp_path / "a.session"
    with opened(tiny_model(SPEC)) as llama:
        chat = Chat(llama, n_predict=16, temperature=0)
        chat.add_document(words(400, 1))
        "".join(chat.ask("why"))
        chat.add_document("another")
        save_session(llama, path, chat.state())
        expected = "".join(chat.ask("how"))
    with opened(tiny_model(SPEC)) as llama:
        chat = Chat(llama, n_predict=16, temperature=0)
        chat.set_state(load_session(llama, path))
        assert [turn.user for turn in chat.turns] == ["why"]
        assert chat.documents == ["another"]
        assert "".join(chat.ask("how")) == expected
        chat.reset()
        assert chat.turns == []
        assert llama.usage.n_tokens == 0


def test_reading_ahead_leaves_the_last_answer_to_be_cited(tiny_model):
    """The few tokens before the next question are read with it; a document is read ahead."""
    with opened(tiny_model(SPEC), n_ctx=4096, kv_budget=4096) as llama:
        chat = Chat(llama, n_predict=16, temperature=0)
        chat.add_document(words(100, 1))
        list(chat.ask("Who?"))
        engine = llama.engine
        n_prompt, sequence = engine.n_prompt, engine.sequence
        assert sequence.n_tokens > n_prompt
        chat.read_ahead()
        assert (engine.n_prompt, engine.sequence) == (n_prompt, sequence)
        chat.add_document(words(200, 2))
        chat.read_ahead()
        assert engine.sequence.n_tokens > sequence.n_tokens + 512


def test_what_fails_is_not_remembered(tiny_model):
    with opened(tiny_model(SPEC), kv_budget="100%", n_ctx=512) as llama:
        chat = Chat(llama, n_predict=16, temperature=0)
        chat.add_document("a b")
        with pytest.raises(TooLongError):
            list(chat.ask(words(900, 1)))
        assert chat.turns == []
        assert chat.documents == ["a b"]
        pieces = chat.ask("c")
        next(pieces)
        pieces.close()
        assert chat.turns[0].user == "c"
        assert chat.turns[0].documents == ["a b"]


def test_a_cut_answer_is_known(tiny_model):
    with opened(tiny_model(SPEC)) as llama:
        chat = Chat(llama, n_predict=3, temperature=0)
        assert len(list(chat.ask("a"))) > 3
        assert chat.is_cut
        answer = chat.ask("b")
        next(answer)
        assert not chat.is_cut
