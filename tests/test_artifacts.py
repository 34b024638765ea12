"""The run directory: what is committed is read, what is not leaves no trace."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from small_logs import run_command

from pipeline import locking, storage
from pipeline.artifacts import (
    RunDir,
    Version,
    check_undamaged,
    damage,
    file_marks,
    fingerprint,
)
from pipeline.errors import ImgembedError


def commit(run, stage="graph", **content):
    with run.begin(stage) as new:
        storage.write_atomic(new.file("data.txt"), b"data")
        return new.commit(content)


def test_readers_open_what_was_committed_last(tmp_path):
    run = RunDir.open(str(tmp_path / "run"))
    assert run.current("graph") is None
    commit(run, number=1)
    commit(run, number=2)
    version = RunDir.open(str(tmp_path / "run")).require("graph")
    assert (version.name, version.manifest["number"]) == ("v0002", 2)
    assert Path(version.file("data.txt")).read_text() == "data"


def test_a_stage_that_fails_leaves_the_former_version_and_nothing_else(tmp_path):
    run = RunDir.open(str(tmp_path))
    commit(run)

    def crash():
        with run.begin("graph") as new:
            storage.write_atomic(new.file("half.txt"), b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert run.require("graph").name == "v0001"
    assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0001"]


def test_a_version_that_was_written_but_not_committed_is_not_read(tmp_path):
    run = RunDir.open(str(tmp_path))
    commit(run)
    # As a machine leaves it that loses power before CURRENT is written.
    (tmp_path / "graph" / "v0002").mkdir()
    (tmp_path / "graph" / "v0002" / "half.txt").write_text("half")
    assert run.require("graph").name == "v0001"
    with run.begin("graph") as new:
        assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0001", "v0002"]
        assert os.listdir(new.path) == []
        new.commit({})
    assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0001", "v0002"]


def test_a_version_that_a_crash_left_between_its_manifest_and_current_is_whole(tmp_path):
    run = RunDir.open(str(tmp_path))
    commit(run, fingerprint="one")
    shutil.copytree(tmp_path / "graph" / "v0001", tmp_path / "graph" / "v0002")
    (tmp_path / "graph" / "v0002" / "manifest.json").write_text(
        '{"stage": "graph", "fingerprint": "two"}'
    )
    assert run.require("graph").name == "v0001"
    with pytest.raises(RuntimeError), run.begin("graph"):
        raise RuntimeError
    found = run.with_fingerprint("graph", "two")
    assert found.name == "v0002"
    run.put_in_force(found)
    assert run.require("graph").name == "v0002"
    assert run.with_fingerprint("graph", "three") is None


def test_without_a_lock_nothing_of_another_run_is_removed_before_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_take", lambda folder: (False, list))  # as in some buckets
    run = RunDir.open(str(tmp_path))
    commit(run)
    (tmp_path / "graph" / "v0002").mkdir()
    with run.begin("graph") as new:
        assert new.name == "v0003"
        assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0001", "v0002", "v0003"]
        new.commit({})
    assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0001", "v0003"]


def test_what_is_committed_stays_whatever_comes_right_after(tmp_path):
    run = RunDir.open(str(tmp_path))

    def interrupted():
        with run.begin("graph") as new:
            new.commit({})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert run.require("graph").name == "v0001"


def test_old_versions_go_only_after_a_commit_and_the_last_two_stay(tmp_path):
    run = RunDir.open(str(tmp_path))
    for _ in range(4):
        commit(run)
    assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0003", "v0004"]


def test_more_old_versions_stay_where_the_run_directory_is_to_keep_them(tmp_path):
    run = RunDir.open(str(tmp_path), keep=3)
    for _ in range(5):
        commit(run)
    assert sorted(os.listdir(tmp_path / "graph")) == ["CURRENT", "v0003", "v0004", "v0005"]


def test_what_a_rollback_stepped_back_from_outlives_the_next_commit_and_not_the_one_after(tmp_path):
    run = RunDir.open(str(tmp_path), keep=3)
    for _ in range(3):
        commit(run)
    run.put_in_force(run.version("graph", "v0001"))
    run = RunDir.open(str(tmp_path), keep=2)
    with pytest.raises(RuntimeError), run.begin("graph"):
        raise RuntimeError
    assert [v.name for v in run.whole("graph")] == ["v0001", "v0002", "v0003"]
    assert commit(run).name == "v0004"
    assert [v.name for v in run.whole("graph")] == ["v0001", "v0002", "v0003", "v0004"]
    commit(run)
    assert [v.name for v in run.whole("graph")] == ["v0004", "v0005"]


def test_the_number_of_a_version_that_was_removed_is_not_given_again(tmp_path):
    run = RunDir.open(str(tmp_path), keep=3)
    first = commit(run)
    others = [commit(run), commit(run)]
    run.put_in_force(first)
    for version in reversed(others):
        run.remove(version)
    assert [version.name for version in run.whole("graph")] == ["v0001"]
    assert commit(RunDir.open(str(tmp_path))).name == "v0004"
    assert commit(RunDir.open(str(tmp_path))).name == "v0005"


def test_what_is_in_force_is_not_removed_and_what_is_not_whole_not_put_in_force(tmp_path):
    run = RunDir.open(str(tmp_path))
    version = commit(run)
    with pytest.raises(ImgembedError, match="is in force"):
        run.remove(version)
    newer = commit(run)
    Path(version.file("manifest.json")).unlink()
    with pytest.raises(ImgembedError, match="is gone, or not whole"):
        run.put_in_force(version)
    assert run.require("graph") == newer


# Killed between any two writes --------------------------------------------------------------------

CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate"}
PARTS = ("a.txt", "b.txt", "c.txt")


def dies_at(number, work):
    """Whether a process that does some work dies just before its n-th change to the disk."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event, arguments):
            nonlocal left
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in CHANGES or writes:
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def make(run, *, mark):
    with run.begin("graph") as new:
        for name in PARTS:
            storage.write_atomic(new.file(name), name.encode())
        new.commit({"fingerprint": mark})


