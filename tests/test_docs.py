"""The documentation: examples run, links lead somewhere, every public name has a page, lines fit, the version is one."""

import os
import re
from importlib import import_module

import pytest
from conftest import ROOT

import nc_fast

ROOT_PAGES = sorted(ROOT.glob("*.md"))
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<kind>\S*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
HIDDEN = "<!-- python, not shown\n"  # what the page's examples take for granted
EXAMPLE = re.compile(rf"^(?:```python|{HIDDEN.strip()})\n(?P<code>.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)
ONE_LINER = re.compile(r"^\| [^|]* \| `(?P<code>[^`]*)` \| \[", re.MULTILINE)  # the second column of docs/which.md
# Blocks that are no Python: shell commands, output, formulas, and what Sphinx reads.
OTHER_KINDS = {"", "bash", "eval-rst", "{eval-rst}", "{include}", "{toctree}"}
MODULES = {
    "nc_fast": None,
    "nc_fast.candidates": None,
    "nc_fast.criteria": None,
    "nc_fast.init": None,
    "nc_fast.sklearn": None,
    "nc_fast.testing": None,
    "nc_fast.types": ("Certificate",),  # the other public ones are in nc_fast
    "nc_fast.distributed": ("Traffic", "count_traffic"),  # the rest is reached through process_group=
}
MAX_WIDTH = 140


def run(match, page, namespace):
    line = page.read_text()[: match.start("code")].count("\n")
    exec(compile("\n" * line + match["code"], page.name, "exec"), namespace)


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """A name ``folder``; the examples run in it, and leave neither a process group nor environment variables."""
    distributed = pytest.importorskip("torch.distributed")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield {"folder": tmp_path}
    if distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", [page for page in PAGES if EXAMPLE.search(page.read_text())], ids=lambda page: page.name)
def test_examples_run(page, namespace):
    text = page.read_text()
    for example in EXAMPLE.finditer(text):
        run(example, page, namespace)
    if page.name == "which.md":
        one_liners = list(ONE_LINER.finditer(text))
        assert len(one_liners) > 15
        for one_liner in one_liners:
            run(one_liner, page, namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_python_hides_in_another_kind_of_block(page):
    text = page.read_text()
    assert {fence["kind"] for fence in FENCE.finditer(text)} <= {"python", *OTHER_KINDS}
    assert text.count("```python") + text.count(HIDDEN) == len(EXAMPLE.findall(text))


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_pages(module):
    if module in ("nc_fast.init", "nc_fast.distributed"):
        pytest.importorskip("torch")
    if module == "nc_fast.sklearn":
        pytest.importorskip("sklearn", minversion="1.6")
    lists = re.findall(
        r"^.. autosummary::\n   :toctree: generated\n\n((?:   \w+\n)+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
    )
    with_pages = {name for names in lists for name in names.split()}
    public = set(MODULES[module] or import_module(module).__all__) - {"__version__"}
    assert public <= with_pages, f"list them in docs/api.md: {sorted(public - with_pages)}"


def prose(text):
    """The lines that can be wrapped: no code, no table, and more than one word."""
    text = FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), EXAMPLE.sub(lambda example: "\n" * example[0].count("\n"), text))
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith(("|", "    ")) and " " in line.strip():
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_fits(page):
    assert not [(number, line) for number, line in prose(page.read_text()) if len(line) > MAX_WIDTH]


@pytest.mark.parametrize("page", ROOT_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Of the pages that a forge shows and Sphinx does not build; in docs/ Sphinx looks at links itself."""
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_version_is_the_same_everywhere():
    newest = re.search(r"^## (\d\S*) - (\S*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = dict(re.findall(r"^(version|date-released): \"?([^\"\n]*)\"?$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert newest.groups() == (nc_fast.__version__, citation["date-released"])
    assert citation["version"] == nc_fast.__version__
