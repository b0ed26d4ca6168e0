"""What is printed where there is no terminal."""

from rich.table import Table
from rich.text import Text

from dapq_edge.cli.printing import show


def test_a_table_in_a_pipe_has_the_width_that_it_needs(capsys):
    table = Table(title="[/x] of them")
    names = [f"column {i} of a table" for i in range(30)]
    for name in names:
        table.add_column(name)
    table.add_row(*names)
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "[/x] of them"
    assert sum(all(name in line for name in names) for line in lines) == 2
    assert max(map(len, lines)) < 30 * 30


def test_a_text_in_a_pipe_keeps_its_lines(capsys):
    text = "word " * 1000 + "\n[bold] 1 2\n"
    show(Text(text))
    assert capsys.readouterr().out.rstrip() == text.rstrip()
