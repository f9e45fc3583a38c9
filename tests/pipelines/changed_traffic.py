"""The traffic job with a changed graph, as after an upgrade: … changed_traffic CHANGE OPTIONS."""

import sys
from dataclasses import fields

import apache_beam as beam

from pipelines import stream, traffic
from transforms.panes import SummarizePanes
from transforms.windows import GroupByWindow


class AddedStep(SummarizePanes):
    def expand(self, groups):
        return super().expand(groups | "Added" >> beam.Map(lambda group: group))


class RenamedGrouping(GroupByWindow):
    def expand(self, readings):
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        return readings | "Renamed" >> GroupByWindow(**arguments)


if __name__ == "__main__":
    change, *options = sys.argv[1:]
    match change:
        case "added_step":
            vars(stream)["SummarizePanes"] = AddedStep
        case "renamed_grouping":
            vars(stream)["GroupByWindow"] = RenamedGrouping
    sys.exit(traffic.main(options))
