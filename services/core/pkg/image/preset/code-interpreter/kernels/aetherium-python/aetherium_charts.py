"""What a figure of matplotlib shows, as data: of each of its axes a chart of
points, bars, wedges or boxes, with titles, labels, ticks and scales."""

import datetime
import math
import re

MAX_POINTS = 100_000

UNIT = re.compile(r"\(([^()]*)\)\s*$|\[([^\[\]]*)\]\s*$")
SCALES = ("linear", "datetime", "categorical", "log", "symlog", "logit", "function", "functionlog", "asinh")


def chart(figure):
    """A figure's chart; None for one that shows nothing."""
    axes = [ax for ax in figure.axes if ax.get_visible()]
    if not axes:
        return None
    if len(axes) == 1:
        return of_axes(axes[0])
    title = figure._suptitle.get_text() if getattr(figure, "_suptitle", None) else None
    return {"type": "superchart", "title": title or None, "elements": [of_axes(ax) for ax in axes]}


def of_axes(ax):
    """The chart of one pair of axes: the first kind that it is."""
    for of in (pie, boxes, bars, lines, scatter):
        found = of(ax)
        if found is not None:
            return found
    return {"type": "unknown", "title": ax.get_title() or None, "elements": []}


def labelled(ax, kind):
    x, y = ax.get_xlabel() or None, ax.get_ylabel() or None
    return {"type": kind, "title": ax.get_title() or None, "x_label": x, "y_label": y, "x_unit": unit(x), "y_unit": unit(y)}


def unit(label):
    found = UNIT.search(label or "")
    return (found.group(1) or found.group(2)) if found else None


def turned(found):
    """Of horizontal bars and boxes: x is what they stand for."""
    for what in ("label", "unit"):
        found["x_" + what], found["y_" + what] = found["y_" + what], found["x_" + what]
    return found


def visible(artists):
    """What can be seen."""
    return [a for a in artists if a.get_visible()]


def name(artist, i=0):
    label = str(artist.get_label())
    return f"{i}" if label.startswith("_") else label


def scale(axis):
    import matplotlib.category
    import matplotlib.dates

    converter = getattr(axis, "_converter", None) or getattr(axis, "converter", None)
    if isinstance(converter, matplotlib.category.StrCategoryConverter):
        return "categorical"
    if isinstance(axis.get_major_formatter(), (matplotlib.dates.AutoDateFormatter, matplotlib.dates.DateFormatter, matplotlib.dates.ConciseDateFormatter)):
        return "datetime"
    found = axis.get_scale()
    return found if found in SCALES else "unknown"


def value(v, of_scale, axis):
    """A coordinate as it was given: dates and categories by their names."""
    import matplotlib.dates

    if isinstance(v, str):
        return v
    if hasattr(v, "astype") and "datetime64" in str(getattr(v, "dtype", "")):
        return str(v)
    if isinstance(v, (datetime.datetime, datetime.date)):
        return v.isoformat()
    v = float(v)
    if not math.isfinite(v):
        return None
    if of_scale == "datetime":
        return matplotlib.dates.num2date(v).isoformat()
    if of_scale == "categorical":
        mapping = getattr(axis.units, "_mapping", {})
        return next((k for k, n in mapping.items() if n == v), v)
    return v


def ticks(ax):
    out = {}
    for which, axis, at, labels in (
        ("x", ax.xaxis, ax.get_xticks(), ax.get_xticklabels()),
        ("y", ax.yaxis, ax.get_yticks(), ax.get_yticklabels()),
    ):
        of_scale = scale(axis)
        out[which + "_scale"] = of_scale
        out[which + "_ticks"] = [value(t, of_scale, axis) for t in at]
        out[which + "_tick_labels"] = [label.get_text() for label in labels]
    return out


def points(ax, xs, ys):
    x_scale, y_scale = scale(ax.xaxis), scale(ax.yaxis)
    pairs = zip(xs, ys)
    return [[value(x, x_scale, ax.xaxis), value(y, y_scale, ax.yaxis)] for x, y in list(pairs)[:MAX_POINTS]]


def lines(ax):
    found = [line for line in visible(ax.get_lines()) if len(line.get_xdata()) > 0]
    if not found:
        return None
    elements = [{"label": name(line, i), "points": points(ax, line.get_xdata(), line.get_ydata())} for i, line in enumerate(found)]
    return {**labelled(ax, "line"), **ticks(ax), "elements": elements}


def scatter(ax):
    from matplotlib.collections import PathCollection

    found = [c for c in visible(ax.collections) if isinstance(c, PathCollection)]
    if not found:
        return None
    elements = []
    for i, c in enumerate(found):
        offsets = c.get_offsets()
        elements.append({"label": name(c, i), "points": points(ax, [p[0] for p in offsets], [p[1] for p in offsets])})
    return {**labelled(ax, "scatter"), **ticks(ax), "elements": elements}


def pie(ax):
    from matplotlib.patches import Wedge

    found = [p for p in visible(ax.patches) if isinstance(p, Wedge)]
    if not found or len(found) != len(ax.patches):
        return None
    elements = [{"label": name(w, i), "angle": round(float(w.theta2 - w.theta1), 4), "radius": float(w.r)} for i, w in enumerate(found)]
    return {"type": "pie", "title": ax.get_title() or None, "elements": elements}


