"""Turns a command line into Jobs, one per mode, before the first mode starts.

Checkpoints, run folders and datasets are looked up here, so that mistakes are found before the work
begins. A Job is complete and never changes. Only the results of earlier modes are missing in it.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from itertools import islice
from typing import Any

import torch

from commands import kinds
from commands.fitted import with_fitted_defaults
from commands.flags import option_values, options_of, with_flags
from commands.model_source import ModelSource, data_of
from commands.modes import Mode
from commands.options import COMPARING, COMPUTING, OPTIONS
from commands.parser import FORMER, CommandLine
from commands.request import Machine, Request
from commands.resume import apply_resume
from commands.stages import STAGE_OPTIONS, with_defaults
from data.datasets import DATASETS
from models.sampling import SamplingConfig
from training.runs import keep_settings
from utils.cuda_graphs import has_cuda_graphs
from utils.device import (
    check_works,
    choose_device,
    choose_precision,
    precision_name,
    set_up_device,
    settings_of_torch_kept,
)
from utils.errors import UserError, is_out_of_memory, one_line
from utils.hub import local_file
from utils.memory import keep_freed_memory
from utils.processes import Processes, launched_processes
from utils.progress import logging_kept, set_up_logging
from utils.workers import raise_file_limit

log = logging.getLogger(__name__)

COMPILERS = ("torch._dynamo", "torch._inductor")  # where the errors of torch.compile are defined


@contextmanager
def resolved(line: CommandLine) -> Iterator[dict[Mode, Any]]:
    """Make the Jobs of all modes; in the block the processes are connected.

    After the block a caller, such as a notebook, has its own settings of torch and logging again.

    Yields:
        The Jobs in the order in which they run; none for --dry_run, which only prints them.

    Raises:
        UserError: if the modes cannot run as asked; or if memory runs out in the block, or the
            networks cannot be compiled.
    """
    given, idle = line.given, set[str]()
    with logging_kept(), settings_of_torch_kept(), _errors_of_torch(line), _named_too(idle):
        # Messages of the lower folders name settings; the log shows the options instead.
        processes = launched_processes()
        set_up_logging(verbose=processes.is_main, rewrite=with_flags)
        raise_file_limit()
        idle |= idle_options(line)  # it imports the files of the modes
        # Complete the command line, and choose where to compute.
        for name in line.former:
            log.warning("the next version refuses %s; now: %s", name, FORMER[name])
        line = _with_local_files(line)
        for mode in line.modes:
            line = mode.ask("complete", line, line)
        line, continued = apply_resume(with_defaults(line))
        line = _with_local_files(line)  # those that a resumed run names
        machine = _choose_machine(line, processes)
        # A run keeps what "auto" became, because on another machine it could become another dtype.
        line = line.replace(precision=precision_name(machine.precision))
        if not line.dry_run:
            _check_processes(line, machine)
        # Make the Jobs, and let the caller run them.
        with processes.connected(machine.device):
            request = Request(line, machine, continued=continued)
            request = replace(request, line=with_fitted_defaults(request))
            jobs = _resolve_jobs(request)
            _log_idle(idle | (given & ignored_settings(jobs)))
            idle.clear()  # they are named once
            if line.dry_run:
                _show_options(request, jobs, given)
                _show_jobs(jobs)
                jobs = {}
            yield jobs


def _with_local_files(line: CommandLine) -> CommandLine:
    """Replace the names of checkpoints by paths of files, fetched if they are on the hub."""
    checkpoints = [name for name, option in OPTIONS.items() if option.kind is kinds.checkpoint]
    named = {name: getattr(line, name) for name in checkpoints}
    return line.replace(**{name: str(local_file(file)) for name, file in named.items() if file})


def _resolve_jobs(request: Request) -> dict[Mode, Any]:
    """Make the Job of each mode, so that a mistake in a later mode shows before any mode runs."""
    line = request.line
    # Find the mistakes that need no file to be seen.
    for mode in line.modes:
        mode.ask("check", line)
    spec = DATASETS[line.dataset]
    # commands/model_source.py compares the number with that of a model in a file.
    if spec.num_classes is not None and not line.checkpoint:
        request.check_n_classes(spec.num_classes, spec.name)
    # Make the Jobs; each request has the Jobs before it.
    for mode in line.modes:
        job = mode.module().resolve(request)
        request = replace(request, jobs={**request.jobs, mode.name: job})
    return {mode: request.jobs[mode.name] for mode in line.modes}


def keep_options(jobs: Mapping[Mode, Any]) -> None:
    """Write the options of new runs, so that --resume knows them whenever the command stops."""
    stages = {of_stage.mode: stage for stage, of_stage in STAGE_OPTIONS.items()}
    for mode, job in jobs.items():
        if mode.name in stages and job.machine.processes.is_main:
            keep_settings(stages[mode.name], job.run, job.record)


def _show_options(request: Request, jobs: Mapping[Mode, Any], given: frozenset[str]) -> None:
    """Print for --dry_run the options that act in the modes, and what follows from them.

    A family or a model decides some that the user leaves out: the Jobs have their values.
    `given` are those that the user wrote; `line.given` also has some of a resumed run.
    """
    line, machine = request.line, request.machine
    models = (one for one in request.opened.values() if isinstance(one, ModelSource))
    acting, used = acting_options(line), dict[str, list[Any]]()
    for model in islice(models, 1):
        used["dataset"] = [model.dataset]
        if "data_dir" in acting:  # others ignore how the images of the model are shown
            used["data_dir"] = [data_of(request, model).folder]
    for config in (config for job in jobs.values() for config in _configs_in(job)):
        for name, value in option_values(config).items():
            used[name] = [*(one for one in used.get(name, []) if one != value), value]
    # The shape of a network that is not new is in its file. The modes say how many images.
    elsewhere = {o.name for o in OPTIONS.values() if o.compared} - used.keys() | {"num_samples"}
    elsewhere |= ignored_settings(jobs)
    for name in sorted(acting - elsewhere | given):
        value = ", ".join(map(str, used.get(name) or [getattr(line, name)]))
        if name in given:
            _row(name, f"{getattr(line, name)}  (given)")
        elif value not in ("None", "False", "[]"):  # options that are off say nothing
            _row(name, value)
    if not line.checkpoint:  # its results go to the folder of its own run
        _row("run folder", request.run().path)
    _row("device, precision", f"{machine.device}, {machine.precision}")


def _configs_in(part: Any) -> Iterator[Any]:
    """Yield the configs in a part of a Job that options fill."""
    kind: Any = type(part)
    if is_dataclass(part) and options_of(kind):
        yield part
        return
    parts = part if isinstance(part, list) else []
    if is_dataclass(part) and kind is not ModelSource:  # which has settings to choose from
        parts = [getattr(part, field.name) for field in fields(part)]
    for one in parts:
        yield from _configs_in(one)


def _show_jobs(jobs: Mapping[Mode, Any]) -> None:
    """Print what each mode's `describe` says. The plan is a table and comes last."""
    shown: set[tuple[str, str]] = set()
    plan = None
    for mode, job in jobs.items():
        described = mode.ask("describe", job, {})
        plan = described.pop("plan", plan)
        for name, value in described.items():
            if (name, str(value)) not in shown:  # modes with the same model repeat rows
                _row(name, value)
            shown.add((name, str(value)))
    if plan:
        log.info("%s", plan)


