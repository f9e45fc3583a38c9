from __future__ import annotations

import pytest

from runners.local import FlinkCluster
from runners.savepoints import CannotStop, stop_with_savepoint


def test_flink_is_asked_directly_whatever_proxy_the_user_has(flink_cluster: FlinkCluster, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(CannotStop, match=r"^0 jobs of the name absent are running at"):
        stop_with_savepoint(flink_cluster.rest_url, "absent")
