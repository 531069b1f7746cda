"""Hooks of the site: pages from files outside docs/, links that leave it, and Sphinx roles in docstrings."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"} | {
    f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
"""Files of the repository that are pages of the site, by their paths."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written outside docs/."""
    for path, page in OUTSIDE.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            text, pictures = as_markdown(json.loads(text), Path(page).stem)
            for name, content in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=content))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point relative links at pages of the site; one to a file that is not on it becomes plain text."""
    sources = {target: source for source, target in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def relinked(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        path, hash, anchor = target.partition("#")
        if not path or ":" in path:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        on_site = OUTSIDE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is None and (ROOT / path).exists():
            return text
        return f"{picture}[{text}]({posixpath.relpath(on_site, posixpath.dirname(page.file.src_uri))}{hash}{anchor})"

    return LINK.sub(relinked, markdown)


def as_markdown(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook with its stored outputs as a page, and its pictures by their file names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).strip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for kind, content in outputs(cell):
            if kind == "image/png":
                pictures[f"{name}_{len(pictures)}.png"] = base64.b64decode(content)
                parts.append(f"![output]({name}_{len(pictures) - 1}.png)")
            else:
                parts.append(f"```text\n{content.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(MIME type, content) of each stored output of a cell: its picture where it has one, else its text."""
    for output in cell.get("outputs", []):
        content = output.get("data", {"text/plain": output.get("text", "")})
        kind = "image/png" if "image/png" in content else "text/plain"
        yield kind, "".join(content[kind])


class PlainRoles(griffe.Extension):
    """Sphinx roles of docstrings as plain code: ``:meth:`step` `` becomes `step`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r":(?:py:)?[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
