"""What a stream has to be resumed with."""

import pytest

from pipelines.arguments import parse_arguments
from pipelines.stream_record import record, refuse_other_output
from schemas.air_quality import AIR_QUALITY
from transforms.errors import UserError
from transforms.files import publish_json


def test_a_stream_that_fills_gaps_is_resumed_as_it_was_started(tmp_path):
    stream = ["--topic=t", "--runner=FlinkRunner", f"--output={tmp_path}", "--clean_seconds=7200"]
    resumed = [*stream, "--savepoint_path=file:///savepoint"]
    record(parse_arguments(AIR_QUALITY, stream))
    refuse_other_output(parse_arguments(AIR_QUALITY, resumed))
    for option, started in {"fill_seconds": "10800", "clean_seconds": "7200"}.items():
        other = parse_arguments(AIR_QUALITY, [*resumed, f"--{option}=3600"])
        with pytest.raises(UserError, match=f"started with --{option} {started}, "):
            refuse_other_output(other)


def test_a_stream_that_an_older_version_started_is_resumed(tmp_path):
    """It wrote down fewer options; those it did not are not known to have changed."""
    stream = [
        "--topic=t",
        "--runner=FlinkRunner",
        f"--output={tmp_path}",
        "--savepoint_path=file:///savepoint",
    ]
    started = {"topics": ["t"], "shards": 2}
    publish_json(str(tmp_path / "air_quality-stream.json"), started)
    refuse_other_output(parse_arguments(AIR_QUALITY, stream))
    with pytest.raises(UserError, match="started with --shards 2, "):
        refuse_other_output(parse_arguments(AIR_QUALITY, [*stream, "--shards=3"]))
