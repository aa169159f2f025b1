"""The pipeline of a run as a diagram (the paper's Figure 1), drawn from its stages.

Boxes are the stages whose manifests were read, arrows are the inputs that these manifests name:
nothing is in the picture that was not built. Only where a box stands is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from raythief.config import Spec
from raythief.report import figures
from raythief.report.blocks import Picture, Section, Sheet, counted, listed
from raythief.report.records import Run
from raythief.results import Corpus, Evaluation, Labels, Vocabulary

PLACES: dict[str, tuple[float, float]] = {
    "bilstm": (3, -1),
    "parallel": (4, -1),
    "aligned": (5, -1),
    "corpus": (0, 0),
    "vocabulary": (1, 0),
    "queries": (2, 0),
    "labels": (3, 0),
    "extractor": (4, 0),
    "finetuned": (5, 0),
    "vectors": (1, 1),
    "encoders": (2, 1),
    "victim": (3, 1),
    "real": (4, 1),
    "figure2": (1, 2),
    "sanity": (2, 2),
    "victim_evaluation": (3, 2),
    "examples": (4, 2),
    "evaluation": (5, 2),
}
"""Column and lane of each kind of stage; a kind that is not here stands below the others."""

TITLES = {
    "aligned": "aligned encoders",
    "bilstm": "word vectors",
    "encoders": "pre-trained",
    "examples": "test sets",
    "figure2": "distances",
    "finetuned": "fine-tuned",
    "parallel": "parallel text",
    "real": "real data",
    "sanity": "sanity check",
    "victim_evaluation": "victim's score",
}
_TRAINED = ("extractor", "finetuned", "aligned")
_MEASURING = 2
"""The lane of the inference phase."""

_WIDE, _HIGH = 0.8, 0.5
"""Size of a box, where columns and lanes are 1 apart."""
_COLUMN, _LANE = 1.5, 0.95
"""Inches that they are apart."""
_BENDS = (0.0, *(sign * bend for bend in (0.22, 0.34, 0.46, 0.6) for sign in (-1, 1)))
"""How far an arrow may bow out, as a share of its length, to get past boxes; tried in this order,
so that of equals the one above is taken."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A kind of stage."""

    kind: str
    detail: str = ""
    artifacts: int = 0
    """How many of this kind the run rests on; 0 for a model that is given and no stage."""
    place: Point = (0.0, 0.0)

    @property
    def title(self) -> str:
        """What it is called."""
        return TITLES.get(self.kind, self.kind.replace("_", " "))


Edge = tuple[str, str]
"""A kind of stage, and one that reads it."""


def pipeline(run: Run) -> Section | None:
    """The diagram; none where nothing was extracted."""
    boxes, edges = graph(run)
    if not {"labels", "extractor"} & boxes.keys():
        return None
    caption = (
        "What this run was made of. Extraction: words of a corpus become queries, the victim (the "
        "black box) answers them, and a pre-trained model is fine-tuned on the answers. Inference: "
        "that model is measured in languages that the victim need not know. Arrows are what each "
        "stage read, by its manifest; thick frames are models that were trained, dashed is what "
        "was given; × n counts artifacts of one kind."
    )
    reads: dict[str, list[str]] = {}
    for source, target in edges:
        reads.setdefault(target, []).append(source)
    rows = [(kind, box.artifacts, box.detail, " ".join(reads.get(kind, [])))
            for kind, box in boxes.items()]  # fmt: skip
    words = [f"{boxes[kind].title} from {listed([boxes[one].title for one in read])}"
             for kind, read in reads.items()]  # fmt: skip
    picture = Picture(
        "pipeline",
        draw(boxes, edges),
        f"Diagram of the pipeline: {'; '.join(words)}",
        caption,
        "pipeline.csv",
    )
    sheet = Sheet("pipeline.csv", ("stage", "artifacts", "detail", "reads"), rows)
    return Section("pipeline", "How it was done", [picture], [sheet])


