"""The road to a cluster, as far as it goes without one: each mistake is one sentence."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import requests
import yaml
from ray.job_submission import JobDetails, JobStatus, JobType
from rich.console import Console

from conftest import SMALL
from raythief import clusters, config
from raythief.errors import MissingKeyError, UserError
from raythief.submission import connection, jobs, package, preflight
from s3_server import answering

RAY = ray.__version__

# --- the address ------------------------------------------------------------------------------


def version(number: str) -> str:
    return json.dumps({"version": "4", "ray_version": number, "ray_commit": "", "session_name": ""})


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in connection.VARIABLES:
        monkeypatch.setenv(name, "")  # and what a test's connection sets is undone


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (None, "--address is missing: give the address of the cluster's dashboard, as http://"),
        ("head:8265", "--address head:8265: give the address of the cluster's dashboard, as "),
        ("ray://head:10001", "--address ray://head:10001: give the address of the cluster's dash"),
        ("http://head:port", "--address http://head:port: write it as http://HEAD:8265"),
        ("http://[::1:8265", "--address http://[::1:8265: write it as http://HEAD:8265"),
        ("http://127.0.0.1:1", "--address http://127.0.0.1:1: nobody answers (Connection refused)"),
        ("http://no-such-host.invalid", "--address http://no-such-host.invalid: nobody answers ("),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(address: str | None, sentence: str):
    with pytest.raises(UserError) as caught:
        connection.connect(address)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, "", "is no dashboard of a Ray cluster (Version check returned 404"),
        (200, "<html>", "is no dashboard of a Ray cluster ("),
        (401, "Missing", "the cluster asks for a token; export RAY_AUTH_MODE=token and RAY_AUTH_"),
        (403, "Invalid", "the cluster does not accept this token; take the cluster's own (`ray "),
        (200, version("2.50.1"), f"the cluster runs Ray 2.50.1 and this machine Ray {RAY}"),
    ],
)
def test_what_answers_but_will_not_do_is_a_sentence(status: int, body: str, sentence: str):
    with answering(status, body) as url, pytest.raises(UserError) as caught:
        connection.connect(url)
    assert str(caught.value).startswith(f"--address {url}: {sentence}")
    assert "\n" not in str(caught.value)


def test_the_given_address_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with answering(200, version(RAY)) as url:
        assert connection.connect(f"{url}/").get_address() == url
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1: nobody answers"):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
        connection.connect(None)


# --- what travels -----------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository with a spec, something to leave out, and something large."""
    root = tmp_path / "repository"
    for name, content in {
        "cluster/runtime_env.yaml": "working_dir: .\nexcludes: [/tests/]\nenv_vars: {A: b}\n",
        "jobs/small.yaml": yaml.safe_dump(SMALL),
        "jobs/mine.yaml": "extends: small.yaml\nname: mine\n",
        "ignored/private.yaml": yaml.safe_dump(SMALL),
        "raythief/code.py": "x = 1\n",
        "tests/test_code.py": "assert True\n",
        "data/raw/words.txt": "a" * 3000,
        ".git/HEAD": "ref",
        ".gitignore": "ignored/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def packed(path: Path, root: Path, *overrides: str, command: str = "run") -> package.Package:
    spec = config.load(path, overrides)
    with package.pack(path, spec, command, overrides, root) as found:
        return found


def test_the_repository_travels_without_what_git_and_the_environment_leave_out(repository: Path):
    found = packed(repository / "jobs/mine.yaml", repository, "seed=3")
    assert set(found.files) == {
        ".gitignore",
        "cluster/runtime_env.yaml",
        "data/raw/words.txt",
        "jobs/mine.yaml",
        "jobs/small.yaml",
        "raythief/code.py",
    }
    assert found.entrypoint == "python -m raythief.cli run jobs/mine.yaml --set seed=3"
    assert found.runtime_env["working_dir"] == str(repository)
    assert found.runtime_env["env_vars"] == {"A": "b"}


@pytest.mark.parametrize("place", ["home", "repository/ignored"])
def test_a_spec_from_elsewhere_travels_alone_with_what_it_extends(repository: Path, place: str):
    folder = repository.parent / place
    folder.mkdir(exist_ok=True)
    (folder / "id_rsa").write_text("private")
    (folder / "own.yaml").write_text(f"extends: {repository}/jobs/small.yaml\nname: own\n")
    path = folder / "own.yaml"
    spec = config.load(path)
    with package.pack(path, spec, "run", (), repository) as found:
        alone = Path(found.runtime_env["working_dir"])
        assert [file.name for file in alone.iterdir()] == ["own.yaml"]
        assert config.load(alone / "own.yaml") == spec
    assert {name for name in found.files if not name.startswith("raythief/")} == {"own.yaml"}
    assert "raythief/submission/preflight.py" in found.files
    assert [name for name in found.files if "__pycache__" in name] == []
    (module,) = found.runtime_env["py_modules"]
    assert Path(module).name == "raythief"
    assert found.entrypoint == "python -m raythief.cli run own.yaml"
    installed = packed(path, repository.parent / "site-packages")  # a wheel: no repository there
    assert (installed.files, "env_vars" in installed.runtime_env) == (found.files, False)


def test_the_id_is_that_of_spec_command_and_code(repository: Path):
    spec = repository / "jobs/small.yaml"
    first = packed(spec, repository).submission_id
    assert first.startswith("small-")
    assert packed(spec, repository).submission_id == first
    assert packed(spec, repository, "seed=1").submission_id != first
    assert packed(spec, repository, command="sweep").submission_id.startswith("small-sweep-")
    (repository / "tests/test_code.py").write_text("assert 1\n")  # does not travel
    assert packed(spec, repository).submission_id == first
    (repository / "raythief/code.py").write_text("x = 2\n")
    assert packed(spec, repository).submission_id != first


def test_a_package_that_is_too_large_names_what_is_largest(
    repository: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("data/raw/one.bin", "data/raw/two.bin", "ignored/three.bin", "weights.bin"):
        (repository / name).write_bytes(bytes(1 << 20))
    monkeypatch.setattr(package, "LIMIT_BYTES", 4 << 20)
    packed(repository / "jobs/small.yaml", repository)
    monkeypatch.setattr(package, "LIMIT_BYTES", 3 << 20)  # there are some bytes more
    with pytest.raises(UserError) as caught:
        packed(repository / "jobs/small.yaml", repository)
    assert str(caught.value) == (
        f"{repository}: 3.0 MiB would travel with the job, and a cluster takes 3.0 MiB; put data "
        "on the storage, and name what the job does not need in .gitignore or in `excludes` of "
        "cluster/runtime_env.yaml; the largest: data/raw/ (2.0 MiB), weights.bin (1.0 MiB)"
    )


@pytest.mark.parametrize("location", ["artifacts", "./a", "~/artifacts"])
def test_a_storage_of_the_laptop_is_refused(location: str):
    with pytest.raises(UserError) as caught:
        jobs.check_storage(location)
    assert str(caught.value).startswith(f"storage: {location} is a folder of this machine, which ")
    azure = "abfs://container@account.dfs.core.windows.net/x"
    for shared in ("s3://bucket/x", "s3://bucket/me@home/x?region=a", azure, "/mnt/shared"):
        jobs.check_storage(shared)


# --- jobs -------------------------------------------------------------------------------------


def details(submission_id: str, status: JobStatus, **more: Any) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=submission_id,
        status=status,
        entrypoint="python -m raythief.cli run x.yaml",
        start_time=1_000_000,
        end_time=1_065_000 if status.is_terminal() else None,
        **more,
    )


class Cluster:
    """Stands in for a client: jobs with their logs, which Ray tells from the start each time."""

    def __init__(self, *known: JobDetails, log: str = "", breaks: int = 0) -> None:
        self.jobs = {str(job.submission_id): job for job in known}
        self.log, self.breaks = log, breaks
        self.sent: list[dict[str, Any]] = []

    def list_jobs(self) -> list[JobDetails]:
        return [*self.jobs.values(), details("", JobStatus.RUNNING)]

    def get_job_info(self, job: str) -> JobDetails:
        if self.breaks:
            return details(job, JobStatus.RUNNING)
        return self.jobs[job]

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for i in range(0, len(self.log), 4):
            if self.breaks and i > len(self.log) // 2:
                self.breaks -= 1
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield self.log[i : i + 4]

    def submit_job(self, **request: Any) -> str:
        job = request["submission_id"]
        self.sent.append(request)
        self.jobs[job] = details(job, JobStatus.SUCCEEDED)
        return str(job)

    def get_job_logs(self, _: str) -> str:
        return self.log

    def stop_job(self, _: str) -> bool:
        return False


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=500)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


