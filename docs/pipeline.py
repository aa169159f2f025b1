"""Draws pipeline.svg, our Figure 1 of the paper, from the stages of its Table 2.

    python docs/pipeline.py

Nothing is built for it, and no network asked: stages are known from the spec alone. A report has
the same picture of its own run, drawn from manifests.
"""

from __future__ import annotations

from pathlib import Path

from raythief import config, pipeline
from raythief.report import diagram

HERE = Path(__file__).parent
SPEC = HERE.parent / "jobs" / "table2.yaml"


def draw() -> str:
    """The picture as SVG."""
    spec = config.load(SPEC)
    roles: dict[str, str] = {}
    given: dict[str, set[str]] = {}
    for variant in config.expand(spec):
        if variant.spec.extractor.model == config.BILSTM:
            continue  # its word vectors and parallel text are files of the user's own
        for role, stage in pipeline.stages(variant.spec).items():
            roles.setdefault(stage.fingerprint, role)
            given[stage.fingerprint] = {one.fingerprint for one in stage.inputs.values()}
    return diagram.draw(*diagram.arrange(roles, given, diagram.planned(spec)))


if __name__ == "__main__":
    (HERE / "pipeline.svg").write_text(draw(), encoding="utf-8")
