"""Sessions: saved whole or not at all, and refused where they do not fit."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.limits import limited
from helpers.llamas import answer, opened
from helpers.processes import environment, until
from helpers.profiles import random_profile
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge.cache.state import MAGIC
from dapq_edge.chat import session
from dapq_edge.chat.session import load_session, save_session
from dapq_edge.errors import DapqError

SPEC = Spec(n_ctx=4096)
WINDOW_SPEC = Spec(arch="gemma2", n_layer=4, window=40, n_ctx=4096)


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A session of a prompt that was evicted, and the answer to it."""
    with opened(tiny_model(SPEC)) as llama:
        expected = answer(llama, random_tokens(900, 1))
        save_session(llama, tmp_path / "a.session", [{"role": "user"}])
    return tmp_path / "a.session", expected


@pytest.mark.parametrize("spec", [SPEC, WINDOW_SPEC])
@pytest.mark.parametrize(
    "options",
    [{}, {"heads": random_profile}, {"policy": "pyramid"}, {"kv_budget": 1000}, {"type_k": "q8_0", "flash_attn": True}],
)
def test_a_session_goes_on_as_if_it_had_not_ended(tiny_model, tmp_path, spec, options):
    """The same logits, kept tokens and answers, without reading again; also twice."""
    path, prompt = tmp_path / "a.session", random_tokens(900, 1)
    # a profile is that of the model
    options = {name: value(spec) if callable(value) else value for name, value in options.items()}
    with opened(tiny_model(spec), **options) as llama:
        first = answer(llama, prompt)
        save_session(llama, path, [{"a": "ü\ud800"}])
        kept, usage = llama.kept(), llama.usage
        longer = [*prompt, *first, *random_tokens(40, 2)]
        expected, n_rereads = answer(llama, longer), llama.usage.n_rereads
        # the first answer began as all cells had it, which are lost
        load_session(llama, path)
        again = answer(llama, prompt)
        assert again[0] == first[0]
    with opened(tiny_model(spec), **options) as llama:
        answer(llama, random_tokens(50, 3))
        for _ in range(2):
            assert load_session(llama, path) == [{"a": "ü\ud800"}]
            assert llama.kept() == kept
            assert (llama.usage.n_tokens, llama.usage.n_cells_used) == (usage.n_tokens, usage.n_cells_used)
            assert answer(llama, prompt) == again
            load_session(llama, path)
            before = llama.usage
            assert answer(llama, longer) == expected
            assert llama.usage.n_rereads - before.n_rereads == n_rereads


def test_a_session_is_refused(tiny_model, saved, tmp_path, monkeypatch):
    path, _ = saved
    data, bad = path.read_bytes(), tmp_path / "bad"

    def refused(llama, content, *words):
        bad.write_bytes(content)
        with pytest.raises(DapqError) as caught:
            load_session(llama, bad)
        message = str(caught.value)
        assert "\n" not in message, message
        assert all(word in message for word in words), message

    with opened(tiny_model(SPEC)) as llama:
        before = answer(llama, random_tokens(30, 2))
        kept = llama.kept()
        rng = np.random.default_rng(1)
        for n in [0, 7, 8, 39, 40, 41, *rng.integers(41, len(data), 20).tolist()]:
            refused(llama, data[:n], "session" if n < 8 else "damaged")
        for i in [8, 39, 40, *rng.integers(0, len(data), 60).tolist()]:
            flipped = bytearray(data)
            flipped[i] ^= 1 << int(rng.integers(8))
            refused(llama, bytes(flipped), "session" if i < 8 else "damaged")
        refused(llama, data + b"x", "damaged")
        refused(llama, MAGIC + __import__("hashlib").sha256(b"x").digest() + b"x", "damaged")
        with pytest.raises(DapqError, match=r"cannot read .*missing: No such file"):
            load_session(llama, tmp_path / "missing")
        monkeypatch.setattr(session, "PATCH_VERSION", 99)
        refused(llama, data, "patch version", "not 99")
        monkeypatch.undo()
        assert llama.kept() == kept
        assert answer(llama, random_tokens(30, 2)) == before
    with opened(tiny_model(Spec(n_ctx=4096, n_layer=2))) as llama:
        refused(llama, data, "another model")
    with opened(tiny_model(SPEC), type_k="q8_0", flash_attn=True) as llama:
        refused(llama, data, "type_k=f16 type_v=f16")
    with opened(tiny_model(SPEC), flash_attn=True) as llama:
        refused(llama, data, "another flash_attn")
        assert len(answer(llama, random_tokens(30, 2))) == 12
    with opened(tiny_model(SPEC), n_ctx=512, kv_budget="100%") as llama:
        # a text that is longer than the context makes room for itself
        assert load_session(llama, path)
        assert llama.n_ctx() >= 911


def test_too_few_cells(tiny_model, tmp_path):
    path = tmp_path / "a.session"
    with opened(tiny_model(SPEC), kv_budget=1000) as llama:
        answer(llama, random_tokens(990, 1))
        save_session(llama, path, [])
    with opened(tiny_model(SPEC)) as llama, pytest.raises(DapqError, match="1,001 cells: raise kv_budget"):
        load_session(llama, path)


SAVE = """
import sys
from pathlib import Path
from dapq_edge import Llama
from dapq_edge.chat.session import save_session
llama = Llama(sys.argv[1], kv_budget=100, n_ctx=4096, n_threads=1, verbose=False)
next(llama.generate([5] * 300, temp=0))
print("ready", flush=True)
for i in range(1000000):
    save_session(llama, Path(sys.argv[2]), [i])
"""


@pytest.mark.slow
def test_killed_while_it_saves(tiny_model, tmp_path):
    """At any moment the file is an old or a new one, whole."""
    path = tmp_path / "a.session"
    pipes = {"stdout": subprocess.PIPE, "env": environment()}
    with opened(tiny_model(SPEC)) as llama:
        for delay in np.linspace(0.02, 0.3, 8):
            with subprocess.Popen([sys.executable, "-c", SAVE, tiny_model(SPEC), path], **pipes) as process:
                assert process.stdout.readline() == b"ready\n"
                until(path.exists, process)
                time.sleep(delay)
                process.kill()
            assert load_session(llama, path)[0] >= 0
            assert llama.usage.n_tokens >= 300


def test_a_full_disk_leaves_the_old_file(tiny_model, saved):
    path, _ = saved
    data = path.read_bytes()
    with opened(tiny_model(SPEC)) as llama:
        load_session(llama, path)
        with pytest.raises(DapqError, match=r"cannot write /dev/full/x: Not a directory|File exists"):
            save_session(llama, Path("/dev/full/x"), [])
        with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(DapqError, match="File too large"):
            save_session(llama, path, [])
    assert path.read_bytes() == data
    assert len(list(path.parent.iterdir())) == 1
