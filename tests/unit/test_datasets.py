from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from app.errors import InvalidRequest
from app.events import Feedback, derive_event_id
from scripts.bad_lines import BadLine
from scripts.datasets import DataSet, find_files, read, total_bytes
from scripts.formats import Columns

REPOSITORY = Path(__file__).parents[2]


def write(folder: Path, name: str, *lines: str) -> Path:
    """Make a file of lines."""
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def short(data: DataSet) -> list[tuple[str, str, str, float | None, int | None]]:
    """Show what matters of each event."""
    return [(e.user_id, e.item_id, e.type, e.value, e.time_ms) for e in data]


def ratings(separator: str) -> list[str]:
    """Make four ratings, the last one too low and the first one the latest."""
    rows = [("1", "a", "5", "300"), ("2", "b", "4", "100"), ("1", "b", "4.5", "200")]
    return [separator.join(row) for row in [*rows, ("2", "c", "3.5", "50")]]


RATINGS = [
    ("2", "b", "rating", 4.0, 100_000),
    ("1", "b", "rating", 4.5, 200_000),
    ("1", "a", "rating", 5.0, 300_000),
]
CLICKS = [
    ("7", "x", "click", None, 1_396_437_466_940),
    ("7", "y", "click", None, 1_396_437_467_000),
]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("u.data", ratings("\t")),
        ("some-name.tsv", ratings("\t")),
        ("ratings.dat", ratings("::")),
        ("ratings.csv", ["userId,movieId,rating,timestamp", *ratings(",")]),
        ("with-a-mark.csv", ["\ufeffuserId,movieId,rating,timestamp", *ratings(",")]),
    ],
)
def test_movielens(tmp_path: Path, name: str, lines: list[str]) -> None:
    """Every MovieLens format gives the ratings of 4 and up, in the order of time."""
    data = read(write(tmp_path, name, *lines))

    assert short(data) == RATINGS
    assert (len(data), data.n_lines, data.n_filtered, data.n_bad) == (3, 4, 1, 0)
    assert data.start_ms == 100_000


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.txt", ["SessionId\tItemId\tTime", "7\ty\t1396437467", "7\tx\t1396437466.94"]),
        ("a.csv", ["SessionId,ItemId,Time", "7,y,1396437467", "7,x,1396437466.94"]),
        ("b.csv", ["Time,Extra,ItemId,SessionId", "1396437467,,y,7", "1396437466.94,,x,7"]),
        (
            "yoochoose-clicks.dat",
            ["7,2014-04-02T11:17:47.000Z,y,0", "7,2014-04-02T11:17:46.940Z,x,S"],
        ),
    ],
)
def test_sessions(tmp_path: Path, name: str, lines: list[str]) -> None:
    """Every session format gives clicks whose user is the session, with milliseconds."""
    assert short(read(write(tmp_path, name, *lines))) == CLICKS


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["timestamp,item_id,user_id", "1396437467,y,7", "1396437466.94,x,7"]),
        (
            "a.tsv",
            [
                "user_id\titem_id\ttimestamp\ttype",
                "7\ty\t1396437467\tclick",
                "7\tx\t1396437466.94\t",
            ],
        ),
        (
            "a.ndjson",
            [
                '{"user_id": "7", "item_id": "y", "timestamp": 1396437467, "more": [1]}',
                '{"user_id": 7, "item_id": "x", "timestamp": "2014-04-02T13:17:46.940+02:00"}',
            ],
        ),
    ],
)
def test_generic_text(tmp_path: Path, name: str, lines: list[str]) -> None:
    """Generic files need user, item and time; without a type and a value an event is a click."""
    assert short(read(write(tmp_path, name, *lines))) == CLICKS


def test_type_and_value(tmp_path: Path) -> None:
    """A row's own type and value are kept; with a value alone it is a rating."""
    lines = ["user_id,item_id,timestamp,type,value", "u,i,1,purchase,9.5", "u,j,2,,2", "u,k,3,,"]

    assert short(read(write(tmp_path, "a.csv", *lines))) == [
        ("u", "i", "purchase", 9.5, 1_000),
        ("u", "j", "rating", 2.0, 2_000),
        ("u", "k", "click", None, 3_000),
    ]


