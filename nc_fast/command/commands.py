"""The subcommands of ``nc-fast``, one function each. To add one, write a function and decorate it with ``@app.command()``.

A command computes through the library and prints; errors it lets through become one line (see :class:`OneLineErrors`).
What is slow to import is imported inside the command that needs it, so that ``--help`` stays fast.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from typer.core import TyperGroup

from nc_fast._version import __version__
from nc_fast.activations import ACTIVATIONS
from nc_fast.command import torchrun

if TYPE_CHECKING:
    from rich.console import Console

ARRAYS_WRITTEN = ("weights", "bias", "indices", "scores", "gains", "groups", "restarts")
BAD_INPUT, INTERRUPTED = 2, 130
MAX_SEED = 2**60  # torch takes 64 bits, and a run's two generators double the seed
ARRAYS_READ = "W (D, M) with neurons as columns, X (N, D), y (N,) and optionally bias, a number or (M,)"


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line on stderr: exit code 2 for bad input, 130 for Ctrl-C."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has left; typer knows what to do
            raise
        except KeyboardInterrupt as error:
            raised: BaseException = error
            line, code = "interrupted", INTERRUPTED
        except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
            if ctx.params.get("traceback"):
                raise
            raised = error
            line, code = str(error) or type(error).__name__, BAD_INPUT
        except Exception as error:
            if not hasattr(error, "format_message"):  # not an error in the command line: typer's own exits, and defects
                raise
            raised = error
            line, code = f"{error.format_message()} (see {ctx.command_path} --help)", BAD_INPUT
        if torchrun.speaks(raised):
            typer.echo(f"nc-fast: {' '.join(line.split())}", err=True)
        raise typer.Exit(code)


app = typer.Typer(
    cls=OneLineErrors,
    help="Neuron campaign initialization: pick the k best of a pool of candidate neurons.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

K = Annotated[int, typer.Option("--k", help="Neurons to pick.")]
Alpha = Annotated[float, typer.Option(help="Weight of I(X;Z) in the score, in [0, 1]: near 1 for front layers, near 0 for rear ones.")]
Activation = Annotated[str, typer.Option(help=f"One of {', '.join(ACTIVATIONS)}.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="On an error, show where it came from.")] = False,
) -> None:
    pass


@app.command()
def demo(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of IDX files: MNIST, Fashion-MNIST. Without it, digits.")] = None,
    npz: Annotated[Path | None, typer.Option(help="An .npz file with X (N, D) or (N, height, width) and y (N,).")] = None,
    pool: Annotated[int, typer.Option(help="Candidate neurons of the campaign that is timed and drawn.")] = 1000,
    k: K = 100,
    alpha: Alpha = 0.5,
    activation: Activation = "relu",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the pool and of --max-samples.")] = 0,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Use at most this many samples, drawn at random.")] = None,
    widths: Annotated[bool, typer.Option(help="First measure accuracy against width: random neurons, campaign, pursuit.")] = True,
    json: Annotated[Path | None, typer.Option(help="Also write the accuracies by width to this file.")] = None,
    train: Annotated[bool, typer.Option(help="Also train a network from He and from a campaign; the curves go beside the picture.")] = True,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("nc_fast_demo.png"),
) -> None:
    """Pick neurons on real data by pursuit and by campaign, show how well they do and what they look like, and train from there."""
    from nc_fast.command.demo import Settings, picture, run, tables
    from nc_fast.command.demo import train as from_both
    from nc_fast.command.demo_widths import show as by_width
    from nc_fast.files.read import load
    from nc_fast.files.untrusted import replacing

    source = _source(data_dir, npz)
    settings = Settings(pool=pool, k=k, alpha=alpha, activation=activation, seed=seed)
    settings.check()
    _writable("--out", out)
    if json:
        _writable("--json", json)
        if not widths:
            raise ValueError("--json: expected --widths, got --no-widths")
    console = _console()
    with _plain_warnings():
        dataset = load(source)
    if widths:
        picture_of_widths = out.with_name(f"{out.stem}_widths.png")
        _beside(console, "accuracy by width", picture_of_widths, partial(by_width, dataset, settings, max_samples, json), json is not None)
        console.print()
    with _plain_warnings(), console.status("") as status:
        result = run(dataset, settings, max_samples=max_samples, announce=lambda stage: status.update(f"{stage} ..."))
        status.update("picture ...")
        with replacing(out) as file:
            picture(result, file)
    console.print(*tables(result), sep="\n")
    if train:
        console.print()
        _beside(console, "training curves", out.with_name(f"{out.stem}_training.png"), partial(from_both, dataset, seed))
    _say(console, f"picture: {out}")


def _beside(console: Console, what: str, out: Path, draw: Callable[..., Iterable[Any]], needed: bool = False) -> None:
    """Draw another picture and print what belongs to it; where the data do not allow it and it is not needed, say so."""
    from nc_fast.files.untrusted import replacing

    with _plain_warnings(), console.status("") as status:
        try:
            with replacing(out) as file:
                printed = list(draw(file, lambda stage: status.update(f"{stage} ...")))
        except ValueError as error:
            if needed:
                raise
            _say(console, f"no {what}: {error}")
            return
    console.print(*printed, sep="\n")
    _say(console, f"{what}: {out}")


@app.command()
def compare(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of IDX files: MNIST, Fashion-MNIST. Without it, digits.")] = None,
    npz: Annotated[Path | None, typer.Option(help="An .npz file with X (N, D) or (N, height, width), y (N,), and X_test, y_test.")] = None,
    networks: Annotated[str, typer.Option(help="Names with commas between: mlp2, mlp3, mlp5, mlp10, cnn, resnet, transformer.")] = "mlp3",
    init: Annotated[
        list[str] | None,
        typer.Option(
            help="An initialization, as often as needed: normal, xavier, he, orthogonal, lsuv, original, he-center, he-center-assign, "
            "he-head, lsuv-head (output layer fitted), campaign; options after a colon: he:gain=1.41, he:like=campaign (its scale), "
            "campaign:select=campaign,head=campaign, campaign:lr=none (what it is told instead of the run's rate). 'all' for all.",
            show_default="he, campaign",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seeds count from here.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of training.")] = 10,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum (0.9) or adamw.")] = "sgd",
    lr: Annotated[str, typer.Option(help="Learning rate; of several, commas between, a held-out tenth finds each's best.")] = "0.1",
    batch: Annotated[int, typer.Option(help="Batch size.")] = 100,
    target: Annotated[str, typer.Option(help="Test accuracies in percent, with commas between, that time is taken to.")] = "92",
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations in the first two epochs.")] = 50,
    train_samples: Annotated[int | None, typer.Option(help="Drawn by class for each seed.", show_default="all")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core; one on a GPU")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; an interrupted comparison goes on from there.")] = Path(
        "nc_fast_compare"
    ),
) -> None:
    """Train a network on the same batches from different initializations, and compare them with He's."""
    from nc_fast.command.compare import numbers, run_and_write
    from nc_fast.compare.initializations import ALL, DEFAULT
    from nc_fast.compare.plan import Plan

    plan = Plan(
        networks=tuple(networks.split(",")),
        initializations=tuple(name for asked in init or DEFAULT for name in (ALL if asked == "all" else (asked,))),
        seeds=tuple(range(first_seed, first_seed + seeds)),
        epochs=epochs,
        optimizer=optimizer,
        lr=numbers("--lr", lr),
        batch=batch,
        target=numbers("--target", target),
        eval_every=eval_every,
        train_samples=train_samples,
        device=device,
    )
    source = _source(data_dir, npz)
    if (out.exists() and not out.is_dir()) or not out.resolve().parent.is_dir():
        raise ValueError(f"--out: expected a folder, or a new one in a folder that exists, got {out}")
    with _plain_warnings():
        run_and_write(plan, source, jobs, out, _console())


