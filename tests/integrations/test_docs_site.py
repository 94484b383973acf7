"""What the site is made of: descriptions for llms.txt, and a gallery whose commands and pictures belong together."""

import re
from pathlib import Path

import pytest
from toys import loaded
from typer.testing import CliRunner

from flowhelm import operators
from flowhelm.app.options.signature import options
from flowhelm.interfaces import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_says_what_it_is_and_stands_in_the_nav():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert re.match(r'---\ndescription: "[^"\n]+\."\n---\n', page.read_text()), page.name
        if page.parent.name != "claims":  # whose index lists them
            assert f": {page.relative_to(DOCS).as_posix()}\n" in nav, page.name


def test_llms_txt_lists_sections_with_links_and_a_line_each(tmp_path):
    pytest.importorskip("mkdocs")
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File
    from mkdocs.structure.nav import Navigation, Section
    from mkdocs.structure.pages import Page

    hooks, config = loaded(DOCS / "hooks.py"), MkDocsConfig()
    config.load_dict(
        {"site_name": "a name", "site_description": "a summary", "site_dir": str(tmp_path), "docs_dir": str(DOCS)}
    )
    config.validate()
    texts = {
        "index.md": "# Start\n\nOne **sentence** of a [page](b.md). Another.",
        "b.md": '# B\n\nText.\n\n--8<-- "examples/restore.py"\n\n<!-- cards: operators -->\n',
    }
    pages = [Page(None, File(name, str(DOCS), str(tmp_path), True), config) for name in texts]
    for page, (name, text) in zip(pages, texts.items(), strict=True):
        page.title = name
        (tmp_path / name).write_text(text)
    pages[1].meta = {"description": "What B is."}
    nav = Navigation([pages[0], Section("More", [pages[1]])], pages)
    hooks.on_nav(nav)
    for page, text in zip(pages, texts.values(), strict=True):
        hooks.on_page_markdown(text, page=page)
    hooks.on_post_build(config)
    lists = "## Start\n\n- [index.md](index.md): One sentence of a page.\n\n## More\n\n- [b.md](b.md): What B is.\n\n"
    expected = f"# a name\n\n> a summary\n\n{lists}"
    assert (tmp_path / "llms.txt").read_text() == expected
    whole = (tmp_path / "llms-full.txt").read_text()
    assert "def restore(photo: str" in whole  # a program of the page stands in it
    assert all(f"### `{f.__name__}`" in whole for f in operators.ALL)
    assert "def restore(photo: str" in (tmp_path / "b.md").read_text()


def test_the_list_of_methods_leads_to_a_card_of_each():
    hooks = loaded(DOCS / "hooks.py")
    index = (DOCS / "methods.md").read_text()
    listed = set(hooks.NAMES.findall(index))
    cards = {
        (*mark, page.relative_to(DOCS).as_posix())
        for page in (DOCS / "methods").glob("*.md")
        for mark in hooks.MARK.findall(page.read_text())
    }
    assert listed == cards - {("control", "ENERGIES", "", "", "methods/steer.md")}
    # a choice leaves nobody out
    places = {(place, names) for place, names, word, _, _ in cards if word}
    for place, names in places:
        marks = [mark for mark in cards if mark[:2] == (place, names)]
        each = [found.function.name for mark in marks for found in hooks.chosen(*(part or None for part in mark[:4]))]
        assert sorted(each) == sorted(found.function.name for found in hooks.find(place, names or "ALL"))
    row = hooks.names(hooks.find("restore", "ALL"), "methods/restore.md").splitlines()[2]
    assert row.startswith("| [`hqs`](methods/restore.md#hqs) | HQS: plug-and-play half-quadratic splitting. Zhang")


def test_the_gallery_is_what_its_commands_make():
    gallery = loaded(ROOT / "examples" / "gallery.py")
    page = (DOCS / "gallery.md").read_text()
    shown = set(re.findall(r"img/gallery/(\w+)\.jpg", page))
    assert shown == {*gallery.TASKS, "steering"} == {path.stem for path in (DOCS / "img" / "gallery").iterdir()}
    for name, (file, reference, asked) in gallery.TASKS.items():
        command = next(
            line
            for line in page.splitlines()
            if line.startswith("flowhelm restore") and f" {asked['operator']}" in line
        )
        assert f"flowhelm restore {file} " in command, name
        assert ("--simulate" in command) == isinstance(reference, tuple)
        assert (f"--std {asked.get('std')}" in command) == ("std" in asked)
        for option, value in asked.get("operator_options", {}).items():
            assert f"--{option} {getattr(value, 'name', value)}" in command
            assert option in options(getattr(operators, asked["operator"]))


def test_commands_of_the_services_page_are_there():
    said = (
        CliRunner()
        .invoke(cli.loaded(), ["serve", "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
        .output
    )
    page = (DOCS / "services.md").read_text()
    part = page.partition("## Over HTTP")[2].partition("## In ComfyUI")[0]
    for flag in set(re.findall(r"`?(--[a-z]+)`?", part)):
        assert flag in said
    assert "curl -F picture=@photo.jpg" in " ".join(said.split())
