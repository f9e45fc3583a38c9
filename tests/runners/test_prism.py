"""Prism's options, and a batch job on it."""

import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.version import __version__ as beam_version

from runners import prism


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Prism and no Go: neither in the cache, nor on PATH, nor among Go's binaries."""
    monkeypatch.setattr(prism, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GOPATH", str(tmp_path / "go"))
    monkeypatch.delenv("GOBIN", raising=False)
    return tmp_path


def install(program: Path, text: str = "#!/bin/sh\n") -> Path:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("flags", [["--prism_location=mine"], ["--prism_location", "mine"]])
def test_the_users_binary_wins(flags: list[str]) -> None:
    assert prism.prism_options(flags) == flags


@pytest.mark.parametrize("place", [f"cache/prism/prism-{beam_version}", "bin/prism", "go/bin/prism"])
def test_a_binary_is_found_in_the_cache_on_path_and_where_go_installs(nowhere: Path, place: str) -> None:
    binary = install(nowhere / place)
    assert prism.prism_options(["--streaming"]) == [f"--prism_location={binary}", "--streaming"]


def test_without_binary_and_go_the_search_is_left_to_beam(nowhere: Path) -> None:
    assert prism.prism_options([]) == []


def test_go_builds_the_version_of_this_beam_once(nowhere: Path) -> None:
    builds = nowhere / "builds"
    install(nowhere / "bin" / "go", f'#!/bin/sh\necho "$@" >> {builds}\n: > "$GOBIN/prism"\n')
    built = prism.prism_options([])
    assert built == prism.prism_options([]) == [f"--prism_location={prism.find_prism()}"]
    assert builds.read_text() == f"install {prism.PACKAGE}@v{beam_version}\n"


def test_a_failed_build_leaves_the_search_to_beam(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(nowhere / "bin" / "go", "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    assert prism.prism_options([]) == []
    assert "no network" in caplog.text


# Beam's threads end with the error that Prism went away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_words_are_counted_on_prism() -> None:
    if prism.find_prism() is None and shutil.which("go") is None:
        pytest.skip("neither a prism binary nor a Go toolchain to build one")
    options = PipelineOptions(prism.prism_options(["--runner=PrismRunner"]))
    with beam.Pipeline(options=options) as pipeline:
        counts = pipeline | beam.Create(["a", "b", "a"]) | beam.combiners.Count.PerElement()
        assert_that(counts, equal_to([("a", 2), ("b", 1)]))
