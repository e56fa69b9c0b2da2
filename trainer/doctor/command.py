"""Runs the checks: all of them for the `doctor` command, the cheap ones when a run starts."""

import os
from collections.abc import Mapping

from trainer.devices import accelerator
from trainer.doctor import checks, cluster, facts
from trainer.exit_codes import BY_NAME
from trainer.flags.run import Config
from trainer.flags.use import Doctor
from trainer.launch import pods


def command(config: Config, settings: Doctor) -> int:
    """Prints a line for each check; returns 0, or the code of bad usage if one found an error."""
    pods.check_sizes(settings)
    folder = config.folders.model_dir
    found = checks.findings(
        config,
        settings,
        facts.Facts(
            facts.python(),
            facts.packages(),
            accelerator.given(os.environ, accelerator.device_files()),
            workers=facts.workers(config.gang, os.environ),
            refused_gang=facts.refused_gang(config.gang, os.environ),
            sight=facts.sight(config.run, config.model.cell),
            data=facts.data(config.folders.data_dir),
            model_folder=facts.folder(folder) if folder else facts.Facts.model_folder,
            checkpoints=facts.checkpoints(folder) if folder else 0,
            source=facts.source(config.folders.init_from),
            cluster=cluster.look(settings.context, settings.namespace, settings.queue),
        ),
    )
    for finding in found:
        print(finding)
    errors, warnings = (
        sum(finding.level == level for finding in found) for level in (checks.ERROR, checks.WARNING)
    )
    print(f"{errors} error(s), {warnings} warning(s)")
    return BY_NAME["usage" if errors else "done"]


def at_start(config: Config, visible: Mapping[str, int]) -> list[checks.Finding]:
    """Returns the warnings of the checks that cost almost nothing.

    Raises UsageError with the first error found; StorageError if the disk is too small.

    Args:
      visible: {"CPU", "GPU", "TPU": number of devices that TensorFlow sees}.
    """
    known = facts.Facts(
        facts.python(),
        facts.packages(),
        accelerator.given(os.environ, accelerator.device_files()),
        sight=facts.Sight(visible),
        data=facts.described(config.folders.data_dir),
        model_folder=facts.free(config.folders.model_dir),
        checkpoints=facts.checkpoints(config.folders.model_dir),
    )
    warnings = []
    for check in checks.CHECKS:
        if check.at_start:
            finding = check.judge(config, known)
            if finding.level == checks.ERROR:
                raise check.error(f"{finding.subject}: {finding.text} {finding.remedy}")
            if finding.level == checks.WARNING:
                warnings.append(finding)
    return warnings
