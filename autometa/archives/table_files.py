"""Files that hold a table: CSV and Parquet, read as a pandas frame or refused with one line.

It does not know what the columns mean (`columns.py` does).
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path

import pandas as pd

from autometa.errors import ConfigError

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zip", ".parquet", ".pq")
_PARQUET = (".parquet", ".pq")

# Empty cells as pandas, numpy and R write them. "None" and "null" are not here: they are names of choices.
_EMPTY = ["", "NA", "nan", "NaN", "<NA>"]


def is_table(file: Path) -> bool:
    """Whether the name says so."""
    return file.name.lower().endswith(ENDINGS)


def table_name(file: Path) -> str:
    """The file's name without its endings."""
    ending = max((e for e in ENDINGS if file.name.lower().endswith(e)), key=len, default="")
    return file.name[: len(file.name) - len(ending)]


def read_table(file: Path) -> pd.DataFrame:
    """The table in a file; raises `ConfigError` naming the file and what is wrong with it."""
    try:
        frame = _read_parquet(file) if file.suffix.lower() in _PARQUET else _read_csv(file)
    except pd.errors.ParserWarning:
        raise ConfigError(f"{file}: not a table that can be read: a row has more cells than the header") from None
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{file}: not a table that can be read: {first}") from None
    if frame.empty:
        raise ConfigError(f"{file}: no rows")
    return frame


def _read_csv(file: Path) -> pd.DataFrame:
    separator = "\t" if ".tsv" in file.name.lower() else ","
    names = pd.read_csv(file, sep=separator, header=None, nrows=1, dtype=str, encoding="utf-8-sig").iloc[0]
    _check_names([str(name) for name in names if pd.notna(name)])
    with warnings.catch_warnings():
        # With index_col=False a row that is too long is a warning and loses its last cells.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            file,
            sep=separator,
            index_col=False,
            keep_default_na=False,
            na_values=_EMPTY,
            dtype_backend="numpy_nullable",  # an integer stays one where cells are empty
            encoding="utf-8-sig",
            low_memory=False,
        )
    # A column without a name is pandas' own row numbers.
    return frame.loc[:, names.notna().to_numpy()]


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file, dtype_backend="numpy_nullable")
    except ImportError:
        raise ConfigError(f"{file}: Parquet needs pyarrow: pip install 'autometa-search[parquet]'") from None
    if frame.index.names != [None]:
        frame = frame.reset_index()
    frame.columns = pd.Index([str(name) for name in frame.columns])
    _check_names(list(frame.columns))
    return frame


def _check_names(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}")
