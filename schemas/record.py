"""The two schemas that hold original bytes: a record on its way in, and a dead letter on its way out."""

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, WHERE_FROM

RECORD = pa.schema(
    [
        pa.field(
            "value",
            pa.binary(),
            metadata={"description": "Original bytes; null in a message without a value."},
        ),
        *WHERE_FROM,
    ]
)

DEAD_LETTER = pa.schema(
    [
        pa.field(
            "value",
            pa.binary(),
            metadata={"description": "Original bytes, unchanged; null for a message without a value."},
        ),
        *WHERE_FROM,
        pa.field("feed", TEXT, nullable=False, metadata={"description": "The feed that it was read as."}),
        pa.field("stage", TEXT, nullable=False, metadata={"description": "The step that refused it."}),
        pa.field("reason", TEXT, nullable=False, metadata={"description": "The first rule that it broke."}),
        pa.field(
            "rules", pa.list_(pa.string()), nullable=False, metadata={"description": "All that it broke."}
        ),
        pa.field(
            "message", TEXT, nullable=False, metadata={"description": "What each rule that it broke says."}
        ),
        pa.field("failed_at", TIMESTAMP, nullable=False, metadata={"description": "Time of processing."}),
    ]
)
