"""`planner` and `dapq-edge plan`: what a model takes, known from its header."""

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
from context import Context
from tiny import Spec, write_gguf, write_recurrent_gguf

from dapq_edge import memory, native
from dapq_edge.cache import KVCache
from dapq_edge.cli import plan
from dapq_edge.errors import DapqError, ModelError, UsageError
from dapq_edge.memory import free_memory, parse_bytes
from dapq_edge.models import find_model
from dapq_edge.planner import Choice, auto_budget, choose, most_cells
from dapq_edge.shape import Layer, read_shape

MIB, GIB = 2**20, 2**30

SPECS = {
    "MHA": Spec(n_head=4, n_head_kv=4),
    "GQA": Spec(n_head=6, n_head_kv=2, n_layer=5),
    "MQA": Spec(n_head=4, n_head_kv=1),
    "head 32": Spec(n_head_kv=2, head_dim=32),
    "head 128": Spec(n_head_kv=2, head_dim=128, n_layer=1),
    "ALiBi": Spec(arch="refact"),
    "windows": Spec(arch="gemma2", n_layer=5, window=8),
    "long windows": Spec(arch="gemma2", n_layer=4, window=100),
}


def open_context(path: Path, n_cells: int, n_batch: int, type_k: str, type_v: str) -> Context:
    """A context as `context.set_sequence_params` makes it."""
    types = {"type_k": type_k, "type_v": type_v}
    return Context(path, n_ctx=n_cells, n_ubatch=n_batch, n_seq_max=2, kv_unified=True, **types)


@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("f16", "q5_0")])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_kv_bytes_are_those_of_llama_cpp(tiny_model, spec, types):
    path = tiny_model(spec)
    shape = read_shape(path)
    assert (shape.architecture, shape.n_ctx_train, shape.n_head) == (spec.arch, 512, spec.n_head)
    assert [not layer.window for layer in shape.layers] == [not spec.has_window(il) for il in range(spec.n_layer)]
    for n_cells, n_batch in ((256, 512), (768, 64), (768, 512), (1536, 300)):
        with open_context(path, n_cells, n_batch, *types) as c:
            allocated = native.memory_bytes(c.ctx)
            assert shape.kv_bytes(n_cells, *types, n_batch) == allocated
            assert shape.kv_bytes(n_cells - 255, *types, n_batch) == allocated
            assert allocated - shape.window_bytes(*types, n_batch) <= n_cells * shape.bytes_per_cell(*types)


@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q4_0")])
@pytest.mark.parametrize("name", ["MHA", "GQA", "MQA", "head 32"])
def test_bytes_of_a_cell(tiny_model, name, types):
    path = tiny_model(SPECS[name])
    with open_context(path, 512, 512, *types) as c:
        cache = KVCache(c.ctx)
        cache.read(range(10, 110))
        assert cache.n_bytes == 100 * read_shape(path).bytes_per_cell(*types)


def test_weights(tiny_model):
    spec = Spec()
    assert read_shape(tiny_model(spec)).weight_bytes == sum(weight.nbytes for weight in spec.weights.values())


def test_recurrent_model(tmp_path):
    """It has no cells, and a state for each of two sequences."""
    path = write_recurrent_gguf(tmp_path / "mamba.gguf")
    shape = read_shape(path)
    assert shape.layers == (Layer(0, 64, 64),) and shape.bytes_per_cell("f16", "f16") == 0
    with open_context(path, 512, 512, "f16", "f16") as c:
        assert shape.kv_bytes(512, "f16", "f16", 512) == native.memory_bytes(c.ctx) == 2 * 4 * (128 * 8 + 3 * 128)


@pytest.mark.parametrize(
    ("alias", "n_per_cell", "n_words"), [("smollm2-135m", 23040, 98052), ("gemma3-270m", 3072, 262144)]
)
def test_real_models(alias, n_per_cell, n_words):
    try:
        path = find_model(alias)
    except DapqError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    shape = read_shape(path)
    assert (shape.bytes_per_cell("f16", "f16"), shape.n_words) == (n_per_cell, n_words)
    with open_context(path, 2048, 512, "f16", "q8_0") as c:
        assert shape.kv_bytes(2048, "f16", "q8_0", 512) == native.memory_bytes(c.ctx)