FOUND = preflight.MARK + json.dumps({"python": "3.11.0", "nodes": 2, "CPU": 8.0, "GPU": 1.0})


def submit(
    cluster: Cluster, path: Path, console: Console, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> int:
    monkeypatch.setattr(jobs, "connect", lambda _: cluster)
    return jobs.submit(path, ["storage=/mnt/x"], console=console, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return file


def test_a_submission_is_looked_at_first_and_kept_off_the_gpus(
    path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
):
    cluster = Cluster(log=f"noise\n{FOUND}\n")
    assert submit(cluster, path, console, monkeypatch, detach=True) == 0
    look, job = cluster.sent
    assert look["entrypoint"].startswith(
        "python -m raythief.submission.preflight run small.yaml --"
    )
    assert job["entrypoint"] == "python -m raythief.cli run small.yaml --set storage=/mnt/x"
    assert job["metadata"] == {"spec": "small"}
    for request in cluster.sent:
        assert request["entrypoint_num_gpus"] == 0
        assert request["entrypoint_resources"] == {"node:__internal_head__": 0.001}
    assert f"submitted as {job['submission_id']}" in said(console)
    assert "2 nodes, 8 CPUs, 1 GPUs\n" in said(console)


def test_gpus_that_the_cluster_may_come_to_have_are_told(
    path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
):
    cluster = Cluster(log=FOUND.replace("}", ', "most": 16.0}'))
    assert submit(cluster, path, console, monkeypatch, detach=True) == 0
    assert "8 CPUs, 1 GPUs (up to 16)" in said(console)


@pytest.mark.parametrize(
    ("earlier", "sent"),
    [
        ([JobStatus.RUNNING], None),
        ([JobStatus.PENDING], None),
        ([JobStatus.SUCCEEDED], None),
        ([JobStatus.FAILED], "-2"),
        ([JobStatus.STOPPED, JobStatus.FAILED], "-3"),
        ([JobStatus.FAILED, JobStatus.RUNNING], None),
    ],
)
def test_only_what_failed_or_was_stopped_is_submitted_again(
    earlier: list[JobStatus],
    sent: str | None,
    path: Path,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
):
    overrides = ["storage=/mnt/x"]
    with package.pack(path, config.load(path, overrides), "run", overrides) as it:
        base = it.submission_id
    names = [base, f"{base}-2", f"{base}-3"]
    known = [details(name, status) for name, status in zip(names, earlier, strict=False)]
    cluster = Cluster(*known, log=FOUND)
    assert submit(cluster, path, console, monkeypatch, detach=True) == 0
    new = [request["submission_id"] for request in cluster.sent if "metadata" in request]
    assert new == ([] if sent is None else [base + sent])
    attached = f"{known[-1].submission_id} is running already" in said(console)
    assert attached == (earlier[-1] in (JobStatus.RUNNING, JobStatus.PENDING))


def test_what_the_preflight_finds_stops_the_submission(
    path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
):
    cluster = Cluster(log=preflight.MARK + json.dumps({"error": "resources: too few"}))
    with pytest.raises(UserError, match="on the cluster: resources: too few"):
        submit(cluster, path, console, monkeypatch)
    assert len(cluster.sent) == 1
    silent = Cluster(log="sh: 1: python: not found\n")
    with pytest.raises(UserError, match=r"without an answer: sh: 1: python: not found$"):
        submit(silent, path, console, monkeypatch)


def test_a_log_is_printed_once_whatever_breaks(
    console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "_POLL_S", 0)
    log = "".join(f"line {i}\n" for i in range(30))
    cluster = Cluster(details("a", JobStatus.SUCCEEDED), log=log, breaks=3)
    assert jobs.follow(cluster, "a", console) == 0
    assert capsys.readouterr().out == log
    assert "✓ a succeeded after 0:01:05" in said(console)


def test_a_dashboard_that_no_longer_answers_is_a_sentence(
    console: Console, monkeypatch: pytest.MonkeyPatch
):
    class Away(Cluster):
        def get_job_info(self, job: str) -> JobDetails:
            raise requests.exceptions.ConnectionError

        def get_address(self) -> str:
            return "http://head:8265"

    monkeypatch.setattr(jobs, "_POLL_S", 0)
    monkeypatch.setattr(jobs, "LOST_AFTER_S", 0)
    with pytest.raises(UserError, match="http://head:8265 no longer answers; the job may go on, "):
        jobs.follow(Away(), "a", console)


def test_a_job_that_a_new_head_does_not_know_is_a_sentence(console: Console):
    class Anew(Cluster):
        failures = iter(["500: no tables yet", "404: Job a does not exist"])

        def get_job_info(self, job: str) -> JobDetails:
            raise RuntimeError(f"Request failed with status code {next(self.failures)}.")

    with pytest.raises(UserError, match=r"a: the cluster does not know it any more, .* submit it"):
        jobs.follow(Anew(), "a", console)


def test_a_log_that_nobody_reads_any_more_is_no_longer_followed(
    console: Console, monkeypatch: pytest.MonkeyPatch
):
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        jobs.follow(Cluster(details("a", JobStatus.SUCCEEDED), log="line\n"), "a", console)


def test_ctrl_c_ends_what_looks_at_the_cluster(
    path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
):
    class Interrupted(Cluster):
        ended = ""

        def get_job_info(self, job: str) -> JobDetails:
            if not self.ended:
                raise KeyboardInterrupt
            return super().get_job_info(job)

        def stop_job(self, job: str) -> bool:
            self.ended = job
            return True

    cluster = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        submit(cluster, path, console, monkeypatch)
    assert [request["submission_id"] for request in cluster.sent] == [cluster.ended]


@pytest.mark.parametrize(
    ("status", "its_code", "code"),
    [(JobStatus.FAILED, 3, 3), (JobStatus.FAILED, None, 1), (JobStatus.STOPPED, None, 1)],
)
def test_the_exit_code_is_the_jobs(
    status: JobStatus, its_code: int | None, code: int, console: Console
):
    ended = details("a", status, driver_exit_code=its_code, message="no node has room")
    assert jobs.follow(Cluster(ended), "a", console) == code
    assert ("no node has room" in said(console)) == (its_code is None)


def test_the_table_has_newest_jobs_first(console: Console):
    old = details("a-1", JobStatus.FAILED, metadata={"spec": "a"})
    new = details("b-1", JobStatus.RUNNING).model_copy(update={"start_time": 2_000_000})
    console.print(jobs.table([old, new], now=2_003.6))
    (first, second) = [line.split() for line in said(console).splitlines()[3:5]]
    assert (first[0], first[1], first[-1]) == ("b-1", "running", "0:00:04")
    assert (second[:3], second[-1]) == (["a-1", "a", "failed"], "0:01:05")


def test_jobs_of_others_and_those_that_only_look_are_not_listed(
    console: Console, monkeypatch: pytest.MonkeyPatch
):
    mine, other, look = (details(name, JobStatus.SUCCEEDED) for name in ("mine", "other", "look"))
    other.entrypoint = "python train.py"
    look.entrypoint = "python -m raythief.submission.preflight run x.yaml"
    cluster = Cluster(mine, other, look)
    monkeypatch.setattr(cluster, "list_jobs", lambda: list(cluster.jobs.values()))
    monkeypatch.setattr(jobs, "connect", lambda _: cluster)
    jobs.show(None, console)
    assert [line.split()[0] for line in said(console).splitlines()[3:-1]] == ["mine"]
    del cluster.jobs["mine"]
    jobs.show(None, console)
    assert said(console).endswith("No job there runs raythief.\n")


# --- on the cluster ---------------------------------------------------------------------------


def test_a_storage_that_is_not_the_same_everywhere_is_told(tmp_path: Path):
    assert preflight._write("n1", str(tmp_path), "look") == ""
    assert preflight._read("n1", str(tmp_path), "look", ["n1"]) == ""
    assert preflight._read("n1", str(tmp_path), "look", ["n1", "n2", "n3"]).startswith(
        f"storage: {tmp_path} is not one folder for all nodes: {{node}} finds there what 1 of 3 "
    )
    preflight._remove("n1", str(tmp_path), "look")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    below = f"{tmp_path}/file/storage"
    assert preflight._write("n1", below, "look").startswith(
        f"storage: {below} cannot be written from {{node}}: "
    )


def test_a_node_that_can_not_be_looked_at_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
):
    def fails(*_: Any) -> str:
        raise ray.exceptions.RayTaskError("_read", "Traceback\n...", PermissionError("not yours"))

    task = SimpleNamespace(remote=lambda *_: "reference")
    monkeypatch.setattr(preflight, "_on", lambda *_: task)
    monkeypatch.setattr(preflight, "_wait", lambda *_: [])
    monkeypatch.setattr(ray, "get", fails)
    node = {"NodeID": "abcdef123456", "NodeManagerAddress": "10.0.0.7"}
    with pytest.raises(UserError) as caught:
        preflight._everywhere([node], preflight._import)
    assert str(caught.value) == "node 10.0.0.7 (abcdef) cannot be looked at: not yours"


def test_the_preflight_refuses_what_a_plan_only_calls_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clusters, "connect", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(ray, "nodes", list)
    spec = str(package.ROOT / "jobs" / "vocabulary.yaml")
    assert preflight.main(["run", spec, "--set", f"data_root={tmp_path}"]) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    told = json.loads(last.removeprefix(preflight.MARK))["error"]
    assert told.startswith(f"corpus.path: there is no file at {tmp_path}/cord19/metadata.csv; put")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("No module", name="torch"), "the head lacks `torch` in "),
        (
            MissingKeyError("victim.api.key_env: the environment variable KEY is empty"),
            "victim.api.key_env: the environment variable KEY is empty; set it where `ray start` ",
        ),
        (UserError("storage: is full"), "storage: is full"),
    ],
)
def test_what_stops_the_preflight_is_its_answer(
    error: Exception,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def look(*_: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(preflight, "look", look)
    assert preflight.main(["run", "jobs/x.yaml", "--set", "a=1"]) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last.removeprefix(preflight.MARK))["error"].startswith(sentence)
