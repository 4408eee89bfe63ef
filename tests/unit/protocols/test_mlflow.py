import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput
from rung.protocols.mlflow import read_csv, read_json


@given(st.binary(max_size=200))
def test_any_csv_is_read_or_refused(body: bytes) -> None:
    try:
        columns, data = read_csv(body).frame
    except InvalidInput:
        return
    assert all(len(row) == len(columns) for row in data)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_any_json_is_read_or_refused(content: object) -> None:
    for form in ("dataframe_split", "dataframe_records", "instances", "inputs"):
        try:
            read_json(json.dumps({form: content}).encode())
        except InvalidInput:
            continue


def test_csv_keeps_text_and_types() -> None:
    assert read_csv(b'name,age\n"a, b",3\nc,\n').frame == (["name", "age"], [["a, b", 3], ["c", None]])
    assert read_csv(b"1.5,2\n3,4\n").frame == (["0", "1"], [[1.5, 2], [3, 4]])


def test_only_one_form() -> None:
    with pytest.raises(InvalidInput, match="exactly one"):
        read_json(b'{"instances": [], "inputs": []}')
    with pytest.raises(InvalidInput, match="'other'"):
        read_json(b'{"instances": [1], "other": 1}')
