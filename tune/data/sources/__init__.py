"""The sources that a dataset can be read from: one module and one line below for each."""

from unfreeze.tune.data.sources import csv_list, folder
from unfreeze.tune.data.sources.source import DataSource, Found, SourceOptions

SOURCES: list[DataSource] = [
    folder.SOURCE,
    csv_list.SOURCE,
]

__all__ = ["SOURCES", "DataSource", "Found", "SourceOptions"]
