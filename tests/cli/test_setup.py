"""scripts/setup.sh and the wheels that it takes: in a copy of the clone, whose pip in .venv only writes down."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.paths import ROOT
from pip._vendor.packaging.tags import sys_tags

PLATFORM = next(sys_tags()).platform
OTHER = "manylinux_2_28_riscv64"

# what it builds has a name of its own
PIP = """#!/bin/sh
echo "pip $*" >> "$PIP_LOG"
while [ $# -gt 0 ]; do
    [ "$1" != -w ] || { mkdir -p "$2" && touch "$2/built.whl"; }
    shift
done
"""


class Clone:
    """Scripts and patches of the clone, with a source that is patched already."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "pip.log"
        for name in ("scripts", "patches"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / "dapq_edge").mkdir()
        shutil.copy(ROOT / "dapq_edge/_version.py", folder / "dapq_edge")
        (folder / "pyproject.toml").write_text("")
        programs = {
            "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
            "pip": PIP,
            "dapq-edge": "#!/bin/sh\necho dapq-edge\n",
        }
        (folder / ".venv/bin").mkdir(parents=True)
        for name, text in programs.items():
            (folder / ".venv/bin" / name).write_text(text)
            (folder / ".venv/bin" / name).chmod(0o755)
        source = folder / ".build" / self.says("$name")
        source.mkdir(parents=True)
        (source / ".key").write_text(self.says("$(key source)"))
        self.stem = self.says("$(wheel_stem)")

    def says(self, words):
        """What a shell that has read source.sh makes of words."""
        (self.folder / ".build").mkdir(exist_ok=True)
        script = f'. scripts/source.sh; printf %s "{words}"'
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout

    def wheels(self, *names, data=b"a wheel"):
        """A folder with wheels and their checksums."""
        folder = self.folder / "wheels here"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(data)
        subprocess.run([sys.executable, ROOT / "scripts/wheels.py", "sums", folder], check=True)
        return folder

    def setup(self, **env):
        """Run setup.sh; returns its exit code, and the lines that it says."""
        env = {key: value for key, value in os.environ.items() if key not in ("CMAKE_ARGS", "EXTRAS")} | {
            "PIP_LOG": str(self.log),
            "PYTHON": sys.executable,
            **{key: str(value) for key, value in env.items()},
        }
        result = subprocess.run(
            ["bash", "scripts/setup.sh"], cwd=self.folder, env=env, capture_output=True, text=True, timeout=120
        )
        lines = (result.stdout + result.stderr).replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
        return result.returncode, lines

    @property
    def installed(self):
        """The name of the wheel that replaced the installed one."""
        (line,) = (line for line in self.log.read_text().splitlines() if "--force-reinstall" in line)
        return line.rsplit("/", 1)[1]

    @property
    def has_built(self):
        return self.log.exists() and "pip wheel" in self.log.read_text()


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.fixture
def served():
    """A function from a folder to the address of a server of its files."""
    servers = []

    def serve(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def line_with(lines, words):
    (line,) = (line for line in lines if words in line)
    return line


@pytest.mark.parametrize("is_served", [False, True], ids=["folder", "http"])
def test_wheel_is_taken(clone, served, is_served):
    name = f"{clone.stem}-py3-none-{PLATFORM}.whl"
    folder = clone.wheels(name, f"{clone.stem}-py3-none-{OTHER}.whl", "llama_cpp_python-0.3.36-py3-none-any.whl")
    address = served(folder) if is_served else folder
    code, lines = clone.setup(DAPQ_WHEELS=address)
    assert code == 0, lines
    assert line_with(lines, "taking") == f"==> taking {name} from {address}"
    assert clone.installed.startswith(name)
    assert not clone.has_built
    # nothing is left to do
    clone.log.unlink()
    assert clone.setup(DAPQ_WHEELS=address)[0] == 0
    assert not clone.log.exists()


def test_wheel_of_a_relative_folder(clone):
    folder = clone.wheels(f"{clone.stem}-py3-none-{PLATFORM}.whl")
    assert line_with(clone.setup(DAPQ_WHEELS=folder.name)[1], "taking")


@pytest.mark.parametrize("is_served", [False, True], ids=["folder", "http"])
def test_wrong_checksum_is_refused(clone, served, is_served):
    name = f"{clone.stem}-py3-none-{PLATFORM}.whl"
    folder = clone.wheels(name)
    (folder / name).write_bytes(b"another wheel")
    address = served(folder) if is_served else folder
    code, lines = clone.setup(DAPQ_WHEELS=address)
    assert code == 1
    assert lines == [
        f"setup.sh: refused a wheel from {address}: {name} has not the sha256 that SHA256SUMS lists for it"
    ]
    assert not clone.has_built
    assert not clone.log.exists()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["{stem}-py3-none-" + OTHER + ".whl"], f"none there is for this machine, only {OTHER}"),
        (["llama_cpp_python-0.3.36+dapq.8-8_0123456789abcdef-py3-none-any.whl"], "none of the 1 there is {stem}"),
        ([], "none of the 0 there is {stem}"),
    ],
    ids=["other machine", "other patches", "empty"],
)
def test_without_a_match_it_builds(clone, names, reason):
    folder = clone.wheels(*(name.format(stem=clone.stem) for name in names))
    code, lines = clone.setup(DAPQ_WHEELS=folder)
    assert code == 0, lines
    assert line_with(lines, "no wheel") == f"==> no wheel from {folder}: {reason.format(stem=clone.stem)}"
    assert clone.has_built
    assert clone.installed.startswith("built.whl")


def test_address_that_does_not_answer(clone, served):
    nothing = clone.folder / "nothing"
    assert "No such file" in line_with(clone.setup(DAPQ_WHEELS=nothing)[1], f"no wheel from {nothing}: ")
    nothing.mkdir()
    address = served(nothing)
    assert line_with(clone.setup(DAPQ_WHEELS=address)[1], f"no wheel from {address}: ").endswith("File not found")


def test_options_of_a_build_need_one(clone):
    folder = clone.wheels(f"{clone.stem}-py3-none-{PLATFORM}.whl")
    _, lines = clone.setup(DAPQ_WHEELS=folder, CMAKE_ARGS="-DGGML_CUDA=on")
    assert line_with(lines, "no wheel is taken: CMAKE_ARGS")
    assert clone.has_built


def test_patches_decide_which_wheel_matches(clone):
    before = clone.stem
    with next((clone.folder / "patches/llama-cpp-python").glob("*.patch")).open("a") as patch:
        patch.write("\n")
    assert clone.says("$(wheel_stem)") != before


def test_index_lists_checksums(clone):
    folder = clone.wheels("a_package-1+local.1-py3-none-any.whl")
    subprocess.run([sys.executable, ROOT / "scripts/wheels.py", "index", folder], check=True)
    digest = hashlib.sha256(b"a wheel").hexdigest()
    page = (folder / "llama-cpp-python/index.html").read_text()
    assert f'<a href="../a_package-1%2Blocal.1-py3-none-any.whl#sha256={digest}">' in page
    assert (folder / "SHA256SUMS").read_text() == f"{digest}  a_package-1+local.1-py3-none-any.whl\n"