def check_whole(run):
    """Every version that looks whole has all its files, and one of them is in force."""
    whole = run.whole("graph")
    for version in whole:
        assert [Path(version.file(name)).read_text() for name in PARTS] == list(PARTS)
    assert run.require("graph").name in {version.name for version in whole}
    return [version.name for version in whole]


WORK = {
    "commit": lambda run: make(run, mark="new"),
    "rollback": lambda run: run.put_in_force(run.version("graph", "v0001")),
    "prune": lambda run: run.remove(run.version("graph", "v0001")),
}


@pytest.mark.parametrize("work", WORK)
def test_killed_before_any_write_nothing_half_is_visible_and_the_next_run_is_as_ever(
    tmp_path, work
):
    deaths = 0
    for number in range(1, 100):
        run = RunDir.open(str(tmp_path / str(number)))
        for mark in ("old", "older"):
            make(run, mark=mark)
        assert check_whole(run) == ["v0001", "v0002"]
        died = dies_at(number, lambda run=run: WORK[work](run))
        deaths += died
        in_force = run.require("graph").name
        check_whole(run)
        if died:
            allowed = {"commit": ("v0002", "v0003"), "rollback": ("v0001", "v0002")}
            assert in_force in allowed.get(work, ("v0002",))
        make(run, mark="next")  # which takes away what the death has left
        names = check_whole(run)
        assert run.require("graph").manifest["fingerprint"] == "next"
        left = sorted(
            n for n in os.listdir(tmp_path / str(number) / "graph") if n != "CURRENT.part"
        )
        assert left == ["CURRENT", *names]
        if not died:
            break
    assert not died
    assert deaths >= {"commit": 15, "rollback": 3, "prune": 7}[work]


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path):
    run = RunDir.open(str(tmp_path))
    with pytest.raises(ImgembedError, match="no model yet; make it with: imgembed train"):
        run.require("model")


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ImgembedError, match=r"holds something else \('thesis.tex'\)"):
        RunDir.open(str(tmp_path))
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "figure.png").write_text("")
    with pytest.raises(ImgembedError, match=r"graph/figure.png is not imgembed's"):
        RunDir.open(str(tmp_path))
    with pytest.raises(ImgembedError, match="is a file, not a folder"):
        RunDir.open(str(tmp_path / "thesis.tex"))


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}', '{"stage": "model"}', "null", ""])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    run = RunDir.open(str(tmp_path))
    version = commit(run)
    Path(version.file("manifest.json")).write_text(content)
    with pytest.raises(ImgembedError, match="make the stage anew with: imgembed build-graph"):
        run.current("graph")
    assert run.whole("graph") == []
    assert run.with_fingerprint("graph", "one") is None
    assert run_command("runs", "list", "--run-dir", tmp_path) == 0


