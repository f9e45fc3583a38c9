"""Writes each feed's Avro schema: `python -m schemas.avro`."""

import json

from schemas.avro import FOLDER, avro_schema
from schemas.feeds import FEEDS

for feed in FEEDS.values():
    text = json.dumps(avro_schema(feed), indent=2, ensure_ascii=False)
    (FOLDER / f"{feed.name}.avsc").write_text(text + "\n", encoding="utf-8")
