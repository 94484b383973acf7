"""Rows of a measurement in a file: what is read is what was written, whatever happened between."""

import pytest
import typer

from flowhelm.bench import kept

ROWS = [{"a": "1", "b": "x,y"}, {"a": "2", "b": 'two\n"lines"'}]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_rows_come_back_and_a_cut_line_goes(tmp_path, ends):
    path = tmp_path / "folder" / "rows.csv"
    assert kept.stored(path) == [] == kept.stored(None)
    kept.append(path, *ROWS)
    kept.append(path)
    kept.append(None, *ROWS)
    assert kept.read(path) == ROWS
    path.write_bytes(path.read_bytes().replace(b"\n", ends.encode()) + b'3,"cut')
    kept.append(path, {"b": "", "a": 3})  # by name, not by place
    assert kept.read(path)[0] == ROWS[0]
    assert kept.read(path)[-1] == {"a": "3", "b": ""}
    assert path.read_bytes().endswith(f"3,{ends}".encode())
    with pytest.raises(ValueError, match="c"):
        kept.append(path, {"c": 1})
    assert len(kept.read(path)) == 3  # nothing half-written
    kept.write(path, ROWS[:1])
    assert kept.read(path) == ROWS[:1]


def test_columns_that_a_row_lacks_stay_empty(tmp_path):
    path = tmp_path / "rows.csv"
    kept.append(path, {"b": 1}, columns=["a", "b"])
    assert path.read_text() == "a,b\n,1\n"
    assert kept.read(path) == [{"a": "", "b": "1"}]
    with pytest.raises(typer.BadParameter, match="no file"):
        kept.read(tmp_path / "none.csv")