def test_named_columns(tmp_path: Path) -> None:
    """Columns that the caller names are used, whatever else the header would mean."""
    path = write(tmp_path, "a.csv", "who,what,when,userId,how much", '"u, 1","say ""i""",1.5,9,4')
    columns = Columns(user="who", item="what", time="when", value="how much")

    assert short(read(path, columns=columns)) == [("u, 1", 'say "i"', "rating", 4.0, 1_500)]


@pytest.mark.parametrize("unknown", ["user", "item", "time", "type", "value"])
def test_unknown_column(tmp_path: Path, unknown: str) -> None:
    """A column that the caller names and the file lacks is refused by name."""
    path = write(tmp_path, "a.csv", "user_id,item_id,timestamp,type,value", "u,i,1,click,")

    with pytest.raises(InvalidRequest, match="no column 'nope'; it has user_id, item_id"):
        read(path, columns=Columns(**{unknown: "nope"}))


def write_parquet(path: Path, **columns: Any) -> Path:
    """Make a Parquet file."""
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "times",
    [
        [1_396_437_467.0, 1_396_437_466.94],
        ["2014-04-02T11:17:47Z", "2014-04-02T11:17:46.94Z"],
        pa.array([1_396_437_467_000_000_000, 1_396_437_466_940_000_001], pa.timestamp("ns")),
        pa.array([1_396_437_467_000, 1_396_437_466_940], pa.timestamp("ms", "Europe/Zurich")),
    ],
)
def test_parquet(tmp_path: Path, times: Any) -> None:
    """Parquet's times may be numbers, text or timestamps; its ids text or whole numbers."""
    path = write_parquet(
        tmp_path / "a.parquet", user_id=[7, 7], item_id=["y", "x"], timestamp=times
    )

    assert short(read(path)) == CLICKS


def test_bad_parquet_rows(tmp_path: Path) -> None:
    """A Parquet row with a null or an odd id is bad, and known by its number."""
    n = 300
    users = [f"u{index}" for index in range(n)]
    items: list[str | None] = ["i"] * n
    items[199] = None
    path = write_parquet(tmp_path / "a.parquet", user_id=users, item_id=items, timestamp=range(n))
    bad: list[BadLine] = []

    data = read(path, on_bad=bad.append)

    assert (len(data), data.n_bad) == (n - 1, 1)
    assert [str(line) for line in bad] == [
        f"{path}:200: item_id must be text or a whole number, it is None"
    ]


