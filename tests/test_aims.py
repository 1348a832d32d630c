"""The table of aims says what the rows above it say."""

from tests.aims import BEGIN, DOCUMENT, END, printed_errors, table


def test_the_table_is_that_of_the_printed_rows():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), "python -m tests.aims"


def test_every_row_is_read():
    assert len(printed_errors()) > 300
