"""What is shown beside the usual: a table's data as e2b/data, a figure's as
e2b/chart. Modules that nobody imported are not imported for it."""

import math
import sys

MAX_CELLS = 1_000_000


def table(frame):
    """A pandas DataFrame's columns, by name."""
    if frame.size > MAX_CELLS:
        return None
    return {str(name): [scalar(v) for v in frame.iloc[:, i].tolist()] for i, name in enumerate(frame.columns)}


def scalar(value):
    if value is None or isinstance(value, (bool, int, float, str)):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if type(value).__name__ == "NaTType":
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def data_of(obj):
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(obj, pandas.DataFrame):
        return table(obj)
    return None


def chart_of(obj):
    figure = sys.modules.get("matplotlib.figure")
    if figure is not None and isinstance(obj, figure.Figure):
        import aetherium_charts

        return aetherium_charts.chart(obj)
    return None


def install(shell):
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    def formatter(mime, method, of):
        class Formatter(BaseFormatter):
            format_type = Unicode(mime)
            print_method = ObjectName(method)
            _return_type = (dict, str)

            def __call__(self, obj):
                try:
                    found = of(obj)
                except Exception:  # what cannot be told is still shown
                    found = None
                return found if found is not None else super().__call__(obj)

        return Formatter(parent=shell.display_formatter)

    for mime, method, of in (
        ("e2b/data", "_repr_e2b_data_", data_of),
        ("e2b/chart", "_repr_e2b_chart_", chart_of),
    ):
        shell.display_formatter.formatters[mime] = formatter(mime, method, of)
        shell.display_formatter.active_types = [*shell.display_formatter.active_types, mime]