def write_header(path: Path, arch: str, numbers: dict[str, int | list[int]], tensor: bool = True) -> Path:
    """A model that only its header is read of: 4 layers, 8 heads of 8, and one tensor of 64 bytes."""
    writer = gguf.GGUFWriter(path, arch)
    defaults = {"context_length": 4096, "embedding_length": 64, "block_count": 4, "attention.head_count": 8}
    for name, value in (defaults | numbers).items():
        (writer.add_array if isinstance(value, list) else writer.add_uint32)(f"{arch}.{name}", value)
    if tensor:
        writer.add_tensor("token_embd.weight", np.zeros(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NONE, FULL = Layer(0, 8, 8), Layer(8, 8, 8)


@pytest.mark.parametrize(
    ("arch", "numbers", "layers"),
    [
        ("llama", {"attention.head_count_kv": [1, 2, 4, 8]}, [Layer(n, 8, 8) for n in (1, 2, 4, 8)]),
        ("llama", {"nextn_predict_layers": 1}, 3 * [FULL]),
        ("deepseek2", {"attention.head_count_kv": 1, "attention.key_length": 24, "attention.value_length": 16}
         | {"attention.key_length_mla": 12, "attention.value_length_mla": 8}, 4 * [Layer(1, 24, 0)]),
        ("jamba", {"attention.head_count_kv": [0, 0, 2, 0]}, [NONE, NONE, Layer(2, 8, 8), NONE]),
        ("qwen3next", {"full_attention_interval": 2}, [NONE, FULL, NONE, FULL]),
        ("qwen35", {"attention.recurrent_layers": [1, 0, 0, 1]}, [NONE, FULL, FULL, NONE]),
        ("gpt-oss", {"attention.sliding_window": 128}, 2 * [Layer(8, 8, 8, 128), FULL]),
        ("gpt-oss", {"attention.sliding_window": 128, "attention.sliding_window_pattern": 4},
         [*3 * [Layer(8, 8, 8, 128)], FULL]),
        ("lfm2", {"attention.sliding_window": 32, "attention.head_count_kv": [0, 8, 0, 8]},
         2 * [Layer(0, 8, 8, 32), Layer(8, 8, 8, 32)]),
        ("llama4", {}, [*3 * [Layer(8, 8, 8, 8192)], FULL]),
        ("llama4", {"attention.sliding_window": 0}, 4 * [FULL]),
        ("gemma4", {"attention.sliding_window": 32, "attention.sliding_window_pattern": [1, 0, 1, 0]}
         | {"attention.key_length_swa": 4, "attention.value_length_swa": 2, "attention.shared_kv_layers": 1},
         [Layer(8, 4, 2, 32), FULL, Layer(8, 4, 2, 32), NONE]),
        # llama.cpp knows no windows of these, or we do not: never too little
        ("phi3", {"attention.sliding_window": 32}, 4 * [FULL]),
        ("unheard-of", {"attention.sliding_window": 32, "attention.sliding_window_pattern": 2}, 4 * [FULL]),
    ],
)  # fmt: skip
def test_layers(tmp_path, arch, numbers, layers):
    assert list(read_shape(write_header(tmp_path / "model.gguf", arch, numbers)).layers) == layers


@pytest.mark.parametrize(
    ("arch", "numbers", "obstacle"),
    [
        ("llama", {"attention.indexer.top_k": 0}, ""),
        ("glm-dsa", {"attention.indexer.top_k": 2048}, "sparse attention"),
        ("qwen4exp", {"attention.indexer.top_k": 512, "full_attention_interval": 4}, "sparse attention"),
        ("llada", {}, "no KV cache"),
        ("t5", {}, "encoder"),
        ("mamba2", {"attention.head_count": 0, "ssm.state_size": 16}, "recurrent states"),
        ("lfm2", {"attention.sliding_window": 32}, "sliding windows"),
        ("gemma3", {"attention.sliding_window": 32, "attention.sliding_window_pattern": 8}, "sliding windows"),
    ],
)
def test_obstacles(tmp_path, arch, numbers, obstacle):
    found = read_shape(write_header(tmp_path / "model.gguf", arch, numbers)).obstacle
    assert obstacle in found and bool(obstacle) == bool(found)


def test_split_model(tmp_path):
    """The weights of all parts, of which the first may have none."""
    parts = [tmp_path / f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts:
        write_header(part, "llama", {}, tensor=part != parts[0])
    assert read_shape(parts[0]).weight_bytes == 2 * 64
    none = parts[1].rename(tmp_path / "b-00001-of-00000.gguf")
    assert read_shape(none).weight_bytes == 64
    none.rename(parts[1])
    parts[2].unlink()
    with pytest.raises(ModelError, match="cannot read .*a-00003-of-00003.gguf: No such file"):
        read_shape(parts[0])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"block_count": 2**32 - 1}, "4294967295 layers"),
        ({"block_count": 0}, "0 layers"),
        ({"nextn_predict_layers": 5}, "-1 layers"),
        ({"context_length": 0}, "trained for 0 tokens"),
        ({"attention.head_count_kv": [1, 2]}, "head_count_kv does not have a number for each layer"),
        ({"attention.key_length": [1, 2]}, "key_length is no natural number"),
    ],
)
def test_wrong_numbers(tmp_path, numbers, message):
    with pytest.raises(ModelError, match=message):
        read_shape(write_header(tmp_path / "model.gguf", "llama", numbers))


