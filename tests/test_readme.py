"""What the READMEs say is so: their code runs, and their tables are the declarations'."""

import argparse
import importlib
import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

import pipelines
import schemas
from pipelines.arguments import parse_arguments
from runners.local.flink import CONFIGURATION
from runners.local.jars import COORDINATES, fetch_jars
from schemas.feeds import FEEDS
from schemas.pages import page
from schemas.tables import metrics, tables
from schemas.traffic import TRAFFIC
from tests.monitoring import ALERTS, alerts_of
from tests.services import require_maven

FLINK_OPTIONS = "org/apache/beam/runners/flink/FlinkPipelineOptions.class"
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_s_transform_passes_the_readme_s_test():
    namespace: dict = {"__name__": "readme"}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, namespace)
    namespace["test_refused_rows"]()


def test_the_readme_s_tables_are_the_declaration_s():
    for table in tables(TRAFFIC):
        assert table in README


def test_the_runners_page_has_the_metrics_and_alerts_that_there_are():
    page = (ROOT / "runners" / "README.md").read_text()
    assert metrics() in page
    assert set(re.findall(r"^\| `(\w+)` \| (?:page|ticket): ", page, re.MULTILINE)) == alerts_of(
        ALERTS.read_text()
    )


def test_the_readmes_links_lead_somewhere():
    for readme in ROOT.glob("**/README.md"):
        if ".venv" not in readme.parts:
            for target in re.findall(r"\]\(([^)#:]+)\)", readme.read_text()):
                assert (readme.parent / target).exists(), f"{readme}: {target}"


def options_of_flink_s_job_server() -> set[str]:
    """It alone declares them: `getMaxBundleSize` is --max_bundle_size."""
    _, artifact, version = COORDINATES["flink"][0].split(":")
    with zipfile.ZipFile(fetch_jars("flink") / f"{artifact}-{version}.jar") as jar:
        getters = re.findall(rb"get([A-Z]\w+)", jar.read(FLINK_OPTIONS))
    return {re.sub(r"(?<!^)([A-Z])", r"_\1", name.decode()).lower() for name in getters}


def test_the_options_that_the_page_on_scaling_names_exist():
    require_maven()
    page = (ROOT / "runners" / "README.md").read_text()
    scaling = page[page.index("## Scaling") : page.index("## Prism")]
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    known = {flag.removeprefix("--") for flag in parsers[0]._option_string_actions}
    known |= options_of_flink_s_job_server()
    known |= {"flink-master", "s3_"}  # the job server's own; the group of options of S3
    known |= vars(parse_arguments(TRAFFIC, ["--topic", "t"])).keys()
    named = set(re.findall(r"--([a-z][a-z0-9_-]+)", scaling))
    assert len(named) > 15
    assert named <= known, named - known
    settings = set(re.findall(r"taskmanager\.[\w.-]*\w", scaling))
    assert settings <= set(CONFIGURATION), settings - set(CONFIGURATION)


FEEDS_PAGE = (ROOT / "schemas" / "README.md").read_text()


def test_the_pages_of_feeds_are_the_declarations():
    for feed in FEEDS.values():
        assert page(feed) in FEEDS_PAGE, "write it anew: python -m schemas.pages"


def test_two_files_make_a_feed(tmp_path, monkeypatch):
    """The worked example of the feeds' page: the packages find its two files in a folder beside their own."""
    declaration, job = re.findall(r"```python\n(.*?)```", FEEDS_PAGE, re.DOTALL)
    for package, text in ((schemas, declaration), (pipelines, job)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "rivers.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    (readings,) = re.findall(r"```csv\n(.*?)```", FEEDS_PAGE, re.DOTALL)
    (tmp_path / "rivers.csv").write_text(readings)
    main = importlib.import_module("pipelines.rivers").main
    assert main([f"--input={tmp_path / 'rivers.csv'}", f"--output={tmp_path / 'out'}"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    accounts = [summary[name] for name in ("read", "accepted", "duplicates", "dead_letters")]
    assert accounts == [4, 2, 1, {"level_m_out_of_range": 1}]
    (file,) = (tmp_path / "out" / "processed" / "aggregates").rglob("*.parquet")
    (hour,) = pq.read_table(file, partitioning=None).to_pylist()
    assert (hour["avg_level"], hour["max_level"]) == (1.5, 1.75)