def test_no_parquet(tmp_path: Path) -> None:
    """What only calls itself Parquet is refused, and so is a Parquet file without our columns."""
    with pytest.raises(InvalidRequest, match="no readable Parquet"):
        read(write(tmp_path, "a.parquet", "user_id,item_id,timestamp"))
    with pytest.raises(InvalidRequest, match="no column 'user_id'; it has who"):
        read(write_parquet(tmp_path / "b.parquet", who=["u"]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,i,1,click", "4 fields where 5 belong"),
        ("u,i,1,click,1,1", "6 fields where 5 belong"),
        (",i,1,click,1", "user id must have 1 to 256 bytes, it has 0"),
        ("u,,1,click,1", "item id must have 1 to 256 bytes, it has 0"),
        ("u,i\x07,1,click,1", "item id has a control character"),
        ("u,i,,click,1", "not RFC 3339"),
        ("u,i,yesterday,click,1", "'yesterday' is not RFC 3339"),
        ("u,i,2014-04-02T11:17:47,click,1", "has no time zone"),
        ("u,i,-1,click,1", "outside 1970 to 9999"),
        ("u,i,1e999,click,1", "not a time in Unix seconds"),
        ("u,i,1396437467000,click,1", "outside 1970 to 9999"),
        ("u,i,1,click,much", "value must be a number, it is 'much'"),
        ("u,i,1,click,nan", "value must be a number, it is 'nan'"),
        ("u,i,1,click,1_0", "value must be a number, it is '1_0'"),
        ("u,i,1,click,1e999", "value must be finite"),
        ('u,"i,1,click,1', "unexpected end of data"),
    ],
)
def test_bad_line(tmp_path: Path, line: str, message: str) -> None:
    """A bad line is reported with file and line number, counted, and skipped."""
    good = [f"u,i,{index},click,1" for index in range(200)]
    header = "user_id,item_id,timestamp,type,value"
    path = write(tmp_path, "a.csv", header, *good[:100], line, "", *good[100:])
    bad: list[BadLine] = []

    data = read(path, on_bad=bad.append)

    assert (len(data), data.n_lines, data.n_bad) == (200, 201, 1)
    assert bad[0][:2] == (path, 102)
    assert message in bad[0].message


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[1, 2]",
        b'{"user_id": "u", "item_id": "i"}',
        b'{"user_id": "u", "item_id": true, "timestamp": 1}',
        b'{"user_id": "u", "item_id": "i", "timestamp": NaN}',
        b'{"user_id": "u", "item_id": "i", "timestamp": 1' + b"0" * 400 + b"}",
        b'{"user_id": "u", "item_id": "i", "timestamp": 1, "value": [4]}',
        b'{"user_id": "u\xff", "item_id": "i", "timestamp": 1}',
    ],
)
def test_bad_json(tmp_path: Path, line: bytes) -> None:
    """A line that is no JSON object, or not of our shape, is a bad line and no more."""
    good = b'{"user_id": "u", "item_id": "i", "timestamp": 1}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(good * 100 + line + b"\n" + good * 100)

    data = read(path)

    assert (len(data), data.n_bad) == (200, 1)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A line that is not UTF-8 is a bad line."""
    path = tmp_path / "u.data"
    path.write_bytes(b"1\t2\t5\t10\n" * 150 + b"1\t\xff\t5\t10\n")

    assert read(path).n_bad == 1


def test_rating_without_a_rating(tmp_path: Path) -> None:
    """A MovieLens line whose rating is empty is bad, and no click."""
    assert read(write(tmp_path, "u.data", *["1\t2\t5\t10"] * 150, "1\t2\t\t10")).n_bad == 1


def test_too_many_bad_lines(tmp_path: Path) -> None:
    """More than 1 % bad lines is an error that shows the first of them; exactly 1 % is none."""
    good, bad = "1\t2\t5\t10", "1\t2\t5"
    read(write(tmp_path, "u.data", *[good] * 99, bad))

    path = write(tmp_path, "u.data", *[good] * 98, bad, bad)
    with pytest.raises(InvalidRequest, match=f"2 of 100 lines .*{path}:99: 3 fields"):
        read(path)


def test_wrong_file_stops_early(tmp_path: Path) -> None:
    """From 1,000 lines on, a file in the wrong format is given up without reading the rest."""
    path = write(tmp_path, "u.data", *["1\t2\t5\t10"] * 980, *["nonsense"] * 100_000)
    seen: list[BadLine] = []

    with pytest.raises(InvalidRequest, match="20 of 1000 lines"):
        read(path, on_bad=seen.append)

    assert len(seen) == 20


@pytest.mark.parametrize("lines", [[], ["hello"], ["a,b,c", "1,2,3"], ["1;2;5;10"]])
def test_unknown_format(tmp_path: Path, lines: list[str]) -> None:
    """A file in no known format is refused, and the message says how to name its columns."""
    with pytest.raises(InvalidRequest, match=r"no known format.*--user"):
        read(write(tmp_path, "a.csv", *lines))


def test_min_rating(tmp_path: Path) -> None:
    """`min_rating` replaces MovieLens's 4; elsewhere it is for ratings alone, and if given."""
    movielens = write(tmp_path, "u.data", *ratings("\t"))
    assert len(read(movielens, min_rating=0)) == 4
    assert len(read(movielens, min_rating=5)) == 1

    lines = ["user_id,item_id,timestamp,type,value", "u,i,1,rating,2", "u,i,2,purchase,2"]
    generic = write(tmp_path, "a.csv", *lines)
    assert len(read(generic)) == 2
    assert [event.type for event in read(generic, min_rating=4)] == ["purchase"]


