"""The graph of a stream, as a savepoint knows it."""

import apache_beam as beam
from apache_beam.portability.api import beam_runner_api_pb2

from schemas.traffic import TRAFFIC
from transforms.decode_json import DecodeJson
from transforms.kafka_stream import ReadForever
from transforms.partitions import Topic


def test_what_comes_before_a_step_with_state_has_a_label_that_stays():
    """Flink knows such a step by the name of its input; that of a lambda has the number of its line."""
    pipeline = beam.Pipeline()
    source = ReadForever(TRAFFIC, ("traffic-raw",), {}, DecodeJson(TRAFFIC, "UTC").decode, 300, 0, 30, 1)
    _ = pipeline | beam.Create([], reshuffle=False).with_output_types(Topic) | source
    components = pipeline.to_runner_api().components
    inputs = []
    for transform in components.transforms.values():
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            if payload.state_specs or payload.timer_family_specs:
                inputs += [components.pcollections[each].unique_name for each in transform.inputs.values()]
    assert len(inputs) == 2
    assert not [name for name in inputs if "lambda" in name], inputs
