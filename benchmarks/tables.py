"""Markdown tables, row by row as they are measured."""


def header(*columns):
    row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def row(*values):
    print("| " + " | ".join(map(str, values)) + " |", flush=True)
