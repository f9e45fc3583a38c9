"""The faults that may be planted in the simulated air quality; its rows are those of the UCI file."""

from pipelines.sample.faults import BrokenRule, Faults, Oddity
from schemas.air_quality import MEASURED

VALUES = tuple(str(field.column) for field in MEASURED)
COLUMNS = ("Date", "Time", *VALUES, "", "")

BROKEN_RULES: tuple[BrokenRule, ...] = (
    ({"Date": ""}, ("undated",)),
    ({"Date": "31/02/2004"}, ("undated",)),
    ({"Date": "2004-03-10"}, ("undated",)),
    ({"Time": ""}, ("undated",)),
    ({"Time": "24.00.00"}, ("undated",)),
    ({"Time": "18:00:00"}, ("undated",)),
    (dict.fromkeys(VALUES, "-200"), ("nothing_usable",)),
)

ODDITIES: tuple[Oddity, ...] = (
    ("no temperature", "T", lambda value: b"-200"),
    ("an empty value", "RH", lambda value: b""),
    ("nitrogen oxides out of range", "NOx(GT)", lambda value: b"1479"),
    ("a temperature out of range", "T", lambda value: b"-21,5"),
    ("a value that is no number", "PT08.S5(O3)", lambda value: b"fault"),
    ("a decimal point", "C6H6(GT)", lambda value: b"11.9"),
)

AIR_QUALITY_FAULTS = Faults(
    columns=COLUMNS,
    broken_rules=BROKEN_RULES,
    oddities=ODDITIES,
    duplicates=(("exact copy", {}), ("different benzene", {"C6H6(GT)": ("3,3", "4,4")})),
    text="Time",
    delimiter=b";",
)
