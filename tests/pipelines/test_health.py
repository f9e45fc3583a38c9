from __future__ import annotations

from pipelines.health import LEAST_RECORDS, HealthWatch
from schemas.feed import Health


def test_a_stream_tells_of_what_is_now_and_of_its_recovery() -> None:
    figures = {"read": 0}
    watch = HealthWatch("air_quality", Health(most_refused=0.1, least_quality=0.7), lambda: dict(figures))
    said = []

    def pass_by(read: int, refused: int = 0, usable: int = 90) -> None:
        figures["read"] += read
        for name, amount in (("undated", refused // 2), ("nothing_usable", refused - refused // 2)):
            key = f"dead_letters-validate-{name}"
            figures[key] = figures.get(key, 0) + amount
        figures["measured"] = figures.get("measured", 0) + 100
        figures["usable"] = figures.get("usable", 0) + usable
        said.append(list(watch.look()))

    pass_by(100_000)
    pass_by(LEAST_RECORDS - 1, refused=LEAST_RECORDS - 1)
    pass_by(1)
    pass_by(LEAST_RECORDS, refused=10)
    pass_by(LEAST_RECORDS, usable=69)
    assert said == [
        [],
        [],
        ["ALERT air_quality: 99 % of the records are refused, more than 10 %"],
        ["air_quality is healthy again"],
        ["ALERT air_quality: the mean quality is 69 %, less than 70 %"],
    ]