def graph(run: Run) -> tuple[dict[str, Box], list[Edge]]:
    """Boxes by kind, and what reads what, by the manifests of all rows."""
    roles = {artifact.path: role for (role, _), artifact in run.artifacts.items()}
    given = {
        artifact.path: {
            f"{one.stage}/{one.fingerprint}" for one in artifact.manifest.inputs.values()
        }
        for artifact in run.artifacts.values()
    }
    return arrange(roles, given, _details(run))


def arrange(
    roles: Mapping[str, str], given: Mapping[str, Set[str]], details: Mapping[str, str]
) -> tuple[dict[str, Box], list[Edge]]:
    """Boxes by kind, and what reads what.

    An input that a stage reads beside another one which is made of it alone is left out: labels
    read the vocabulary, but that they do through the queries.

    Args:
        roles: Roles of artifacts or stages, by whatever identifies them.
        given: What each is made from; inputs without a role are passed over.
        details: A line on what is in a box, by kind.
    """
    kinds = {one: role.partition(":")[0] for one, role in roles.items()}
    inputs: dict[str, set[str]] = {kind: set() for kind in kinds.values()}
    for key, every in given.items():
        read = every & kinds.keys()
        own = (one for one in read if not any(given[other] == {one} for other in read - {one}))
        inputs[kinds[key]] |= {kinds[one] for one in own}
    _add_what_is_given(inputs)
    edges = [(source, target) for target, sources in inputs.items() for source in sources]
    amounts = {kind: sum(one == kind for one in kinds.values()) for kind in inputs}
    known = [kind for kind in PLACES if kind in inputs]
    others = sorted(kind for kind in inputs if kind not in PLACES)
    places = PLACES | {kind: (i, _MEASURING + 1) for i, kind in enumerate(others)}
    boxes = {
        kind: Box(kind, details.get(kind, ""), amounts[kind], places[kind])
        for kind in (*known, *others)
    }
    return boxes, sorted(edges, key=lambda edge: (places[edge[1]], places[edge[0]]))


def planned(spec: Spec) -> dict[str, str]:
    """What a spec tells of a box."""
    api = "behind an API" if spec.victim.api else spec.victim.model
    return {
        "victim": api.rpartition("/")[2],
        "encoders": spec.extractor.model.rpartition("/")[2],
        "queries": counted(spec.queries.count, "pair"),
        "examples": listed(list(spec.evaluation.sets)),
    }


def draw(boxes: Mapping[str, Box], edges: Sequence[Edge]) -> str:
    """The diagram as SVG."""
    columns = [box.place[0] for box in boxes.values()]
    lanes = [box.place[1] for box in boxes.values()]
    left, right = min(columns) - 0.5, max(columns) + 0.5
    top, bottom = min(lanes) - 0.62, max(lanes) + 0.5
    with matplotlib.rc_context(figures.SETTINGS):
        figure, axes = figures.canvas(_LANE * (bottom - top))
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        split = _MEASURING - 0.5
        if min(lanes) < split < bottom:
            _phase(axes, "extraction phase", (left, top), (right, split - 0.02))
            _phase(axes, "inference phase", (left, split + 0.02), (right, bottom))
        drawn = {kind: _box(axes, box) for kind, box in boxes.items()}
        for source, target in edges:
            arrow = FancyArrowPatch(
                boxes[source].place, boxes[target].place, patchA=drawn[source],
                patchB=drawn[target], shrinkA=0, shrinkB=1, color=figures.INK, lw=1,
                arrowstyle="-|>,head_length=4,head_width=2",
                connectionstyle=f"arc3,rad={bend(source, target, boxes)}",
            )  # fmt: skip
            axes.add_patch(arrow)
        return figures.to_svg(figure)


def bend(source: str, target: str, boxes: Mapping[str, Box]) -> float:
    """How an arrow must bow out so as to cross no other box; the widest if it always does."""
    others = [box.place for kind, box in boxes.items() if kind not in (source, target)]
    for found in _BENDS:
        if not any(_within(point, place) for point in _course(boxes[source].place,
                   boxes[target].place, found) for place in others):  # fmt: skip
            return found
    return _BENDS[-1]