@pytest.mark.parametrize("name", [b"v0009", b"", b"\xff\x00", b"../../other/graph/v0001"])
def test_a_pointer_to_what_is_no_version_is_one_line(tmp_path, name):
    commit(RunDir.open(str(tmp_path / "other")))
    run = RunDir.open(str(tmp_path / "run"))
    commit(run)
    (tmp_path / "run" / "graph" / "CURRENT").write_bytes(name + b"\n")
    with pytest.raises(ImgembedError, match="or take an older version with: imgembed runs roll"):
        run.current("graph")
    assert run_command("runs", "rollback", "graph", "v0001", "--run-dir", run.path) == 0
    assert run.require("graph").name == "v0001"


def test_a_file_that_was_cut_or_lost_after_the_commit_is_named(tmp_path):
    run = RunDir.open(str(tmp_path), keep=9)
    commit(run, fingerprint="one")
    version = commit(run, fingerprint="one")
    assert version.manifest["file_bytes"] == {"data.txt": 4}
    assert damage(version) is None
    assert run.with_fingerprint("graph", "one") == version
    os.truncate(version.file("data.txt"), 3)
    with pytest.raises(ImgembedError, match=r"data.txt: has 3 bytes, and 4 were committed; make"):
        check_undamaged(version)
    with pytest.raises(ImgembedError, match="cannot be put in force"):
        run.put_in_force(version)
    assert run.with_fingerprint("graph", "one").name == "v0001"
    os.unlink(version.file("data.txt"))
    assert damage(version) == f"{version.file('data.txt')}: is gone since it was committed"
    # A version of an earlier imgembed tells nothing of its files.
    older = {key: value for key, value in version.manifest.items() if key != "file_bytes"}
    assert damage(Version("graph", version.name, version.path, older)) is None


def test_the_manifest_is_json_in_a_fixed_order(tmp_path):
    version = commit(RunDir.open(str(tmp_path)), zebra=1, ant="ü")
    text = Path(version.file("manifest.json")).read_text()
    assert list(json.loads(text)) == ["stage", "version", "zebra", "ant", "file_bytes"]
    assert "ü" in text


def test_a_version_that_the_system_keeps_is_not_called_removed(tmp_path, monkeypatch):
    run = RunDir.open(str(tmp_path))
    first = commit(run)
    commit(run)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(storage, "remove_file", refuse)
    with pytest.raises(PermissionError):
        run.remove(first)
    assert run.version("graph", first.name) is not None


def test_a_manifest_keeps_a_path_that_is_not_utf_8(tmp_path):
    run = RunDir.open(str(tmp_path))
    commit(run, config={"path": "caf\udce9.csv"})
    assert run.require("graph").manifest["config"] == {"path": "caf\udce9.csv"}


def test_a_fingerprint_changes_with_config_inputs_upstream_and_program():
    info = storage.FileInfo("a", 1, 2.0)
    base = {"config": {"a": 1}, "inputs": [info], "upstream": [], "code": "1"}
    found = {
        fingerprint(**base),
        fingerprint(**{**base, "config": {"a": 2}}),
        fingerprint(**{**base, "inputs": [storage.FileInfo("a", 1, 3.0)]}),
        fingerprint(**{**base, "code": "2"}),
    }
    assert len(found) == 4
    assert fingerprint(**base) == fingerprint(**base)


def test_an_input_whose_name_is_not_utf_8_has_its_fingerprint():
    files = [storage.FileInfo(name, 1, 1.0) for name in ("caf\udce9.png", "caf\udce8.png")]
    assert len({fingerprint(config={}, inputs=[file], code="") for file in files}) == 2
    assert len({file_marks([file]) for file in files}) == 2


def test_hidden_files_are_no_input(tmp_path):
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "c.csv").write_text("x")
    found = [os.path.basename(info.path) for info in storage.list_files(str(tmp_path))]
    assert found == ["a.csv", "b.csv"]
    assert len(storage.list_files(str(tmp_path / "*.csv"))) == 2
