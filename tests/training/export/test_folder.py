"""The folder of an export: whole, replaced only where it is an export as it was written."""

import json
import os

import pytest

from reverie.mistake import Mistake
from reverie.training.export.folder import KIND, MANIFEST, digest, replaced


def fill(folder, text="one"):
    (folder / "policy.c").write_text(text)
    files = {"policy.c": digest(folder / "policy.c")}
    (folder / MANIFEST).write_text(json.dumps({"kind": KIND, "files": files}))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "export" / "c"
    with replaced(place) as new:
        fill(new)
    return place


def test_an_export_takes_the_place_of_an_earlier_one(folder):
    with replaced(folder) as new:
        assert (folder / "policy.c").read_text() == "one"
        fill(new, "two")
    assert (folder / "policy.c").read_text() == "two"
    assert [path.name for path in folder.parent.iterdir()] == ["c"]


def test_an_empty_folder_may_be_filled(tmp_path):
    with replaced(tmp_path) as new:
        fill(new)
    assert (tmp_path / MANIFEST).is_file()


def test_what_fails_leaves_nothing_behind(folder, tmp_path):
    for place in (folder, tmp_path / "deep" / "er" / "c"):
        with pytest.raises(KeyError), replaced(place) as new:
            fill(new, "half")
            raise KeyError
    assert (folder / "policy.c").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def spoil_manifest(text):
    return lambda folder: (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "mine.txt").write_text("x"), "mine.txt is no file of an export"),
        (lambda folder: (folder / "policy.c").write_text("tuned"), "is not as it was exported"),
        (lambda folder: (folder / MANIFEST).unlink(), "holds policy.c and no export of ours"),
        (spoil_manifest("{}"), "is no manifest of an export"),
        (spoil_manifest('{"kind": "other", "files": {}}'), "is no manifest of an export"),
        (spoil_manifest("{"), "is damaged"),
    ],
)
def test_files_of_somebody_are_left_alone(folder, spoil, words):
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Mistake, match=words) as caught, replaced(folder):
        pytest.fail("it began")
    assert "\n" not in str(caught.value) and "output=" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_earlier_export_stays_where_the_new_one_cannot_take_its_place(folder, monkeypatch):
    rename = os.rename

    def refuse_new(source, target):
        if str(source).endswith(".new"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(Mistake, match="Input/output error; give"), replaced(folder) as new:
        fill(new, "two")
    assert (folder / "policy.c").read_text() == "one"
    assert [path.name for path in folder.parent.iterdir()] == ["c"]


def test_a_full_disk_is_one_line_and_leaves_the_earlier_export(folder):
    with pytest.raises(Mistake, match="No space left") as caught, replaced(folder):
        raise OSError(28, "No space left on device")
    assert f"could not write {folder}" in str(caught.value) and "output=" in str(caught.value)
    assert (folder / "policy.c").read_text() == "one"
    assert [path.name for path in folder.parent.iterdir()] == ["c"]


def test_a_file_a_link_and_what_comes_meanwhile_are_left_alone(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    for name in ("file", "link", "file/below"):
        with pytest.raises(Mistake, match="output="), replaced(tmp_path / name):
            pytest.fail("it began")
    with pytest.raises(Mistake, match=r"mine\.txt"), replaced(folder) as new:
        fill(new, "two")
        (folder / "mine.txt").write_text("x")
    assert (folder / "policy.c").read_text() == "one" and (folder / "mine.txt").is_file()


def test_what_a_killed_export_left_is_settled(folder, tmp_path):
    gone = next(number for number in range(400000, 999999) if not os.path.exists(f"/proc/{number}"))
    half = folder.with_name(f".c.{gone}.new")
    half.mkdir()
    os.rename(folder, folder.with_name(f".c.{gone}.old"))  # killed between its two renames
    with pytest.raises(KeyError), replaced(folder):
        raise KeyError
    assert (folder / "policy.c").read_text() == "one" and not half.exists()