# --- helpers ------------------------------------------------------------------------------------


def _add_what_is_given(inputs: dict[str, set[str]]) -> None:
    """A victim behind an API, or as it was published, is no stage, but the point of it all; so is
    the pre-trained model that the extractor starts from."""
    if "victim" not in inputs and (asks := {"labels", "sanity", "victim_evaluation"} & {*inputs}):
        inputs["victim"] = set()
        for kind in asks:
            inputs[kind].add("victim")
    if "encoders" not in inputs and "extractor" in inputs:
        inputs["encoders"] = set()
        inputs["extractor"].add("encoders")


def _details(run: Run) -> dict[str, str]:
    """A line on what is in a box, of the first artifact of each kind."""
    found: dict[str, str] = {}
    for (role, _), artifact in run.artifacts.items():
        result, kind = artifact.results, role.partition(":")[0]
        text = ""
        if isinstance(result, Corpus) and result.sentences is not None:
            text = counted(result.sentences, "sentence")
        elif isinstance(result, Vocabulary):
            text = counted(result.words, "word")
        elif isinstance(result, Labels):
            text = f"{sum(result.label_counts.values()):,} bought"
        elif isinstance(result, Evaluation) and kind == "evaluation":
            languages = {code for scores in result.sets.values() for code in scores}
            text = counted(len(languages), "language")
        if text:
            found.setdefault(kind, text)
    if spec := run.spec or next(iter(run.variants.values()), None):
        found |= planned(spec)
    return found


def _phase(axes: Axes, title: str, low: Point, high: Point) -> None:
    axes.add_patch(
        Rectangle(low, high[0] - low[0], high[1] - low[1], color=figures.INK, alpha=0.08, lw=0)
    )
    axes.text(low[0] + 0.08, low[1] + 0.16, title, fontsize=8.5, style="italic", va="center")


def _box(axes: Axes, box: Box) -> FancyBboxPatch:
    x, y = box.place
    black, given = box.kind == "victim", not box.artifacts
    patch = FancyBboxPatch(
        (x - _WIDE / 2, y - _HIGH / 2), _WIDE, _HIGH,
        boxstyle="round,pad=0,rounding_size=0.06", mutation_aspect=0.9,
        facecolor="#333a40" if black else "none", edgecolor=figures.INK,
        lw=2 if box.kind in _TRAINED else 1, ls="--" if given and not black else "-",
    )  # fmt: skip
    axes.add_patch(patch)
    many = f" × {box.artifacts}" if box.artifacts > 1 else ""
    colour = "white" if black else figures.INK
    detail = figures.short(box.detail, 20) if box.detail else ""
    lines = [(figures.short(box.title + many, 20), 9.0, "bold"), (detail, 7.5, "normal")]
    for i, (text, size, weight) in enumerate(line for line in lines if line[0]):
        place = y + (0.2 * i - 0.1 if detail else 0)
        axes.text(x, place, text, ha="center", va="center", fontsize=size, weight=weight,
                  color=colour)  # fmt: skip
    return patch


def _course(start: Point, end: Point, rad: float) -> Iterator[Point]:
    """Points of the curve that matplotlib's ``arc3`` draws, whose middle is bowed out."""
    (x0, y0), (x1, y1) = start, end
    middle = (
        (x0 + x1) / 2 - rad * (y1 - y0) * _LANE / _COLUMN,
        (y0 + y1) / 2 + rad * (x1 - x0) * _COLUMN / _LANE,
    )
    for i in range(1, 40):
        t = i / 40
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
        yield tuple(sum(w * p[axis] for w, p in zip(weights, (start, middle, end), strict=True))
                    for axis in (0, 1))  # type: ignore[misc]  # fmt: skip


def _within(point: Point, place: Point) -> bool:
    """Whether a point lies in a box, or close by."""
    return abs(point[0] - place[0]) < _WIDE / 2 + 0.02 and (
        abs(point[1] - place[1]) < _HIGH / 2 + 0.02
    )