def bars(ax):
    from matplotlib.container import BarContainer

    containers = [c for c in ax.containers if isinstance(c, BarContainer) and len(c.patches) > 0]
    if not containers:
        return None
    horizontal = getattr(containers[0], "orientation", "vertical") == "horizontal"
    axis, labels = (ax.yaxis, ax.get_yticklabels()) if horizontal else (ax.xaxis, ax.get_xticklabels())
    by_place = {round(label.get_position()[1 if horizontal else 0], 6): label.get_text() for label in labels}
    elements = []
    for group, container in enumerate(containers):
        for bar in container.patches:
            if horizontal:
                place, size = bar.get_y() + bar.get_height() / 2, bar.get_width()
            else:
                place, size = bar.get_x() + bar.get_width() / 2, bar.get_height()
            nearest = min(by_place, key=lambda at: abs(at - place), default=None)
            near = nearest is not None and abs(nearest - place) <= 0.5
            label = by_place[nearest] if near and by_place[nearest] else told(value(place, scale(axis), axis))
            elements.append({"label": label, "group": name(container, group), "value": float(size)})
    found = {**labelled(ax, "bar"), "elements": elements}
    return turned(found) if horizontal else found


def told(place):
    return f"{place:g}" if isinstance(place, float) else str(place)


def boxes(ax):
    """matplotlib keeps no record of box plots: they are known by their form.
    Each box is a closed path of five points, drawn as a line or as a patch; the
    lines of two points that follow are its whiskers, caps and median."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import PathPatch

    drawn = [a for a in ax.get_children() if isinstance(a, (Line2D, PathPatch)) and a.get_visible()]
    if not any(is_box(a) for a in drawn):
        return None
    rest = [line for line in ax.get_lines() if not is_box(line)]
    found = [extent(a) for a in drawn if is_box(a)]
    vertical = stands(found, rest)
    elements = []
    for i, (x0, y0, x1, y1) in enumerate(found):
        across, along = ((x0, x1), (y0, y1)) if vertical else ((y0, y1), (x0, x1))
        elements.append(box(i, across, along, rest, vertical, ax))
    whole = {**labelled(ax, "box_and_whisker"), "elements": elements}
    return whole if vertical else turned(whole)


def is_box(artist):
    points = outline(artist)
    if len(points) < 5 or len(points) > 6:
        return False
    xs, ys = {round(float(p[0]), 9) for p in points[:5]}, {round(float(p[1]), 9) for p in points[:5]}
    return len(xs) == 2 and len(ys) == 2 and tuple(points[0]) == tuple(points[4])


def outline(artist):
    if hasattr(artist, "get_xydata"):
        return [tuple(p) for p in artist.get_xydata()]
    return [tuple(p) for p in artist.get_path().vertices]


def extent(artist):
    points = outline(artist)
    xs, ys = [float(p[0]) for p in points], [float(p[1]) for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def stands(found, rest):
    """Whether boxes stand upright: whiskers go on from the middle of a side. A
    median may lie there, too, but goes from side to side."""

    def whiskers(turn):
        count = 0
        for x0, y0, x1, y1 in found:
            (a0, a1), (b0, b1) = ((y0, y1), (x0, x1)) if turn else ((x0, x1), (y0, y1))
            for line in rest:
                p = [(b, a) if turn else (a, b) for a, b in outline(line)]
                if len(p) == 2 and p[0][0] == p[1][0] and abs(p[0][0] - (a0 + a1) / 2) < 1e-9:
                    low, high = sorted((p[0][1], p[1][1]))
                    count += (high == b0 or low == b1) and low != high
        return count

    return whiskers(False) >= whiskers(True)


def box(i, across, along, rest, vertical, ax):
    low, high = along
    middle = sum(across) / 2
    its = {"label": str(i), "min": low, "first_quartile": low, "median": None, "third_quartile": high, "max": high, "outliers": []}
    for line in rest:
        p = [(a, b) if vertical else (b, a) for a, b in outline(line)]
        if line.get_marker() not in ("None", None, "", " ") and line.get_linestyle() in ("None", "", " "):
            its["outliers"] += [float(b) for a, b in p if across[0] <= a <= across[1]]
        elif (
            len(p) == 2
            and p[0][1] == p[1][1]
            and {round(p[0][0], 9), round(p[1][0], 9)} == {round(across[0], 9), round(across[1], 9)}
            and low <= p[0][1] <= high
        ):
            its["median"] = float(p[0][1])
        elif len(p) == 2 and p[0][0] == p[1][0] and abs(p[0][0] - middle) < 1e-9:
            ends = (float(p[0][1]), float(p[1][1]))
            its["min"], its["max"] = min(its["min"], *ends), max(its["max"], *ends)
    labels = ax.get_xticklabels() if vertical else ax.get_yticklabels()
    for label in labels:
        if abs(label.get_position()[0 if vertical else 1] - middle) < 1e-6 and label.get_text():
            its["label"] = label.get_text()
    return its
