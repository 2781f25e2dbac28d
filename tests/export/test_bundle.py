from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnas_hw.errors import ExportError
from spnas_hw.export.bundle import read_bundle, write_bundle

FILES = {"model.onnx": b"onnx" * 10, "model.engine": b"engine"}


def test_written_and_read(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", FILES, {"code": "b_1_0"})
    assert read_bundle(tmp_path / "b")["code"] == "b_1_0"
    assert (tmp_path / "b" / "model.onnx").read_bytes() == FILES["model.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", FILES, {"code": "old"})
    write_bundle(tmp_path / "b", {"model.onnx": b"new"}, {"code": "new"})
    assert read_bundle(tmp_path / "b")["code"] == "new"
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["metadata.json", "model.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_any_changed_byte_is_refused(tmp_path: Path, name: str, data) -> None:
    write_bundle(tmp_path / "b", FILES, {})
    content = bytearray(FILES[name])
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(ExportError, match=name):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    "metadata", ["", "{", "[]", "{}", '{"format": 99, "files": {}}', '{"format": 1, "files": 3}']
)
def test_damaged_metadata_is_refused(tmp_path: Path, metadata: str) -> None:
    write_bundle(tmp_path / "b", FILES, {})
    (tmp_path / "b" / "metadata.json").write_text(metadata)
    with pytest.raises(ExportError) as caught:
        read_bundle(tmp_path / "b")
    assert "\n" not in str(caught.value)


def test_missing_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no bundle"):
        read_bundle(tmp_path / "b")
    write_bundle(tmp_path / "b", FILES, {})
    (tmp_path / "b" / "model.engine").unlink()
    with pytest.raises(ExportError, match=r"lacks model\.engine"):
        read_bundle(tmp_path / "b")
    document = json.loads((tmp_path / "b" / "metadata.json").read_text())
    document["files"] = {"../secret": "0"}
    (tmp_path / "b" / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(ExportError):
        read_bundle(tmp_path / "b")


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(ExportError, match="no bundle"):
        write_bundle(tmp_path / "thesis", FILES, {})
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text('{"format": "something else"}')
    with pytest.raises(ExportError, match=r"no bundle \(metadata.json\)"):
        write_bundle(tmp_path / "data", FILES, {})
    write_bundle(tmp_path / "mine", FILES, {})
    (tmp_path / "mine" / "notes.txt").write_text("measured on a Monday")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        write_bundle(tmp_path / "mine", FILES, {})
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", FILES, {})


@pytest.mark.parametrize(
    ("failing", "error"), [(1, OSError(16, "Device or resource busy")), (2, OSError(5, "Input/output error"))]
)
def test_a_failing_move_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, monkeypatch, failing: int, error: OSError
) -> None:
    write_bundle(tmp_path / "b", FILES, {"code": "old"})
    real, calls = os.replace, []

    def refused(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", refused)
    assert_the_old_one_stays(tmp_path, monkeypatch, f"could not be written: {error.strerror}")


def test_a_failing_disk_leaves_the_old_bundle_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    write_bundle(tmp_path / "b", FILES, {"code": "old"})
    real = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "model.engine":
            raise OSError(28, os.strerror(28))
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert_the_old_one_stays(tmp_path, monkeypatch, "No space left")


def assert_the_old_one_stays(folder: Path, monkeypatch, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        write_bundle(folder / "b", FILES, {"code": "new"})
    monkeypatch.undo()
    assert read_bundle(folder / "b")["code"] == "old"
    assert [path.name for path in folder.iterdir()] == ["b"]
