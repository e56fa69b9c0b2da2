"""The flags of the commands that use a run."""

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.use import Evaluate, Export, Predict


@pytest.mark.parametrize(
    "section, default", [(Evaluate, "auto"), (Predict, "cpu"), (Export, "cpu")]
)
def test_a_command_that_uses_a_model_runs_on_a_cpu_or_a_gpu(section, default):
    assert section().accelerator == default
    for kind in ("auto", "cpu", "gpu"):
        assert section(accelerator=kind).accelerator == kind
    with pytest.raises(UsageError, match="--accelerator=tpu: must be one of auto | cpu | gpu"):
        section(accelerator="tpu")