def _row(name: str, value: Any) -> None:
    """Print a name and its value in two columns."""
    log.info("%-22s %s", name, value)


def _choose_machine(line: CommandLine, processes: Processes) -> Machine:
    """Choose device and precision, and set torch up for them."""
    device = processes.own_device(choose_device(line.device))
    if {mode.name for mode in line.modes} & (COMPUTING | {"page"}):
        check_works(device)
    precision = choose_precision(line.precision, device)
    set_up_device(device, precision, line.deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    if line.compile == "on" and "compile" in acting_options(line) and not line.dry_run:
        log.info("torch.compile: the first batch of each kind takes a minute or more")
    records = line.compile == "auto" and has_cuda_graphs(device)
    return Machine(device, precision, processes, line.compile == "on", records)


def _check_processes(line: CommandLine, machine: Machine) -> None:
    """Refuse several processes for a mode that runs in one only."""
    for mode in line.modes:
        if machine.processes.size > 1 and not mode.runs_shared:
            raise UserError(
                f"--{mode.name} uses one process and this is one of {machine.processes.size} "
                "(WORLD_SIZE): run it alone first, without torchrun"
            )


def idle_options(line: CommandLine) -> set[str]:
    """List the names of options that the user gave and that no mode uses."""
    idle = set(line.given & OPTIONS.keys()) - acting_options(line)
    if COMPARING & {mode.name for mode in line.modes}:
        idle -= {option.name for option in OPTIONS.values() if option.compared}
    return idle


def _log_idle(names: Collection[str]) -> None:
    """Log which options of the command line have no effect."""
    if names:
        flags = ", ".join(OPTIONS[name].flag for name in sorted(names))
        log.warning("no effect here: %s", flags)


@contextmanager
def _named_too(idle: Collection[str]) -> Iterator[None]:
    """After a mistake in the block, log the idle options that its message does not name.

    The user may believe that such an option prevents the mistake.
    """
    try:
        yield
    except UserError as error:
        said = re.findall(r"--([\w-]+)", with_flags(str(error)))
        _log_idle([name for name in idle if OPTIONS[name].spelling not in said])
        raise


def ignored_settings(jobs: Mapping[Mode, Any]) -> set[str]:
    """List the names of the sampling options that samplers and guidance schedules all ignore."""
    configs = [config for job in jobs.values() for config in _configs_in(job)]
    ignored = [config.ignored for config in configs if isinstance(config, SamplingConfig)]
    named = options_of(SamplingConfig)
    return {named[field] for field in set.intersection(*ignored)} if ignored else set()


def acting_options(line: CommandLine) -> set[str]:
    """List the names of the options that act in the modes."""
    acting = set()
    for mode in line.modes:
        of_mode = {option.name for option in OPTIONS.values() if mode.name in option.modes}
        acting |= of_mode - mode.ask("ignores", line, set())
    return acting


@contextmanager
def _errors_of_torch(line: CommandLine) -> Iterator[None]:
    """Turn a lack of memory in the block, or a failure of torch.compile, into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(_memory_hint(line)) from error
        # It needs a C compiler, and its compiler for GPUs does not know older ones.
        if line.compile == "on" and type(error).__module__.startswith(COMPILERS):
            reason = f"torch.compile fails ({one_line(error)}): leave out --compile"
            raise UserError(reason) from error
        raise


def _memory_hint(line: CommandLine) -> str:
    """Return the message for a lack of memory: the sizes, and what to lower."""
    if line.asks_for("distill"):
        return (
            f"out of memory at --batch_size_distill {line.batch_size_distill}: lower it, or take a "
            "smaller model"
        )
    keeps_more = line.compile == "auto" and torch.cuda.is_initialized()
    graphs = ", or give --compile off: CUDA graphs keep the memory of a step" if keeps_more else ""
    return (
        f"out of memory at batch size {line.batch_size} (--batch_size_vae {line.batch_size_vae} in "
        f"stage 1), --size {line.size or 'of the dataset'}: lower the batch size, raise "
        f"--grad_accum, take a smaller --size or model{graphs}"
    )
