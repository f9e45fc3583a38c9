"""What the READMEs say is so: their code runs, and their tables are the declarations'."""

import re
from pathlib import Path

from schemas.tables import tables
from schemas.traffic import TRAFFIC

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


def test_the_readmes_links_lead_somewhere():
    for readme in ROOT.glob("**/README.md"):
        if ".venv" not in readme.parts:
            for target in re.findall(r"\]\(([^)#:]+)\)", readme.read_text()):
                assert (readme.parent / target).exists(), f"{readme}: {target}"
