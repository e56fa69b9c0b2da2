"""`trainer submit`: prints or starts a job on its target, reports on it, stops it."""

import logging

from trainer import stopping
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import SLURM, Submit
from trainer.gang import proof
from trainer.launch import kubectl, kubernetes, local, pods, slurm, tpu_vm, tpu_vm_run, vertex
from trainer.launch.spec import JobSpec, check_own

log = logging.getLogger(__name__)


def start(submit: Submit, train: configuration.Config) -> int:
    """Prints the job, or starts it; returns the exit code, with --follow the one of the job."""
    return TARGETS[submit.target](submit, train)


def stop(submit: Submit) -> int:
    """Stops the job; returns when its workers have written a checkpoint and are gone."""
    log.info("stopping %s: its workers write a checkpoint", submit.stop)
    if submit.target == SLURM:
        slurm.stop(submit.stop)
        print(f"{submit.stop} is being cancelled; the same submit continues it.")
        return BY_NAME["done"]
    kubectl.stop(_client(submit), submit.stop, _say)
    print(f"{submit.stop} is stopped; its volumes stay, and the same submit continues it.")
    return BY_NAME["done"]


def status(submit: Submit) -> int:
    """Prints the state of the job."""
    lines = (
        slurm.status(submit.status)
        if submit.target == SLURM
        else kubectl.status(_client(submit), submit.status)
    )
    print("\n".join(lines))
    return BY_NAME["done"]


def _kubernetes(submit: Submit, train: configuration.Config) -> int:
    spec, client = JobSpec.of(submit, train), _client(submit)
    manifest = kubernetes.render(spec, proof.fresh_token())
    if submit.apply:
        _warn_of_autopilot(submit, client)
        print(kubectl.apply(client, spec.name, manifest) + _afterwards(spec, client), flush=True)
    elif not submit.follow:
        print(manifest, end="")
    return _follow(client, spec.name) if submit.follow else BY_NAME["done"]


def _warn_of_autopilot(submit: Submit, client: kubectl.Kubectl) -> None:
    if not pods.names_kind_of_gpu(submit) and "auto.gke.io/" in client("api-versions"):
        log.warning(
            "--gpus=%d: the cluster is GKE Autopilot, which makes a node for each pod. Name the "
            "kind of GPU with --node_selector=%s=nvidia-l4 or another one, or a compute class "
            "with --node_selector=%s=NAME",
            submit.gpus,
            pods.ACCELERATOR,
            pods.COMPUTE_CLASS,
        )


def _follow(client: kubectl.Kubectl, name: str) -> int:
    try:
        return kubectl.follow(client, name, _say)
    except KeyboardInterrupt:
        log.info("%s keeps running; see --status=%s, or end it with --stop=%s", name, name, name)
        return BY_NAME["interrupted"]


def _afterwards(spec: JobSpec, client: kubectl.Kubectl) -> str:
    where = "".join(f" {flag}" for flag in client.command[1:])
    folder = spec.train.folders.model_dir
    look = (
        f"{' '.join(client.command)} port-forward service/{spec.name}-tensorboard "
        f"{kubernetes.TENSORBOARD_PORT}   then http://localhost:{kubernetes.TENSORBOARD_PORT}"
        if spec.submit.tensorboard
        else f"scripts/tensorboard.sh {spec.name}:{folder}{where}   (or submit with --tensorboard)"
    )
    command = f"python -m trainer submit{where}"
    return (
        f"\nwatch        {command} --status={spec.name}\n"
        f"logs         {' '.join(client.command)} logs --follow --prefix "
        f"--selector=app.kubernetes.io/instance={spec.name}\n"
        f"TensorBoard  {look}\n"
        f"stop         {command} --stop={spec.name}"
    )


def _client(submit: Submit) -> kubectl.Kubectl:
    return kubectl.Kubectl(submit.context, submit.namespace)


def _say(line: str) -> None:
    print(line, flush=True)


def _local(submit: Submit, train: configuration.Config) -> int:
    check_own(submit, train)
    return local.run(train, submit.workers, configuration.as_flags(train))


def _tpu_vm(submit: Submit, train: configuration.Config) -> int:
    if train.run.accelerator not in ("auto", "tpu") or train.run.strategy not in ("auto", "tpu"):
        raise UsageError(
            f"--accelerator={train.run.accelerator} and --strategy={train.run.strategy}: "
            "--target=tpu_vm trains on the TPUs of one host. Leave them out."
        )
    # Its rules are checked here, and not when the VM that was paid for runs.
    train = configuration.replace(train, strategy="tpu", accelerator="tpu")
    own = ("data_dir", "model_dir", "accelerator", "strategy", "grace_seconds")
    job = tpu_vm.TpuVmJob(
        submit.name,
        submit.image,
        submit.zone,
        submit.tpu,
        train.folders.data_dir,
        train.folders.model_dir,
        tuple(configuration.as_flags(train, without=own)),
        submit.runtime_version,
        submit.project,
        "" if submit.service_account == "default" else submit.service_account,
        submit.spot,
        submit.valid_until,
        train.gang.grace_seconds,
    )
    if not submit.apply:
        print(tpu_vm.as_shell(job), end="")
        return BY_NAME["done"]
    stopping.unwind_on_sigterm()
    return tpu_vm_run.run(job)


def _vertex(submit: Submit, train: configuration.Config) -> int:
    job = vertex.VertexJob.of(submit, train, proof.fresh_token())
    if not submit.apply:
        print(vertex.as_shell(job), end="")
        return BY_NAME["done"]
    print(vertex.apply(job))
    return BY_NAME["done"]


def _slurm(submit: Submit, train: configuration.Config) -> int:
    job = slurm.SlurmJob.of(submit, train)
    if not submit.apply:
        print(slurm.render(job), end="")
        return BY_NAME["done"]
    number = slurm.apply(job)
    command = "python -m trainer submit --target=slurm"
    print(
        f"job {number} is queued\n"
        f"watch        {command} --status={submit.name}\n"
        f"logs         tail -F {job.output.replace('%j', number)}\n"
        f"stop         {command} --stop={submit.name}"
    )
    return BY_NAME["done"]


TARGETS = {
    "kubernetes": _kubernetes,
    "local": _local,
    "tpu_vm": _tpu_vm,
    "vertex": _vertex,
    "slurm": _slurm,
}