@app.command()
def select(
    file: Annotated[Path, typer.Argument(help=f"An .npz file with {ARRAYS_READ}.", show_default=False)],
    k: Annotated[int, typer.Option("--k", help="Neurons to pick.", show_default=False)],
    out: Annotated[Path, typer.Option(help=f"Where the picks go: {', '.join(ARRAYS_WRITTEN)}.")] = Path("picks.npz"),
    alpha: Alpha = 0.5,
    activation: Activation = "relu",
    by_class: Annotated[bool, typer.Option(help="Share k over the classes, or pick from the whole pool at once.")] = True,
    backend: Annotated[str, typer.Option(help="auto, reference, cpu or gpu.")] = "auto",
) -> None:
    """Run a campaign on the arrays of an .npz file and write the picks; under torchrun every process takes a share of X."""
    import nc_fast
    from nc_fast.files.read import read_npz
    from nc_fast.files.untrusted import replacing

    console = _console()
    with _plain_warnings(), torchrun.process_group() as group:
        torchrun.agreed(group, lambda: _writable("--out", out))
        arrays = torchrun.agreed(group, lambda: read_npz(file, required=("W", "X", "y"), optional=("bias",)))
        X, y = torchrun.share(group, arrays)
        result = nc_fast.campaign(
            arrays["W"],
            X,
            y,
            k,
            bias=arrays.get("bias", 0.0),
            alpha=alpha,
            activation=activation,
            by_class=by_class,
            backend=backend,
            progress=console.is_terminal,
            process_group=group,
        )
        if torchrun.rank() > 0:
            return
        picks: dict[str, Any] = {name: getattr(result, name) for name in ARRAYS_WRITTEN}
        with replacing(out) as draft:
            np.savez(draft, **picks)
    classes, counts = np.unique(result.groups, return_counts=True)
    console.print(f"{k} of {arrays['W'].shape[1]} candidates picked, restarts: {result.restarts}", highlight=False)
    per_class = ", ".join(f"{name}: {count}" for name, count in zip(classes, counts, strict=True))
    console.print(f"picks per class: {per_class}", markup=False, highlight=False)
    _say(console, f"picks: {out}")


@app.command()
def info() -> None:
    """Print versions, threads, SIMD level and backends: what a bug report needs."""
    from nc_fast.command.info import facts

    lines = list(facts())
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


def _source(data_dir: Path | None, npz: Path | None) -> Path | None:
    """Return what to load the data from; None: digits."""
    if data_dir and npz:
        raise ValueError("--data-dir and --npz: expected one of them, got both")
    if data_dir and not data_dir.is_dir():
        raise ValueError(f"--data-dir: expected a folder, got {data_dir}")
    return data_dir or npz


def _console() -> Console:
    from rich.console import Console

    return Console(quiet=torchrun.rank() > 0)


def _say(console: Console, line: str) -> None:
    """Print a line as it is: it may hold a path or a name of the user's."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _writable(option: str, path: Path) -> None:
    """Say before the work, not after it, that the result could not be written."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ValueError(f"{option}: expected a file in a folder that exists, got {path}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print each different warning as one line on stderr, after the work."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught if torchrun.rank() == 0):
        print(f"nc-fast: warning: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201  (a command may print)
