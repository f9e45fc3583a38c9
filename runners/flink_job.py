"""What Flink tells of a running job through its REST interface: counters, checkpoints, restarts, memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import requests
from apache_beam.options.pipeline_options import PipelineOptions

from runners.savepoints import EMBEDDED, rest_url

ANSWER_SECONDS = 3
LONGEST_QUERY = 3000
MEMORY = ("Heap.Used", "NonHeap.Used", "Direct.MemoryUsed")


def flink_rest_url(options: PipelineOptions) -> str | None:
    """The REST interface of the Flink that a job with these options runs on; None where there is none."""
    given = options.get_all_options()
    url = rest_url(given.get("flink_master") or EMBEDDED)
    if url or not given.get("flink_conf_dir"):
        return url
    from runners.embedded_flink import embedded_rest_url  # the local services' packages are an extra

    return embedded_rest_url(given["flink_conf_dir"])


class FlinkJob:
    """The newest job of that name. Its methods raise `requests.RequestException` when Flink does not answer.

    Flink gathers the figures of its workers every `metrics.fetcher.update-interval` (10 s, unless it is told
    otherwise) while somebody asks, so that the first answer is empty.
    """

    def __init__(self, rest_url: str, name: str) -> None:
        self.rest_url, self.name = rest_url, name
        self.web = requests.Session()
        self.web.trust_env = False

    def counters(self, namespace: str) -> dict[tuple[str, str], int]:
        """((part of the job, name), figure) of Beam's counters and gauges in that namespace.

        A part is a subtask of an operator: the figures of a name add up over them.
        """
        job = self._id()
        figures: dict[tuple[str, str], int] = {}
        for vertex in self._get(f"jobs/{job}")["vertices"] if job else ():
            url = f"jobs/{job}/vertices/{vertex['id']}/metrics"
            ours = re.compile(rf"(\d+\..*)\.{re.escape(namespace)}_(.+)")
            named = {each["id"]: found for each in self._get(url) if (found := ours.fullmatch(each["id"]))}
            for query in _queries(named):
                for each in self._get(f"{url}?get={query}"):
                    part, name = named[each["id"]].groups()
                    figures[f"{vertex['id']}.{part}", name] = int(each["value"])
        return figures

    def checkpoints(self) -> Mapping[str, Any]:
        """Flink's `counts` of the job's checkpoints, and the `latest` ones; empty without a job."""
        job = self._id()
        return self._get(f"jobs/{job}/checkpoints") if job else {}

    def restarts(self) -> int | None:
        """How often the job was started again after a failure, once Flink has told."""
        job = self._id()
        answer = self._get(f"jobs/{job}/metrics?get=numRestarts") if job else ()
        return next((int(each["value"]) for each in answer), None)

    def memory(self) -> float | None:
        """Bytes in use by the JVMs of all TaskManagers, once Flink has told."""
        names = ",".join(f"Status.JVM.Memory.{name}" for name in MEMORY)
        answer = self._get(f"taskmanagers/metrics?get={names}&agg=sum")
        return sum(each["sum"] for each in answer) if answer else None

    def _id(self) -> str | None:
        jobs = [each for each in self._get("jobs/overview")["jobs"] if each["name"] == self.name]
        return max(jobs, key=lambda each: each["start-time"])["jid"] if jobs else None

    def _get(self, path: str) -> Any:
        answer = self.web.get(f"{self.rest_url}/{path}", timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return answer.json()


def _queries(names: Mapping[str, object]) -> Iterator[str]:
    """The names, quoted and joined by commas, in as many pieces as Flink's limit on a URL's length takes."""
    query = ""
    for name in map(quote, names):
        if query and len(query) + len(name) >= LONGEST_QUERY:
            yield query
            query = ""
        query += f",{name}" if query else name
    if query:
        yield query
