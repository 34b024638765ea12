"""`imgembed doctor`: what it finds, what it advises, and that it tells no secret."""

import errno
import functools
import json
import os
import tempfile

import pytest
from small_logs import run_command

from cli import doctor_machine, doctor_packages, machine
from cli.doctor_machine import file_system, java_version
from cli.findings import FAILED, OK, WARNING
from cli.settings import load
from pipeline import rehearsal
from pipeline.config import RunnerConfig
from pipeline.errors import ImgembedError
from pipeline.runner import make_pipeline


@pytest.fixture
def doctor(tmp_path, capfd):
    """Gives (exit code, {name: finding}) of the command."""

    def call(*options):
        code = run_command("doctor", "--json", "--run-dir", tmp_path / "run", *options)
        content = json.loads(capfd.readouterr().out)
        assert content["ok"] == (code == 0)
        return code, {finding["name"]: finding for finding in content["findings"]}

    return call


def found(name, **flags):
    """The finding of that name about this machine."""
    config = load(None, flags={key.replace("__", "."): value for key, value in flags.items()})
    return {finding.name: finding for finding in doctor_machine.findings(config)}[name]


def test_where_everything_is_there_it_says_so_and_writes_nothing(doctor, tmp_path):
    code, findings = doctor()
    assert code == 0
    assert list(findings) == [
        "python", "packages", "cores", "memory", "disk", "temp space", "gpu", "credentials", "java",
        "trial",
    ]  # fmt: skip
    assert findings["packages"]["state"] == OK
    assert "tensorflow 2." in findings["packages"]["found"]
    assert "counted every row" in findings["trial"]["found"]
    assert not (tmp_path / "run").exists()


def test_what_fails_is_an_exit_code_and_says_what_to_do(doctor, tmp_path, capfd):
    code, findings = doctor("--runner", "dataflow")
    assert code == 1
    assert findings["trial"]["state"] == FAILED
    assert "--project is missing" in findings["trial"]["found"]
    assert "Beam's options after `--`" in findings["trial"]["advice"]
    assert all(finding["advice"] for finding in findings.values() if finding["state"] != OK)
    assert run_command("doctor", "--runner", "dataflow", "--run-dir", tmp_path / "run") == 1
    printed = capfd.readouterr().out
    assert "✗ trial" in printed
    assert printed.endswith("checks failed: trial\n")


def test_credentials_are_there_or_not_and_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    assert found("credentials").state == OK
    wanted = {"sessions__path": "gs://bucket/logs"}
    assert found("credentials", **wanted).state == WARNING
    key = tmp_path / "very-secret-name.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    missing = found("credentials", **wanted)
    assert missing.state == FAILED
    key.write_text('{"private_key": "hush"}')
    there = found("credentials", **wanted)
    assert there.state == OK
    for finding in (missing, there):
        assert "secret" not in str(finding)
        assert "hush" not in str(finding)


@pytest.mark.parametrize(
    ("free", "state"), [(10**8, FAILED), (2 * 10**9, WARNING), (10**11, OK), (None, OK)]
)
def test_memory_is_enough_little_or_too_little(monkeypatch, free, state):
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: free)
    assert found("memory").state == state


@pytest.mark.parametrize(("free", "state"), [(10**7, FAILED), (10**9, WARNING), (10**11, OK)])
def test_a_disk_is_large_small_or_full(monkeypatch, free, state):
    monkeypatch.setattr(doctor_machine, "available_disk", lambda _: free)
    assert found("disk").state == state


def test_cores_are_those_that_a_control_group_leaves(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    files = {"/sys/fs/cgroup/cpu.max": "250000 100000\n"}
    monkeypatch.setattr(doctor_machine, "text", lambda path: files.get(path, ""))
    finding = found("cores")
    assert (finding.state, finding.found) == (WARNING, "2.5 of 64 may be used")
    assert "--workers 2" in finding.advice
    files["/sys/fs/cgroup/cpu.max"] = "max 100000\n"
    assert found("cores").state == OK


def test_temporary_files_in_memory_are_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_machine, "file_system", lambda _: "tmpfs")
    finding = found("temp space")
    assert finding.state == WARNING
    assert "TMPDIR" in finding.advice


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(monkeypatch):
    mounts = "a / ext4 rw 0 0\nb /data xfs rw 0 0\nc /data/my\\040disk tmpfs rw 0 0\n"
    monkeypatch.setattr(doctor_machine, "text", lambda _: mounts)
    names = ("/data/my disk/x", "/data/my", "/database", "/data")
    assert [file_system(name) for name in names] == ["tmpfs", "xfs", "ext4", "xfs"]


def program(path, said):
    path.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ('openjdk version "17.0.9" 2023-10-17', 17),
        ('java version "1.8.0_202"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("The operation could not be completed.", None),
    ],
)
def test_the_version_of_java_is_what_it_says(tmp_path, said, number):
    assert java_version(program(tmp_path / "java", said)) == number
    assert java_version(str(tmp_path / "nothing")) is None


def test_java_is_needed_for_flink_alone(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "java", 'java version "1.8.0_202"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert found("java").state == WARNING
    assert found("java", runner__name="flink").state == FAILED
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("java").state == OK
    assert "set JAVA_HOME" in found("java", runner__name="flink").advice


def test_a_package_of_another_version_or_none_is_a_conflict(monkeypatch):
    needs = {
        "imgembed": ["a>=2", "b[x]", 'c; extra == "x"'],
        "a": [],
        "b": ['d>1; extra == "x"', "e"],
    }
    there = {"a": "1.0", "b": "1", "d": "1"}

    def version(name):
        if name not in there:
            raise doctor_packages.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(doctor_packages, "requires", lambda name: needs.get(name))
    monkeypatch.setattr(doctor_packages, "version", version)
    assert sorted(doctor_packages.conflicts("imgembed")) == [
        "b needs d >1, there is 1",
        "b needs e, which is missing",
        "imgembed needs a >=2, there is 1.0",
    ]


def test_a_runner_that_loses_an_element_does_not_pass(monkeypatch):
    make = functools.partial(make_pipeline, RunnerConfig())
    rehearsal.rehearse(make)
    count = rehearsal.runner.counters
    lossy = {"rehearsal/grouped": 999}
    monkeypatch.setattr(rehearsal.runner, "counters", lambda result: count(result) | lossy)
    with pytest.raises(ImgembedError, match="'grouped': 1000.*found.*'grouped': 999"):
        rehearsal.rehearse(make)


def test_free_memory_is_the_least_that_anyone_tells(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 5 kB\n",
        "/sys/fs/cgroup/memory.max": "3000\n",
        "/sys/fs/cgroup/memory.current": "1000\n",
    }
    monkeypatch.setattr(machine, "text", lambda path: files.get(path, ""))
    assert machine.available_memory() == 2_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert machine.available_memory() == 5 * 1024


def test_without_a_place_for_temporary_files_it_says_the_rest(doctor, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", nowhere)
    code, findings = doctor()
    assert code == 1
    assert findings["trial"]["state"] == FAILED
    assert "No usable temporary directory" in findings["trial"]["found"]
    assert "TMPDIR" in findings["trial"]["advice"]
