"""Write the tables of docs/options.md: `python docs/write_options.py`, with the root in PYTHONPATH."""

from pathlib import Path

from robustness_tests.harness.options import OPTIONS_OF, Option

PAGE = Path(__file__).with_name("options.md")


def page() -> str:
    """The page as it should be: its text up to the first table, and a table for each group of options."""
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("\n## ")
    return text + "".join(f"\n## {title.capitalize()}\n\n{_table(options)}" for title, options in OPTIONS_OF.items())


def _table(options: list[Option]) -> str:
    rows = [f"| {_name(one)} | {_default(one)} | {_text(one)} |" for one in options]
    return "\n".join(["| option | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _name(option: Option) -> str:
    return f"`--{option.name}`" if option.is_flag else f"`--{option.name} {option.metavar}`"


def _default(option: Option) -> str:
    return option.usual or (f"`{option.default}`" if option.default else "off" if option.is_flag else "none")


def _text(option: Option) -> str:
    return f"{option.help}. {option.details}".strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