def test_limit(tmp_path: Path) -> None:
    """`limit` keeps the first events in the order of time, after the filter."""
    path = write(tmp_path, "u.data", *ratings("\t"))

    assert short(read(path, limit=2)) == RATINGS[:2]
    assert len(read(path, limit=0)) == 0
    assert read(path, limit=0).start_ms is None
    with pytest.raises(InvalidRequest, match="limit"):
        read(path, limit=-1)


def test_order_is_stable(tmp_path: Path) -> None:
    """Events of one time keep the order of the file, and every reading gives the same."""
    lines = [f"u\ti{index}\t5\t{index % 3}" for index in range(1_000)]
    data = read(write(tmp_path, "u.data", *lines))

    items = [event.item_id for event in data]

    assert items == [f"i{index}" for second in range(3) for index in range(second, 1_000, 3)]
    assert items == [event.item_id for event in data]


def test_event_ids(tmp_path: Path) -> None:
    """An event gets the id that the service derives for one that comes without."""
    (event,) = read(write(tmp_path, "u.data", "1\t2\t5\t10"))

    event_id = derive_event_id("1", "2", "rating", 10_000)
    assert event == Feedback(event_id, "1", "2", "rating", 5.0, 10_000)


def test_folder(tmp_path: Path) -> None:
    """A folder stands for the one data set in it."""
    write(tmp_path, "README", "1\t2\t5\t10")
    with pytest.raises(InvalidRequest, match=r"no u\.data"):
        read(tmp_path)

    path = write(tmp_path, "ratings.dat", *ratings("::"))
    assert find_files(tmp_path) == [path]
    assert short(read(tmp_path)) == RATINGS

    write(tmp_path, "u.data", *ratings("\t"))
    with pytest.raises(InvalidRequest, match=r"more than one data set: name one of u\.data, rat"):
        read(tmp_path)


def test_train_and_test(tmp_path: Path) -> None:
    """The two halves of a session data set are read as one."""
    header = "SessionId\tItemId\tTime"
    write(tmp_path, "some_train_full.txt", header, "7\ty\t1396437467")
    write(tmp_path, "some_test.txt", header, "7\tx\t1396437466.94")

    assert short(read(tmp_path)) == CLICKS


def test_no_file(tmp_path: Path) -> None:
    """A path where nothing is gives an error that names it."""
    with pytest.raises(InvalidRequest, match=r"there is no file or folder .*/nothing"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["u.data", "a.parquet"])
def test_progress(tmp_path: Path, name: str) -> None:
    """The bytes reported as read add up to those announced."""
    n = 200_000
    path = tmp_path / name
    if name == "u.data":
        write(tmp_path, name, *["1\t2\t5\t10"] * n)
    else:
        write_parquet(path, user_id=range(n), item_id=range(n), timestamp=range(n))
    reported: list[int] = []

    assert len(read(path, on_progress=reported.append)) == n

    assert len(reported) > 1
    assert sum(reported) == total_bytes(path)


def stream(name: str) -> Path:
    """Find a real stream, or skip."""
    root = Path(os.environ.get("SLUICE_STREAMS") or REPOSITORY.parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"no {name} in {root}; set SLUICE_STREAMS to the folder that has it")
    return root / name


@pytest.mark.streams
def test_ml_100k() -> None:
    """ml-100k has 55,375 ratings of 4 and up, from September 1997 on."""
    data = read(stream("ml-100k"))

    assert (len(data), data.n_lines, data.n_bad) == (55_375, 100_000, 0)
    assert data.start_ms is not None
    assert datetime.fromtimestamp(data.start_ms / 1_000, UTC).strftime("%Y-%m") == "1997-09"


@pytest.mark.streams
def test_yoochoose_100k() -> None:
    """yoochoose-100k has 83,846 clicks, and 83,845 without the one that is there twice."""
    data = read(stream("yoochoose-100k"))

    assert (len(data), data.n_bad) == (83_846, 0)
    assert len({event.event_id for event in data}) == 83_845
    assert data.start_ms == 1_396_314_141_719
