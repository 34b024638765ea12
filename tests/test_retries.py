"""What an engine does again makes no difference, and a bad row is rejected once, not for ever."""

import pytest
from small_logs import clicks, files, run_command, write_log

from pipeline.artifacts import RunDir


@pytest.mark.parametrize("by", ["hash", "time"])
def test_a_bundle_that_is_done_again_changes_neither_bytes_nor_counts(tmp_path, by):
    """As an engine does whose worker has died: every bundle three times, the last one counts."""
    write_log(tmp_path / "log.jsonl", [*clicks(), {"image_id": "alone"}, {"image_id": ""}])
    manifests = []
    for name, options in (("once", []), ("again", ["--direct_runner_bundle_repeat=2"])):
        common = ("build-graph", "--sessions", tmp_path / "log.jsonl", "--quiet", "--workers", "2")
        sets = ("--set", f"holdout.by={by}", "--set", "runner.shards=3")
        assert run_command(*common, *sets, "--run-dir", tmp_path / name, "--", *options) == 0
        manifests.append(RunDir.open(str(tmp_path / name)).require("graph"))
    once, again = manifests
    assert files(again) == files(once)
    assert again.manifest["counts"] == once.manifest["counts"]
    assert again.manifest["counts"]["rows"]["rejected"] == 2


def test_a_row_that_cannot_be_read_is_rejected_once_however_often_its_bundle_is_done(tmp_path):
    rows = clicks()
    write_log(tmp_path / "log.jsonl", rows)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"image_id": "torn\n' + '{"image_id": "x", "timestamp": "never"}\n' * 2)
    run = tmp_path / "run"
    options = ("--quiet", "--run-dir", run, "--", "--direct_runner_bundle_repeat=2")
    assert run_command("build-graph", "--sessions", tmp_path / "log.jsonl", *options) == 0
    version = RunDir.open(str(run)).require("graph")
    assert version.manifest["counts"]["rows"]["rejected"] == 3
    assert version.manifest["counts"]["rows"]["read"] == len(rows) + 3
    (rejected,) = [name for name in files(version) if "rejected" in name]
    assert files(version)[rejected].count(b"\n") == 3
