"""Tables as past studies: real files, rows to trials, and a line for whatever is wrong."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import autometa
from autometa.archives.columns import Columns
from autometa.archives.table import from_table
from autometa.archives.table_files import read_table, table_name
from autometa.errors import ConfigError
from autometa.past import PastStudy

RUNS = """\
,run,epoch,loss,rate,layers,act,flag,took
0,b,20,1.5,0.5,3,None,True,8
1,a,0,2.5,1e-3,,relu,,1
2,b,0,2.0,0.5,3,None,True,4
3,c,0,nan,0.25,5,relu,False,2
4,a,20,inf,1e-3,,relu,,3
5,d,0,-1.0,64.0,4,relu,False,1
"""
BY_RUN = Columns("loss", "minimize", rung="epoch", trial="run", seconds="took")


def written(folder: Path, text: str, name: str = "runs.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def read(file: Path, columns: Columns) -> list[PastStudy]:
    return from_table(read_table(file), columns, name=table_name(file), where=str(file))


def test_a_data_frame_is_read_as_its_file_would_be(tmp_path: Path) -> None:
    frame = read_table(written(tmp_path, RUNS))
    (past,) = autometa.from_frame(frame, value="loss", direction="minimize", rung="epoch", trial="run", seconds="took")
    (expected,) = read(tmp_path / "runs.csv", BY_RUN)
    assert (past.name, past.digest, past.direction) == ("table", expected.digest, "minimize")
    by_run = autometa.from_frame(frame, value="loss", direction="minimize", task="run", name="mine")
    assert [study.name for study in by_run] == ["mine-b", "mine-a", "mine-c", "mine-d"]
    with pytest.raises(ConfigError, match="table has no such column"):
        autometa.from_frame(frame, value="accuracy", direction="maximize")
    with pytest.warns(UserWarning, match="column host is the same in all rows"):
        autometa.from_frame(frame.assign(host="x"), value="loss", direction="minimize", ignore=["run", "took", "epoch"])


def test_rows_of_a_trial_become_its_curve(tmp_path: Path) -> None:
    (past,) = read(written(tmp_path, RUNS), BY_RUN)
    assert (past.name, past.direction, past.rungs) == ("runs", "minimize", 2)
    b, a, c, d = past.trials
    assert [(r.rung, r.value, r.seconds) for r in b.curve] == [(1, 2.0, 4.0), (2, 1.5, 8.0)]
    assert [(r.rung, r.value) for r in a.curve] == [(1, 2.5)], "up to the value that is none"
    assert [t.state for t in past.trials] == ["complete", "fail", "fail", "pruned"]
    assert b.values == {"rate": 0.5, "layers": 3, "act": "None", "flag": True}
    assert type(b.values["layers"]) is int, "although other cells of the column are empty"
    assert type(d.values["rate"]) is float
    assert a.values == {"rate": 0.001, "act": "relu"}, "an empty cell is a parameter that plays no part"
    assert c.curve == ()
    assert math.isnan(b.curve[0].half_width)


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = read_table(written(tmp_path, RUNS))
    frame.to_parquet(tmp_path / "runs.parquet")
    frame.set_index("run").to_parquet(tmp_path / "indexed.parquet")
    (csv,), (parquet,) = read(tmp_path / "runs.csv", BY_RUN), read(tmp_path / "runs.parquet", BY_RUN)
    (indexed,) = read(tmp_path / "indexed.parquet", BY_RUN)
    assert repr(csv.trials) == repr(parquet.trials) == repr(indexed.trials)


def test_parquet_without_pyarrow_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'autometa-search\[parquet\]'"):
        read_table(written(tmp_path, "PAR1", "x.parquet"))


def test_rows_with_the_same_parameters_are_one_trial(tmp_path: Path) -> None:
    text = "epoch,loss,rate,act\n3,5,0.5,\n9,4,0.5,\n3,6,0.5,relu\n9,7,0.25,\n3,8,0.25,\n"
    (past,) = read(written(tmp_path, text), Columns("loss", "minimize", rung="epoch"))
    assert [{r.rung: r.value for r in t.curve} for t in past.trials] == [{1: 5, 2: 4}, {1: 6}, {1: 8, 2: 7}]
    assert [t.values for t in past.trials] == [{"rate": 0.5}, {"rate": 0.5, "act": "relu"}, {"rate": 0.25}]


def test_each_task_is_a_study_with_rungs_of_its_own(tmp_path: Path) -> None:
    text = "task,step,score,x,id\nb,1,0.5,1,0\na,10,0.25,1,0\nb,2,0.75,1,0\na,20,0.125,1,0\nb,1,0.375,2,1\n"
    columns = Columns("score", "maximize", rung="step", task="task", trial="id", rename={"x": "size"})
    b, a = read(written(tmp_path, text), columns)
    assert [(s.name, s.dataset, len(s.trials)) for s in (b, a)] == [("runs-b", "b", 2), ("runs-a", "a", 1)]
    assert [(r.rung, r.value) for r in a.trials[0].curve] == [(1, 0.25), (2, 0.125)]
    assert [t.values for t in b.trials] == [{"size": 1}, {"size": 2}]
    assert [t.state for t in b.trials] == ["complete", "pruned"]


def test_states_are_taken_at_their_word(tmp_path: Path) -> None:
    text = "v,x,s\n1,1,COMPLETE\n2,2,TrialState.PRUNED\n1e9,3,failed\n,4,pruned\n,5,ok\n7,6,RUNNING\n"
    (past,) = read(written(tmp_path, text), Columns("v", "minimize", state="s"))
    assert [t.state for t in past.trials] == ["complete", "pruned", "fail", "pruned", "fail"]
    assert [len(t.curve) for t in past.trials] == [1, 0, 0, 0, 0], "where it was pruned nobody noted; 1e9 is a penalty"


def test_params_and_ignore_choose(tmp_path: Path) -> None:
    file = written(tmp_path, "a,b,c,v\n1,2,3,4\n")
    assert read(file, Columns("v", "maximize", params=["b", "a"]))[0].trials[0].values == {"b": 2, "a": 1}
    assert read(file, Columns("v", "maximize", ignore=["b"]))[0].trials[0].values == {"a": 1, "c": 3}


@pytest.mark.parametrize(("name", "stem"), [("a.b.csv", "a.b"), ("DeepAR.csv.zip", "DeepAR"), ("x.PARQUET", "x")])
def test_a_table_is_called_after_its_file(name: str, stem: str) -> None:
    assert table_name(Path(name)) == stem


def test_compressed_and_tabbed_files_are_read(tmp_path: Path) -> None:
    pd.DataFrame({"a": [5], "v": [2]}).to_csv(tmp_path / "t.csv.gz", index=False)
    assert read(tmp_path / "t.csv.gz", Columns("v", "maximize"))[0].trials[0].values == {"a": 5}
    (tmp_path / "t.tsv").write_text("a\tv\n7\t2\n")
    assert read(tmp_path / "t.tsv", Columns("v", "maximize"))[0].trials[0].values == {"a": 7}


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("", {}, "No columns to parse"),
        ("a,v\n", {}, "no rows"),
        ("a,a,v\n1,2,3\n", {}, "two columns are called 'a'"),
        ("a,v\n1,2,3\n", {}, "a row has more cells than the header"),
        ("a,v\n1,2\n1,2,3\n", {}, "Expected 2 fields in line 3, saw 3"),
        ('a,v\n"1,2\n', {}, "EOF inside string"),
        ("a,v\n1,2\n3,many\n", {}, "row 2: v is 'many', not a number"),
        ("a,v\ninf,2\n", {}, "row 1: a is inf"),
        ("a,v\n1,2\n", {"rung": "epoch"}, "--rung epoch: "),
        ("a,v\n1,2\n", {"ignore": ["aa"]}, "did you mean 'a'?"),
        ("a,v\n1,2\n", {"ignore": ["a"]}, "no column is left for parameters"),
        ("a,v\n1,2\n", {"params": ["v"]}, "--params v: this column is the value"),
        ("a,b,v\n1,2,3\n", {"rename": {"a": "b"}}, "two columns would become the parameter 'b'"),
        ("a,e,v\n1,,2\n", {"rung": "e"}, "row 1: e is no number"),
        ("a,e,v\n1,1,2\n1,1,2\n", {"rung": "e"}, "rows 1 and 2 are the same trial at the same rung"),
        ("a,e,v\n1,1,2\n2,3,2\n", {"rung": "e"}, "no two rows have the same parameters"),
        ("a,t,v\n1,1,2\n2,1,2\n", {"trial": "t"}, "say in which column: --rung COLUMN"),
        ("a,t,v\n1,,2\n", {"trial": "t"}, "row 1: t is empty"),
        ("a,t,e,v\n1,7,1,2\n2,7,2,2\n", {"trial": "t", "rung": "e"}, "row 2: a differs from another row"),
        ("a,t,v\n1,x,2\n2,,2\n", {"task": "t"}, "row 2: t is empty"),
        ("a,s,v\n1,1,2\n1,-3,2\n", {"seconds": "s"}, "row 2: s may not be negative or infinite (got -3)"),
        ("a,s,v\n1,won,2\n", {"state": "s"}, "row 1: s is 'won'; it may be complete"),
    ],
)
def test_what_is_wrong_is_said_by_row_and_column(tmp_path: Path, text: str, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, text), Columns("v", "maximize", **columns))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
