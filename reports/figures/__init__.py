"""The figures of the report: SVG that follows the colours of the page, each panel with a text alternative."""

from reports.figures.all_figures import Figure, figures

__all__ = ["Figure", "figures"]
