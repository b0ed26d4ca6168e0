"""README and docs: every block of code runs or parses, every link leads somewhere, for a user who is new."""

import contextlib
import os
import re
import shlex
import subprocess
import sys

import pytest
from helpers.context import Context
from helpers.paths import ROOT
from helpers.real import find, needs_build
from helpers.tiny import Spec
from helpers.tokens import random_tokens

from dapq_edge import KVCache, Policy
from dapq_edge.cli.parser import build_parser
from dapq_edge.eviction.policies import POLICIES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """Blocks of code in that language, each once, with the name of its first page."""
    seen = set()
    for page in PAGES:
        for code in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL):
            if code in seen:
                continue
            seen.add(code)
            yield pytest.param(code, id=f"{page.stem}-{code.strip().splitlines()[-1][:30]}")


def commands():
    """Lines of the shell that call dapq-edge, with the lines that they go on in, each with the name of its page."""
    for language in ("sh", "console"):
        for block in blocks(language):
            lines = block.values[0].replace("\\\n", " ").splitlines()
            for line in lines if language == "sh" else [line[2:] for line in lines if line.startswith("$ ")]:
                found = re.search(r"(?:^|[|(\s])(?:\.venv/bin/)?dapq-edge (.*)", line.partition("  #")[0])
                if found:
                    yield pytest.param(found[1], id=f"{block.id.split('-')[0]}-{found[1][:40]}")


@pytest.fixture
def new_user(tmp_path):
    """The environment of somebody who has the weights of SmolLM2, and no head profiles."""
    weights = find("smollm2-135m").parent
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "LLAMA_CACHE": str(weights)}


@pytest.mark.slow
@needs_build
def test_demo(new_user, tmp_path):
    """demo.sh, in a folder where setup.sh has nothing to do."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/setup.sh").write_text("#!/bin/sh\n")
    (tmp_path / "scripts/setup.sh").chmod(0o755)
    (tmp_path / "scripts/demo.sh").write_text((ROOT / "scripts/demo.sh").read_text())
    (tmp_path / ".build").symlink_to(ROOT / ".build")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for _ in range(2):
        # the second time, from the store
        result = subprocess.run(["bash", tmp_path / "scripts/demo.sh"], env=new_user, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "A quarter of the cache was enough" in result.stdout
        # no warning against the answer
        assert "nothing in the document" not in result.stderr
    assert "from the store" in result.stderr


@pytest.mark.slow
@needs_build
def test_plan_of_the_docs(new_user):
    """What docs/cli.md shows is what is printed."""
    page = (ROOT / "docs/cli.md").read_text()
    command, shown = re.search(r"```console\n\$ \S+/dapq-edge (plan .*?)\n(.*?)```", page, re.DOTALL).groups()
    argv = [sys.executable, "-m", "dapq_edge", *command.split()]
    result = subprocess.run(argv, env=new_user, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == shown


@pytest.mark.slow
@needs_build
@pytest.mark.parametrize("code", [block for block in blocks("python") if "find_model" in block.values[0]])
def test_python(code, new_user):
    """Each line that it prints begins with what its comment says, if it has one."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=new_user, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    # "upper case" or "uppercase": the CPUs differ
    printed, said = ([line.replace(" ", "") for line in lines] for lines in (result.stdout.splitlines(), said))
    assert len(printed) >= len(said)
    assert all(line.startswith(start) for line, start in zip(printed, said, strict=False))


@pytest.mark.parametrize("code", [block for block in blocks("python") if "find_model" not in block.values[0]])
def test_policies_of_the_docs(code, tiny_model):
    """A file of less than 30 lines is a policy."""
    assert len(code.splitlines()) < 30
    module = {"__name__": "example"}
    exec(compile(code, "docs", "exec"), module)
    (name,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
    policy = module[name]()
    assert isinstance(policy, Policy)
    assert policy.name not in POLICIES
    with Context(tiny_model(Spec()), n_seq_max=2, kv_unified=True) as context:
        cache = KVCache(context.ctx)
        cache.read(random_tokens(90, 1))
        policy.evict(cache, 40)
        assert cache.n_cells == 40
        assert cache.next_position == 90


@pytest.mark.parametrize("command", list(commands()))
def test_commands_parse(command):
    """Options exist, and have values that they take."""
    words = list(before_the_shell(shlex.split(command)))
    with contextlib.suppress(SystemExit) if {"--help", "--version"} & set(words) else contextlib.nullcontext():
        build_parser().parse_args(words)


def before_the_shell(words):
    """The words of one command, before what the shell does with it."""
    for word in words:
        if word in ("|", ">", "2>", "&", "&&", ";"):
            return
        yield word


@pytest.mark.parametrize("code", [*blocks("sh"), *blocks("toml")])
def test_shell_and_toml_are_well_formed(code, tmp_path):
    if "[project" in code:
        tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
        assert tomllib.loads(code)
        return
    # what a reader has to put in is no redirection
    script = re.sub(r"<[a-z ]+>", "URL", code)
    result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Files that exist, and headings that they have."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), link
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_code_is_beside_a_clone(tmp_path):
    """A folder of the same name does not hide the package."""
    (tmp_path / "dapq_edge").mkdir()
    subprocess.run([sys.executable, "-c", "from dapq_edge import Llama"], cwd=tmp_path, check=True)
