"""Stopping a job on Flink with a savepoint, through Flink's REST interface, and resuming it."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import requests

EMBEDDED = "[local]"
INSIDE_THE_JOB_SERVER = (EMBEDDED, "[auto]")
REST_PORT = 8081
ANSWER_SECONDS = 30
POLL_SECONDS = 0.5
# To a plain address the job itself goes directly, whatever proxy the environment names.
NO_PROXY = {"http": "", "all": ""}

REFUSED = re.compile(r"Failed to rollback to checkpoint/savepoint (\S+)\. (.*)", re.DOTALL)
NOT_FOUND = re.compile(r"Cannot find checkpoint or savepoint file/directory '([^']+)'")


class CannotStop(Exception):
    """The job was not stopped with a savepoint; the message says why."""


def rest_url(master: str) -> str | None:
    """Flink's REST interface at that --flink_master; None for a Flink inside the job server.

    >>> rest_url("flink"), rest_url("https://flink:443"), rest_url("[local]")
    ('http://flink:8081', 'https://flink:443', None)
    """
    if master in INSIDE_THE_JOB_SERVER:
        return None
    url = master if "://" in master else f"http://{master}"
    return url if urlsplit(url).port else f"{url}:{REST_PORT}"


def stop_with_savepoint(rest_url: str, job: str, patience: float = 300) -> str:
    """Stops the job of that name with a savepoint; returns where that is, as a URL.

    It goes where the cluster's `state.savepoints.dir` says. CannotStop when the cluster does not answer, no
    such job runs, or the savepoint fails or takes longer than `patience` seconds.
    """
    try:
        overview = _ask(f"{rest_url}/jobs/overview")
        ids = [each["jid"] for each in overview["jobs"] if each["name"] == job and each["state"] == "RUNNING"]
        if len(ids) != 1:
            raise CannotStop(f"{len(ids)} jobs of the name {job} are running at {rest_url}")
        stop = f"{rest_url}/jobs/{ids[0]}/stop"
        request = _ask(stop, {"drain": False})["request-id"]
        return _completed(f"{rest_url}/jobs/{ids[0]}/savepoints/{request}", patience)
    except requests.RequestException as error:
        raise CannotStop(f"{rest_url}: {error}") from error


def last_checkpoint(rest_url: str, job: str) -> str | None:
    """Where the newest job of that name has its last whole checkpoint, as a URL; None when unknown."""
    try:
        overview = _ask(f"{rest_url}/jobs/overview")
        started = {each["start-time"]: each["jid"] for each in overview["jobs"] if each["name"] == job}
        if not started:
            return None
        checkpoints = f"{rest_url}/jobs/{started[max(started)]}/checkpoints"
        latest = _ask(checkpoints)["latest"]["completed"]
        return latest and latest["external_path"]
    except (requests.RequestException, CannotStop):
        return None


def _completed(url: str, patience: float) -> str:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status = _ask(url)
        if status["status"]["id"] == "COMPLETED":
            operation = status["operation"]
            if "failure-cause" in operation:
                raise CannotStop(f"the savepoint failed: {operation['failure-cause']['class']}")
            return operation["location"]
        time.sleep(POLL_SECONDS)
    raise CannotStop(f"the savepoint took longer than {patience:g} s")


def _ask(url: str, order: dict | None = None) -> dict:
    """What Flink answers; an order is posted."""
    method = "GET" if order is None else "POST"
    response = requests.request(method, url, json=order, timeout=ANSWER_SECONDS, proxies=NO_PROXY)
    if response.status_code >= 400:
        raise CannotStop(f"{response.url}: {response.status_code} {response.text[:200]}")
    return response.json()


def refused_resume(failure: str) -> str | None:
    """What to say of a job that failed because Flink could not resume it; None for another failure.

    Flink's own advice, to let it skip what it cannot place, would drop the open windows while the offsets
    move on.
    """
    if found := NOT_FOUND.search(failure):
        return f"--savepoint_path {found[1]}: no savepoint or checkpoint is there"
    if found := REFUSED.search(failure):
        return (
            f"--savepoint_path {found[1]}: Flink refuses to resume this graph from it; a step that keeps "
            "state has another name or place, or the parallelism went down to 1. Nothing is lost: resume "
            f"with the version and options that wrote it ({found[2].partition('. If you want')[0]})"
        )
    return None
