"""Writes each feed's Avro schema: `python -m schemas.avro`."""

import json

from schemas.avro import FOLDER, avro_schema
from schemas.feeds import FEEDS

for feed in FEEDS.values():
    (FOLDER / f"{feed.name}.avsc").write_text(json.dumps(avro_schema(feed), indent=2) + "\n")
