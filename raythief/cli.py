"""The command line: `raythief plan|run|status|sweep|report|serve|demo|reference`, and on a cluster
`submit|jobs|stop`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

# Before the first import of ray and the hub's client, which read them then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a stage that was left starts no Ray again
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import typer
from rich.console import Console

from raythief import __version__, config
from raythief.errors import UserError, explain

app = typer.Typer(
    name="raythief",
    help="Measure how much of a monolingual classifier behind an API can be extracted into a "
    "multilingual model with gibberish queries.\n\nA spec is a YAML file under jobs/; "
    "`raythief reference` explains its fields. Try `raythief demo` first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(stderr=True)

SpecPath = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file such as jobs/table2.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Override a field of the spec, as `--set extractor.training.learning_rate=1e-5`. "
        "May be given several times.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="VARIANT",
        help="Only this variant; may be repeated. The report then shows no others.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on (`auto`, `ray://host:10001`). Default: RAY_ADDRESS, which "
        "`ray job submit` sets; else Ray is started on this machine.",
    ),
]
Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Dashboard of the cluster, `http://HEAD:8265`. Default: RAY_API_SERVER_ADDRESS, "
        "else RAY_ADDRESS.",
    ),
]
INTERRUPTED = 130
"""Exit code of Ctrl-C, which Typer turns into one before anybody else sees it."""
DEMO = Path(__file__).parent.parent / "jobs" / "miniature" / "demo.yaml"


@app.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="Stop after this stage: corpus, vocabulary, queries, figure2, victim, labels, "
            "extractor, finetuned, evaluation.",
        ),
    ] = None,
    only: Only = None,
    address: Address = None,
) -> None:
    """Build what is missing of an experiment and write its report.

    What is finished is never built again; a run that was killed goes on where it was when the
    same command is given again.
    """
    loaded = config.load(spec, overrides or [])  # a mistake need not wait for slow imports
    from raythief import runs

    record = runs.run(
        loaded, until=until, only=only or [], address=address, command=_command(), console=console
    )
    if "report" in record:
        typer.echo(f"report: {record['report']}")


@app.command()
def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    only: Only = None,
    trials: Annotated[
        bool,
        typer.Option("--sweep", help="Plan the trials of `raythief sweep`, all to their ends."),
    ] = False,
) -> None:
    """Tell what a run would build, what is there, and what it would take. Changes nothing.

    Needs no network, no cluster, no model and no data, and says which data are missing: hours come
    from the sizes of the models and from what a stored benchmark reached on `costs.device`, else
    from the speed that `costs` assume.
    """
    loaded = config.load(spec, overrides or [])
    from raythief import planning, runs

    if trials:
        from raythief import sweep as sweeping

        rows = sweeping.rows(loaded)
    else:
        rows = runs.rows(loaded, only or [], missing_ok=True)
    # A pipe or a file has no width; a plan's rows should not be folded there.
    wide = Console() if sys.stdout.isatty() else Console(width=120)
    planning.show(loaded, rows, wide)


@app.command()
def sweep(spec: SpecPath, overrides: Overrides = None, address: Address = None) -> None:
    """Search fields of the spec with Ray Tune; its `sweep` section says which and how.

    Trials share what they can: vocabulary, queries and labels are made once. A sweep that was
    killed goes on when the same command is given again.
    """
    loaded = config.load(spec, overrides or [])
    from raythief import sweep as sweeping

    record = sweeping.run(loaded, address=address, command=_command(), console=console)
    typer.echo(f"best: {record['best']} ({record['best_spec']})")
    typer.echo(f"report: {record['report']}")


@app.command()
def report(
    storage: Annotated[str, typer.Argument(help="Storage folder or address of the run.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[/FINGERPRINT]",
            help="Name of the experiment (`name` in its spec), of which the newest run is taken; "
            "with a fingerprint, the run of that one. A wrong one is answered with those that are "
            "there.",
        ),
    ],
) -> None:
    """Write the report of a run again, from its manifests alone.

    Runs of one name that differ in more than resources and prices lie apart, as
    `runs/NAME/FINGERPRINT` on storage; `runs/NAME/index.html` is the report of the newest.
    """
    from raythief import report as reporting
    from raythief.artifacts import Storage

    place = Storage.at(storage)
    path = reporting.write(place, reporting.find(place, name))
    typer.echo(f"report: {place.address(path)}")


@app.command()
def status(
    path: Annotated[
        str,
        typer.Argument(help="Storage folder or address of a run, or one artifact's folder in it."),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show it again until nothing is under way.")
    ] = False,
) -> None:
    """Tell how far the buying of labels is, and what it took.

    Works from any machine that reads the storage, while a run is under way and afterwards.
    *In flight* are queries whose answers are not kept yet; *lost* are those of runs that were
    killed; *spent* counts both.
    """
    from raythief import status as statuses

    wide = Console() if sys.stdout.isatty() else Console(width=120)
    statuses.show(path, follow, wide)


@app.command()
def serve(spec: SpecPath, overrides: Overrides = None, address: Address = None) -> None:
    """Offer the spec's victim as an HTTP API with Ray Serve, until Ctrl-C.

    The spec's `serve` section says where and on what. `POST /predict` labels pairs; `/docs` shows
    how. A victim that the spec trains must be there: `raythief run SPEC --until victim`.
    """
    loaded = config.load(spec, overrides or [])
    from raythief import serving

    def ready(url: str) -> None:
        typer.echo(f"serving: {url}/predict\ndocs: {url}/docs")
        sys.stdout.flush()  # a pipe would keep it until the end

    serving.run(loaded, address=address, console=console, ready=ready)


@app.command()
def submit(
    spec: SpecPath,
    overrides: Overrides = None,
    trials: Annotated[
        bool, typer.Option("--sweep", help="Run `raythief sweep` there, not `raythief run`.")
    ] = False,
    address: Dashboard = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it is submitted; do not follow its log.")
    ] = False,
) -> None:
    """Run a spec as a job on a Ray cluster, and follow its log.

    The cluster is looked at first: versions, token, storage as each node sees it, workers that
    the spec needs. The same command given again attaches to the job. Ctrl-C leaves the job
    running. The exit code is the job's.
    """
    from raythief.submission import jobs as submission

    code = submission.submit(
        spec,
        overrides or [],
        sweep=trials,
        address=address,
        detach=detach,
        console=console,
    )
    raise typer.Exit(code)


@app.command()
def jobs(address: Dashboard = None) -> None:
    """List the jobs on a Ray cluster that run raythief, newest first."""
    from raythief.submission import jobs as submission

    submission.show(address, Console() if sys.stdout.isatty() else Console(width=120))


@app.command()
def stop(
    job: Annotated[str, typer.Argument(metavar="ID", help="As `raythief jobs` lists it.")],
    address: Dashboard = None,
) -> None:
    """Stop a job and wait for its end. What it finished is kept; submit it again to go on."""
    from raythief.submission import jobs as submission

    submission.stop(job, address, console)


@app.command()
def demo(
    overrides: Overrides = None,
    full: Annotated[
        bool, typer.Option("--full", help="Three seeds and all variants; takes far longer.")
    ] = False,
) -> None:
    """Run the whole experiment in miniature, offline, on this machine's cores.

    Makes a small world with its own languages' texts, pre-trains two encoders, trains a victim,
    queries it with gibberish, extracts a multilingual model and measures it in every language.
    """
    from raythief import runs

    path = DEMO.with_name("full.yaml") if full else DEMO
    loaded = config.load(path, overrides or [])
    record = runs.run(loaded, command=_command(), console=console)
    typer.echo(f"report: {record['report']}")


@app.command()
def reference() -> None:
    """Print every field of a spec with its type, default and meaning, as Markdown."""
    typer.echo(reference_text(), nl=False)


def reference_text() -> str:
    """The reference of all fields, as Markdown."""
    lines = [
        "# Fields of a spec",
        "",
        "Made by `raythief reference`. `NAME` stands for a name of your own choice.",
        "A spec that begins with `extends: other.yaml` is laid over that one.",
        "",
        "| Field | Type | Default | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for path, kind, default, meaning in config.fields():
        cells = (f"`{path}`", kind, default, " ".join(meaning.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


class _Output:
    """Standard output that remembers why it took no more, which any library may have met."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._noted():
            return self.stream.write(text)

    def flush(self) -> None:
        with self._noted():
            self.stream.flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            self.fault = fault
            raise

    def give_up(self) -> None:
        """Have Python not try again as it ends, and complain."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def main() -> Any:
    """Entry point: a user's mistake, or what the machine lacks, is told in one sentence, with exit
    code 2; that standard output takes no more, with 1."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    output = _Output(sys.stdout or io.StringIO())
    try:
        with contextlib.redirect_stdout(cast(TextIO, output)):
            try:
                return app()
            finally:
                output.flush()  # what cannot be written is told now, not when Python ends
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except SystemExit as left:
        if left.code != INTERRUPTED:
            raise
        _complain("stopped; the same command goes on from here")
        os._exit(INTERRUPTED)  # stages under way have threads that a plain exit would wait for
    except Exception as error:
        if error is output.fault:
            output.give_up()
            if not isinstance(error, BrokenPipeError):  # whoever read it has all that they wanted
                _complain(f"standard output cannot be written: {error.strerror}")
            sys.exit(1)
        if (sentence := explain(error)) is None:
            raise
        _complain(str(sentence))
        sys.exit(2)


def _complain(sentence: str) -> None:
    """Tell it on standard error, which may take no more either: the exit code still tells."""
    with contextlib.suppress(OSError):
        print(f"raythief: {sentence}", file=sys.stderr, flush=True)


def _command() -> str:
    return shlex.join(["raythief", *sys.argv[1:]])


if __name__ == "__main__":
    main()
