"""Stopping a job on Flink with a savepoint, through Flink's REST interface."""

from __future__ import annotations

import time

import requests

ANSWER_SECONDS = 30
POLL_SECONDS = 0.5


class CannotStop(Exception):
    """The job was not stopped with a savepoint; the message says why."""


def stop_with_savepoint(rest_url: str, job: str, patience: float = 300) -> str:
    """Stops the job of that name with a savepoint; returns where the savepoint is, as a URL.

    It goes where the cluster's `state.savepoints.dir` says. CannotStop when the cluster does not answer, no
    such job runs, or the savepoint fails or takes longer than `patience` seconds.
    """
    try:
        overview = _answer(requests.get(f"{rest_url}/jobs/overview", timeout=ANSWER_SECONDS))
        ids = [each["jid"] for each in overview["jobs"] if each["name"] == job and each["state"] == "RUNNING"]
        if len(ids) != 1:
            raise CannotStop(f"{len(ids)} jobs of the name {job} are running at {rest_url}")
        stop = f"{rest_url}/jobs/{ids[0]}/stop"
        request = _answer(requests.post(stop, json={"drain": False}, timeout=ANSWER_SECONDS))["request-id"]
        return _completed(f"{rest_url}/jobs/{ids[0]}/savepoints/{request}", patience)
    except requests.RequestException as error:
        raise CannotStop(f"{rest_url}: {error}") from error


def _completed(url: str, patience: float) -> str:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status = _answer(requests.get(url, timeout=ANSWER_SECONDS))
        if status["status"]["id"] == "COMPLETED":
            operation = status["operation"]
            if "failure-cause" in operation:
                raise CannotStop(f"the savepoint failed: {operation['failure-cause']['class']}")
            return operation["location"]
        time.sleep(POLL_SECONDS)
    raise CannotStop(f"the savepoint took longer than {patience:g} s")


def _answer(response: requests.Response) -> dict:
    if response.status_code >= 400:
        raise CannotStop(f"{response.url}: {response.status_code} {response.text[:200]}")
    return response.json()
