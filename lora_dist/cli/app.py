"""The command line: arguments in, table and exit code out. What a verb does is in `lora_dist.verbs`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from lora_dist.assets import user_path
from lora_dist.cli.adapter import adapter_app
from lora_dist.cli.arguments import Words, experiment_of
from lora_dist.cli.check_data import check_data
from lora_dist.cli.evaluate import evaluate
from lora_dist.cli.exits import Commands, run_to_exit
from lora_dist.cli.jobs import Folder, cancel, is_for_cluster, prepare_comparison, retry, submit_jobs, submit_one
from lora_dist.cli.output import finish, print_comparison, print_runs, show_result, stdout
from lora_dist.cli.prefetch import prefetch
from lora_dist.cli.recipes import recipes_app
from lora_dist.errors import RunsFailed, UserError

app = typer.Typer(
    name="lora-dist",
    cls=Commands,
    help="Name a model, a dataset and the hardware; every method runs, and one honest comparison answers.",
    epilog="Exit codes: 0 done, 1 our fault, 2 yours to mend (named in a line), 3 some runs failed, 4 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(adapter_app, name="adapter")
app.add_typer(recipes_app, name="recipes")


OneLauncher = Annotated[str | None, typer.Option(help="slurm: as a job of a cluster; this process, if not given.")]
Wait = Annotated[bool, typer.Option("--wait", help="With --launcher slurm: follow the jobs to their end.")]


@app.command()
def compare(
    words: Words = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            help="inline: one run after the other. local: several at a time, over this machine's GPUs. accelerate: "
            "each run on several ranks (launch.config=ddp, zero2, ...). slurm: jobs of a cluster."
        ),
    ] = None,
    gpus_per_run: Annotated[int | None, typer.Option(help="With --launcher local: GPUs of each run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs (or jobs), start nothing.")] = False,
    wait: Wait = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Check the runs, tokenise and make their folders; start none.")
    ] = False,
) -> None:
    """Do every run of every arm, then show the comparison. The same command resumes."""
    experiment = experiment_of(words, launcher=launcher, gpus_per_run=gpus_per_run)
    if prepare:
        prepare_comparison(experiment)
        return
    if experiment.launch.launcher == "slurm":
        look = submit_jobs(experiment, dry_run=dry_run, wait=wait)
        if look is not None:
            from lora_dist.verbs.compare import result_of

            show_result(result_of(experiment), look)
        return
    if dry_run:
        from lora_dist.verbs.preview import free_bytes, preview

        print_runs(preview(experiment), free_bytes(experiment))
        return
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.compare import compare as do_compare

    with ProgressView() as view:
        result = do_compare(experiment, listener=view)
    show_result(result)


@app.command()
def train(
    words: Words = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, if the experiment has several.")] = None,
    launcher: OneLauncher = None,
    wait: Wait = False,
) -> None:
    """Do one run with all its stages, to its record."""
    experiment = experiment_of(words, launcher=launcher)
    if is_for_cluster(launcher):
        from lora_dist.verbs.train import only_run

        submit_one(experiment, only_run(experiment, arm).id, wait=wait)
        return
    from lora_dist.cli.progress import StageView
    from lora_dist.verbs.report import report as do_report
    from lora_dist.verbs.train import train as do_train
    from lora_dist.world import current_world

    with StageView() as view:
        record = do_train(experiment, arm=arm, progress=view)
    if not current_world().is_first:
        return
    folder = user_path(experiment.output_dir) / experiment.name
    print_comparison(do_report([folder]))
    finish({"record": folder / record.run_id / "record.json", "model": folder / record.run_id / "model"}, None)


@app.command()
def prune(
    words: Words = None,
    arm: Annotated[str | None, typer.Option(help="Which arm, if the experiment prunes in several ways.")] = None,
    blocks: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="With prune.mode=dense_inputs: only the blocks from A to before B."),
    ] = None,
    launcher: OneLauncher = None,
    wait: Wait = False,
) -> None:
    """Prune the model: SparseGPT, Wanda or magnitude, block by block. The same command resumes."""
    experiment = experiment_of(words, launcher=launcher)
    from lora_dist.cli.progress import StageView
    from lora_dist.cli.prune_output import print_pruned
    from lora_dist.verbs.prune import prune as do_prune
    from lora_dist.verbs.prune import run_to_prune
    from lora_dist.world import current_world

    if is_for_cluster(launcher):
        if blocks is not None:
            raise UserError(key="--blocks", problem="is for this process", fix="leave it out: jobs.prune.nodes shares")
        submit_one(experiment, run_to_prune(experiment, arm).id, wait=wait, prune_only=True)
        return
    with StageView() as view:
        pruned = do_prune(experiment, arm=arm, blocks=blocks, progress=view)
    if current_world().is_first:
        print_pruned(pruned, shlex.join(words or []))


@app.command(hidden=True)
def work(folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a job's file.")]) -> None:
    """Do what is missing of one run folder: what launchers start on every rank."""
    from lora_dist.verbs.work import work_on

    work_on(folder)


@app.command(hidden=True)
def give_back(
    file: Annotated[Path, typer.Argument(metavar="JOB_FILE", help="What the job was told.")],
    code: Annotated[int, typer.Argument(metavar="CODE", help="How its srun ended, and how this ends.")],
) -> None:
    """Give a cluster's job back to the queue if its ranks lost each other: for its script, when srun has failed."""
    from lora_dist.verbs.work import give_back as do_give_back

    do_give_back(file)
    raise typer.Exit(code)


app.command()(evaluate)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Experiment folders.")],
    into: Annotated[Path | None, typer.Option(help="Where the report goes; DIR/report by default.")] = None,
) -> None:
    """Write table, plots and page from the records."""
    from lora_dist.verbs.report import report as do_report

    print_comparison(do_report(folders, into=into))


@app.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until nothing runs.")] = False,
) -> None:
    """Show where every run of an experiment is. Ends with 3 when some have failed."""
    if watch and as_json:
        raise UserError(key="--watch", problem="is for people, --json for programs", fix="leave one of them out")
    from lora_dist.cli.output import print_status, with_failures
    from lora_dist.verbs.status import looks

    if watch:
        from lora_dist.cli.watch import follow

        look = follow(looks(folder))
    else:
        look = next(looks(folder))
    if print_status(with_failures(look, folder, as_json=as_json), as_json=as_json):
        raise typer.Exit(RunsFailed.exit_code)


app.command()(check_data)
app.command()(prefetch)
app.command()(retry)
app.command()(cancel)


@app.command()
def plan(
    words: Words = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs per machine, if not this one's.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines.")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one GPU, such as 80GiB.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Estimate the memory of every run, and how to launch it. Loads no weights."""
    from lora_dist.cli.plan_output import print_plans
    from lora_dist.verbs.plan import plan as do_plan

    print_plans(do_plan(experiment_of(words), gpus=gpus, nodes=nodes, gpu_memory=gpu_memory), as_json=as_json)


@app.command()
def clean(
    folder: Folder, dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, remove nothing.")] = False
) -> None:
    """Remove the checkpoints of finished runs; what is not finished keeps its own."""
    from lora_dist.cli.output import print_cleaned
    from lora_dist.verbs.clean import clean as do_clean

    print_cleaned(do_clean(folder, dry_run=dry_run), dry_run=dry_run)


@app.command()
def schema() -> None:
    """Print the JSON schema of an experiment file, for editors."""
    from lora_dist.config.schema import experiment_schema

    stdout.print(json.dumps(experiment_schema(), indent=2), highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    run_to_exit(app)
