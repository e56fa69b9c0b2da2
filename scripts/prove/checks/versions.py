"""a. Which device, driver and libraries: everything that another proof may differ in."""

from scripts.prove import machine as machines
from scripts.prove.machine import Machine
from scripts.prove.report import Found


def check(machine: Machine, found: Found) -> None:
    """Expects that TensorFlow sees the device and has kernels for it."""
    seen = machine.answer(machine.program("sight", machine.accelerator))
    found.figure("processor", machines.processor())
    found.figure("packages", seen["versions"])
    found.figure("variables", seen["variables"])
    if machine.accelerator == "cpu":
        found.on(machines.processor())
        found.expect(seen["visible"]["CPU"] > 0, "TensorFlow sees no CPU")
    elif machine.accelerator == "gpu":
        on_gpu(seen, found)
    else:
        tpu = seen["tpu"]
        found.figure("TPU cores before and after initialisation", [tpu["before"], tpu["after"]])
        found.figure("seconds of initialisation", tpu["seconds"])
        found.on(f"{tpu['after']} TPU cores")
        found.expect(tpu["after"] > 0, "TensorFlow sees no TPU core")


def on_gpu(seen: dict, found: Found) -> None:
    """Expects a GPU for which this TensorFlow has kernels."""
    from trainer.devices import cuda

    found.figure("TensorFlow's build", seen["build"])
    query = "--query-gpu=name,driver_version,memory.total,compute_cap,pstate"
    found.figure("nvidia-smi", machines.nvidia_smi(query, "--format=csv,noheader").strip())
    for name in ("libcuda", "cudnn", "nccl"):
        found.figure(name, seen[name] or "not loaded")
    if not seen["gpus"]:
        found.expect(False, "TensorFlow sees no GPU")
        return
    found.on(", ".join(gpu["name"] for gpu in seen["gpus"]))
    for number, gpu in enumerate(seen["gpus"]):
        form = cuda.form(tuple(gpu["capability"]), seen["built_for"])
        capability = ".".join(map(str, gpu["capability"]))
        found.figure(f"GPU {number}", f"{gpu['name']}, capability {capability}, kernels: {form}")
        found.expect(
            form != "none",
            f"this TensorFlow has no kernels for capability {capability}: it was built for "
            f"{', '.join(seen['built_for'])}",
        )
