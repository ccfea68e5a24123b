"""A figure as one HTML file that needs nothing else: plotly travels inside, so it works offline."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from autometa.errors import ConfigError

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; font-family: sans-serif; }}</style>
</head>
<body>
{figure}
</body>
</html>
"""


def write_page(file: Path, title: str, figure: go.Figure) -> None:
    """Write (or replace as a whole) a page of one figure; raises `ConfigError` where no file can be."""
    config = {"responsive": True, "displaylogo": False}
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, default_height="100%", config=config)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(_PAGE.format(title=escape(title), figure=drawn), encoding="utf-8")
        os.replace(draft, file)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{file}: {file.parent} is not a folder") from None
    except IsADirectoryError:
        draft.unlink()
        raise ConfigError(f"{file}: a folder; give the name of a file") from None