def test_no_language_model(tmp_path, tiny_model):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_tensor("v", np.zeros(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"is no language model: it has no clip.embedding_length$"):
        read_shape(path)
    with pytest.raises(ModelError, match="bytes"):
        read_shape(write_header(path, "llama", {}, tensor=False))
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ModelError, match="is not a GGUF file"):
        read_shape(path)


@pytest.fixture
def broken(tmp_path):
    """A function that gives other bytes to `read_shape` and to all that uses it; returns whether they are a model."""
    number = 0

    def read(data: bytes) -> bool:
        nonlocal number
        number += 1
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                shape = read_shape(path)
                choose(shape, 64 * GIB, shape.n_ctx_train, "q8_0", "f16", 512)
        except DapqError as error:
            assert "\n" not in str(error)
            return False
        finally:
            path.unlink()
        return True

    return read


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory):
    """Bytes of a model with few weights, and where its header ends."""
    path = write_gguf(
        Spec(arch="gemma2", n_head=1, n_head_kv=1, head_dim=32, n_layer=2), tmp_path_factory.mktemp("s") / "m"
    )
    return path.read_bytes(), gguf.GGUFReader(path).data_offset


def test_truncated_files(broken, small_gguf):
    data, n_header = small_gguf
    assert broken(data)
    for size in [*range(0, n_header, 101), n_header, n_header + 1000, len(data) - 1]:
        assert not broken(data[:size])


def test_fuzzed_headers(broken, small_gguf):
    """Some stay models; none raises anything else."""
    data, n_header = small_gguf
    rng = np.random.default_rng(1)
    values = np.array([0, 1, 2, 8, 9, 127, 128, 255], dtype=np.uint8)
    n_models = 0
    for _ in range(1500):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        # the vocabulary is long, and tells nothing
        start = rng.choice([0, 0, n_header - 2500])
        first = start + int(rng.integers(4, 900 if start == 0 else 2400))
        n_bytes = int(rng.choice([1, 1, 4, 8]))
        changed[first : first + n_bytes] = rng.choice(values, n_bytes)
        n_models += broken(changed.tobytes())
    assert 100 < n_models < 1400


