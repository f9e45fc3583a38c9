"""A client of a schema registry that speaks Confluent's API."""

from __future__ import annotations

import json
from typing import Any, cast
from urllib.parse import urlsplit

import fastavro.schema
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from schemas.avro import Schema, unreadable_fields
from transforms.errors import UserError

DEFAULT_URL = "http://127.0.0.1:8082"
CONTENT_TYPE = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
BACKWARD_LEVELS = ("BACKWARD", "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
TIMEOUT_SECONDS = 10


class SchemaRegistry:
    """Registers schemas and looks them up, each once: ids and schemas are kept.

    `url` may hold a user name and a password; no message repeats them. Connections that fail and answers of
    429 or 5xx are tried again at once, then after 0.4 s, doubling, `attempts` times in all. Every method
    raises UserError when the registry cannot be reached or refuses.
    """

    def __init__(self, url: str = DEFAULT_URL, attempts: int = 5) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self._schemas: dict[int, Schema | None] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._session = requests.Session()
        retry = Retry(
            attempts - 1,
            backoff_factor=0.2,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __repr__(self) -> str:
        return f"SchemaRegistry({self._address!r})"

    @property
    def _address(self) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def schema(self, schema_id: int) -> Schema | None:
        """The schema of that id, named types written out; None when the registry has none."""
        if schema_id not in self._schemas:
            answer = self._ask("GET", f"schemas/ids/{schema_id}", missing=True)
            self._schemas[schema_id] = answer and _parse(answer["schema"])
        return self._schemas[schema_id]

    def register(self, topic: str, schema: Schema) -> int:
        """The id of the schema of the values of that topic, registered when it is not yet.

        The subject is named by TopicNameStrategy and takes only schemas that read what was written before. So
        UserError, naming the field, for one that does not.
        """
        text = json.dumps(schema)
        if (topic, text) not in self._ids:
            subject = f"{topic}-value"
            self._keep_backward(subject)
            self._refuse_incompatible(subject, schema)
            answer = self._ask("POST", f"subjects/{subject}/versions", {"schema": text})
            self._ids[topic, text] = answer["id"]
        return self._ids[topic, text]

    def _keep_backward(self, subject: str) -> None:
        level = self._ask("GET", f"config/{subject}?defaultToGlobal=true", missing=True) or {}
        if level.get("compatibilityLevel") not in BACKWARD_LEVELS:
            self._ask("PUT", f"config/{subject}", {"compatibility": "BACKWARD"})

    def _refuse_incompatible(self, subject: str, schema: Schema) -> None:
        latest = self._ask("GET", f"subjects/{subject}/versions/latest", missing=True)
        if latest is None:
            return
        if unreadable := list(unreadable_fields(schema, _parse(latest["schema"]))):
            raise UserError(
                f"schema registry {self._address}: {subject} has version {latest['version']}, whose messages "
                f"this schema could not read: {'; '.join(unreadable)}"
            )

    def _ask(self, method: str, path: str, body: dict | None = None, missing: bool = False) -> Any:
        """The registry's answer; None for "not found", when it may be `missing`."""
        try:
            answer = self._session.request(
                method, f"{self.url}/{path}", json=body, headers=CONTENT_TYPE, timeout=TIMEOUT_SECONDS
            )
        except requests.RequestException as error:
            cause = type(error).__name__
            raise UserError(
                f"schema registry {self._address}: cannot be reached in {self.attempts} attempts ({cause})"
            ) from error
        if answer.status_code == 404 and missing:
            return None
        if not answer.ok:
            raise UserError(
                f"schema registry {self._address}: refuses {method} {path} with status {answer.status_code}: "
                f"{' '.join(answer.text.split())[:300]}"
            )
        return answer.json()


def _parse(schema: str) -> Schema:
    return cast(Schema, fastavro.schema.expand_schema(json.loads(schema)))