def test_parse_bytes():
    sizes = {"0": 0, "1000": 1000, "512M": 512 * MIB, "4G": 4 * GIB, "4g": 4 * GIB, "4GiB": 4 * GIB, "4GB": 4 * GIB}
    sizes |= {"1.5 GB": 3 * GIB // 2, " 2k ": 2048, "1T": 2**40, "100B": 100, "0.5K": 512}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    for text in ["", "G", "-1G", "4X", "4iB", "1e9", "4 G B", ".5G", "1,5G", "inf", "nan", "9" * 5000, "4G\n4"]:
        with pytest.raises(UsageError, match="--ram .*give bytes"):
            parse_bytes(text)


@pytest.mark.parametrize("name", ["GQA", "windows"])
def test_most_cells(tiny_model, name):
    shape, options = read_shape(tiny_model(SPECS[name])), ("f16", "q8_0", 512)
    found = []
    for ram in (80 * MIB, 100 * MIB, 100 * MIB + 1000, 200 * MIB, GIB, 4 * GIB):
        n_cells = most_cells(shape, ram, *options)
        assert n_cells % 256 == 0
        assert shape.total_bytes(n_cells, *options) <= 0.9 * ram < shape.total_bytes(n_cells + 256, *options)
        found.append(n_cells)
    assert found == sorted(found) and found[0] < found[-1]
    assert most_cells(shape, GIB, "q4_0", "q4_0", 512) > most_cells(shape, GIB, "f16", "f16", 512)
    assert most_cells(shape, GIB, "f16", "f16", 64) > most_cells(shape, GIB, "f16", "f16", 512)
    needed = shape.total_bytes(256, *options)
    assert most_cells(shape, int(needed / 0.9) + 2, *options) == 256
    with pytest.raises(DapqError, match=rf"256 cells need {needed / MIB:.0f} MiB, and there are 45 \(90% of 50\)"):
        most_cells(shape, 50 * MIB, *options)


def test_choose(tiny_model):
    shape, options = read_shape(tiny_model(Spec())), ("f16", "f16", 512)

    def ram_for(n_cells: int) -> int:
        return int(shape.total_bytes(n_cells, *options) / 0.9) + 2

    assert choose(shape, ram_for(4096), 4000, *options) == Choice(4000, 1024, is_full=True)
    assert choose(shape, ram_for(4096), 4097, *options) == Choice(4096 - 512, 1024, is_full=False)
    assert choose(shape, ram_for(4096), 16000, *options) == Choice(3584, 2000, is_full=False)
    assert choose(shape, ram_for(4096), 64000, *options) == Choice(3584, 3584, is_full=False)
    assert choose(shape, ram_for(1024), 64000, *options) == Choice(512, 512, is_full=False)
    # what is read at once needs no chunk beside it
    assert choose(shape, ram_for(256), 200, *options) == Choice(200, 200, is_full=True)
    assert choose(shape, ram_for(768), 800, *options) == Choice(256, 256, is_full=False)
    with pytest.raises(DapqError, match="768 cells need"):
        choose(shape, ram_for(512), 800, *options)


def test_auto_budget(tiny_model):
    shape = read_shape(tiny_model(Spec()))
    ram = int(shape.total_bytes(4096, "f16", "f16", 512) / 0.9) + 2
    budget = auto_budget(tiny_model(Spec()), ram, 16000, "f16", "f16", 512)
    assert (budget.cells(3584), budget.cells(3585), budget.n_most) == (3584, 2000, 3584)


def write_files(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name.replace("memory_", "memory.", 1)).write_text(text)


def test_free_memory(tmp_path, monkeypatch):
    """The least of the system and of all control groups, with what they cache of files."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: argparse.Namespace(available=5 * GIB))
    monkeypatch.setattr(memory, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroups")
    assert free_memory() == 5 * GIB
    write_files(tmp_path / "a", memory_max=f"{2 * GIB}\n", memory_current=f"{GIB}\n",
                memory_stat=f"anon 7\nactive_file {3 * MIB}\ninactive_file {MIB}\n")  # fmt: skip
    write_files(tmp_path / "a" / "b", memory_max="max\n", memory_current="5\n", memory_stat="")
    (tmp_path / "cgroups").write_text("0::/a/b\n")
    assert free_memory() == GIB + 4 * MIB
    write_files(tmp_path / "memory" / "c", memory_limit_in_bytes=f"{GIB}", memory_usage_in_bytes=f"{GIB + 5}",
                memory_stat="total_active_file 3\ntotal_inactive_file 1\n")  # fmt: skip
    (tmp_path / "cgroups").write_text("9:cpu,cpuacct:/a\n4:memory:/c\n")
    assert free_memory() == 0
    (tmp_path / "memory" / "c" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert free_memory() == free_memory(-1) == 5 * GIB
    monkeypatch.setattr(memory, "gpus", lambda: [argparse.Namespace(free=GIB), argparse.Namespace(free=2 * GIB)])
    assert (free_memory(0), free_memory(-1)) == (5 * GIB, 3 * GIB)


PLANNED = {"cache_type_k": "f16", "cache_type_v": "f16", "json": False, "n_gpu_layers": -1, "rpc": ""}

PEAK = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
import dapq_edge.llama
from context import Context
from dapq_edge.cache import KVCache
from dapq_edge.policies import get_policy
from llama_cpp._logger import set_verbose

set_verbose(False)
with Context(Path(sys.argv[1]), n_ctx=int(sys.argv[2]), n_ubatch=512, n_seq_max=2, kv_unified=True) as c:
    cache = KVCache(c.ctx)
    n_cells = int(sys.argv[2]) - 512
    for start in range(0, n_cells, 512):
        cache.read([10 + i % 200 for i in range(start, start + 512)])
    get_policy("fused").evict(cache, n_cells // 2)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("name", "n_cells"), [("GQA", 1024), ("GQA", 8192), ("windows", 2048)])
def test_total_is_what_a_process_takes(tiny_model, name, n_cells):
    """Not too low, and at most 1.5 times as much."""
    path = tiny_model(SPECS[name])
    command = [sys.executable, "-c", PEAK, str(path), str(n_cells)]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    taken = int(result.stdout) * 1024
    assert taken <= read_shape(path).total_bytes(n_cells, "f16", "f16", 512) <= 1.5 * taken


def arguments(path: Path, **options: object) -> argparse.Namespace:
    defaults = {"model": str(path), "hf_repo": None, "offline": False, "ram": "4G", "ctx_size": 0, "batch_size": 512}
    return argparse.Namespace(**defaults | PLANNED | options)


def test_plan_as_json(tiny_model, capsys):
    spec = Spec(arch="gemma2", n_layer=5, window=8, n_ctx=3000)
    path = tiny_model(spec)
    shape, options = read_shape(path), ("q8_0", "f16", 512)
    ram = int(shape.total_bytes(2048, *options) / 0.9) + 2
    assert plan.run(arguments(path, ram=str(ram), cache_type_k="q8_0", json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report.pop("budgets")
    # 2 KV heads of 64 numbers for K, and as many for V, in 2 layers
    assert report == {
        "model": str(path),
        "architecture": "gemma2",
        "n_ctx_train": 3000,
        "n_ctx": 3000,
        "ram_bytes": ram,
        "cache_type_k": "q8_0",
        "cache_type_v": "f16",
        "weight_bytes": sum(weight.nbytes for weight in spec.weights.values()),
        "kv_bytes_per_token": {"f16": 2 * 256 * 2, "q8_0": 2 * 256 * 34 // 32, "q4_0": 2 * 256 * 18 // 32},
        "window_bytes": 768 * 3 * (136 + 256),
        "full_kv_bytes": 3072 * 2 * (136 + 256) + 768 * 3 * (136 + 256),
        "obstacle": "",
        "choice": {"n_most": 1536, "n_keep": 1024, "is_full": False},
    }
    assert [row["budget"] for row in rows] == [256, 512, 1024, 2048, 3000]
    assert [row["cells"] for row in rows] == [768, 1024, 1536, 2560, 3072]
    assert [row["fits"] for row in rows] == [True, True, True, False, False]
    for row in rows:
        assert row["kv_bytes"] == row["cells"] * 2 * 392 + 768 * 3 * 392
        assert row["total_bytes"] == shape.total_bytes(row["cells"], *options)


def test_plan_as_text(tiny_model, capsys):
    path = tiny_model(Spec(n_ctx=65536))
    shape = read_shape(path)
    assert plan.run(arguments(path, ram="100M", ctx_size=30000)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "KV of a token, q8_0 │ 0.8 KiB" in text
    # 30,208 cells of 1,536 bytes
    assert "KV of 30,000 tokens (f16, f16) │ 44.2 MiB" in text
    total = shape.total_bytes(1536, "f16", "f16", 512) / MIB
    assert f"│ 1,024 │ 1,536 │ 2.2 │ {total:.1f} │ yes │" in text
    n_most = most_cells(shape, 100 * MIB, "f16", "f16", 512) - 512
    assert f"keeps prompts of up to {n_most:,} tokens" in text and "from 3,750 cells on" in text
    assert plan.run(arguments(path, ctx_size=300)) == 0
    assert "keeps all, as the full cache of 300 tokens fits" in capsys.readouterr().out


def test_plan_of_a_model_that_cannot_be_evicted(tmp_path, capsys):
    """What all cells need, and why."""
    path = write_header(tmp_path / "model.gguf", "bloom", {})
    assert plan.run(arguments(path, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert "ALiBi" in report["obstacle"] and report["choice"] is None
    assert [(row["budget"], row["cells"]) for row in report["budgets"]] == [(4096, 4096)]
    assert plan.run(arguments(path)) == 0
    assert "cannot be evicted: its attention needs the position of each cell (ALiBi)" in capsys.readouterr().out


def test_plan_refuses(tiny_model):
    path = tiny_model(Spec())
    with pytest.raises(UsageError, match="--ram '4 apples'"):
        plan.run(arguments(path, ram="4 apples"))
    with pytest.raises(UsageError, match="-ctv q9: choose one of"):
        plan.run(arguments(path, cache_type_v="q9"))
    with pytest.raises(DapqError, match="512 cells need .* there are 0 .*: take a smaller model"):
        plan.run(arguments(path, ram="10"))
