"""What a GPU would do with a traced program, read from the kernels that TensorFlow registers.

The wheel for GPUs registers its kernels on a machine without one too. A kernel says for which types
it is and which of its arguments lie in the memory of the host: hence what would run on the CPU, what
the host would wait for, and how many kernels would be launched.
"""

import collections
import functools
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2, node_def_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import kernels, op_def_registry

_HOST, _DEVICE = "host", "device"
# They hold no kernel of their own, or one that computes nothing.
_FREE = """
    NoOp Const Placeholder Identity IdentityN StopGradient PreventGradient Reshape Squeeze ExpandDims
    ReadVariableOp EnsureShape
""".split()


class Findings(NamedTuple):
    """Of one program with all functions that it calls.

    without_kernel: {(op, types)} of nodes that no kernel for GPUs fits. to_host: {(op, op that
    takes its result, type)}: results on the GPU that the host waits for. launches: kernels launched;
    a program of XLA is one. compiled: functions that XLA compiles. ops: all nodes by op.
    """

    without_kernel: collections.Counter
    to_host: collections.Counter
    launches: collections.Counter
    compiled: collections.Counter
    ops: collections.Counter


class Program:
    """A traced function, with the library of those that it calls."""

    def __init__(self, traced: tf.types.experimental.ConcreteFunction):
        library = traced.graph.as_graph_def().library.function
        self.functions = {function.signature.name: function for function in library}
        self.main = traced.function_def

    def bodies(self) -> Iterator:
        """Yields each function once."""
        yield self.main
        yield from self.functions.values()

    def findings(self, of=None) -> Findings:
        """Returns what a GPU would do with one call of `of`, the main function if None.

        Each place of a call counts, so that a function called twice is found twice. The body of a
        loop counts once.
        """
        found = Findings(*(collections.Counter() for _ in Findings._fields))
        self._follow(of or self.main, found, xla=_must_compile(of or self.main))
        return found

    def _follow(self, function, found: Findings, xla: bool) -> None:
        memory = {
            argument.name: (_of_argument(argument.type), argument.type, "Arg")
            for argument in function.signature.input_arg
        }
        for node in function.node_def:
            self._enter(node, found, xla)
            definition = op_def_registry.get(node.op)
            if definition is None:  # A function called by its name.
                definition = self.functions[node.op].signature
            kernel = None if _on_cpu(node) else _kernel(node, definition, xla)
            found.ops[node.op] += 1
            missing = kernel is None and node.op not in self.functions and not _on_cpu(node)
            if missing and node.op not in _FREE:
                found.without_kernel[node.op, _types(node)] += 1
            calls = _calls(node) or node.op in self.functions
            for name, dtype in _arguments(definition.output_arg, node, definition):
                if calls:
                    place = _of_argument(dtype)
                elif kernel is None:
                    place = _HOST
                else:
                    place = _HOST if name in kernel.host_memory_arg else _DEVICE
                memory[f"{node.name}:{name}"] = place, dtype, node.op
            if not xla and kernel is not None and not calls and _launches(node, definition, kernel):
                found.launches[node.op] += 1
        if xla:
            return
        for node in function.node_def:
            definition = op_def_registry.get(node.op) or self.functions[node.op].signature
            kernel = None if _on_cpu(node) else _kernel(node, definition, xla)
            calls = _calls(node) or node.op in self.functions
            sources = [source for source in node.input if not source.startswith("^")]
            wanted = _arguments(definition.input_arg, node, definition)
            for source, (name, dtype) in zip(sources, wanted, strict=True):
                if calls:
                    takes = _of_argument(dtype)
                else:
                    on_host = kernel is None or name in kernel.host_memory_arg
                    takes = _HOST if on_host else _DEVICE
                _edge(found, memory, source, takes, node.op)
        for argument in function.signature.output_arg:
            takes = _of_argument(argument.type)
            _edge(found, memory, function.ret[argument.name], takes, "Return")

    def _enter(self, node, found: Findings, xla: bool) -> None:
        for name in _called(node) + [node.op] * (node.op in self.functions):
            function = self.functions[name]
            compiled = _must_compile(function) or _must_compile(node)
            if compiled and not xla:
                found.compiled[name] += 1
                found.launches["XLA"] += 1
            self._follow(function, found, xla or compiled)


def _edge(found: Findings, memory: dict, source: str, takes: str, by: str) -> None:
    place, dtype, op = memory[":".join(source.split(":")[:2])]
    if dtype in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT):
        return
    if place == _DEVICE and takes == _HOST:
        found.to_host[op, by, _name(dtype)] += 1


def _of_argument(dtype: int) -> str:
    """Returns where the runtime keeps arguments and results of functions."""
    return _HOST if dtype == types_pb2.DT_INT32 else _DEVICE


def _must_compile(node_or_function) -> bool:
    return node_or_function.attr["_XlaMustCompile"].b


def _on_cpu(node: node_def_pb2.NodeDef) -> bool:
    # An iterator lies on the CPU, and so does what takes from it.
    return "CPU" in node.device or node.op == "IteratorGetNext"


def _called(node: node_def_pb2.NodeDef) -> list[str]:
    names = []
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            names.append(value.func.name)
        names += [function.name for function in value.list.func]
    return [name for name in names if name]


def _calls(node: node_def_pb2.NodeDef) -> bool:
    return bool(_called(node))


def _types(node: node_def_pb2.NodeDef) -> str:
    found = {_name(value.type) for value in node.attr.values() if value.type}
    return ",".join(sorted(found))


def _name(dtype: int) -> str:
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


@functools.cache
def _kernels_of(op: str) -> list[kernel_def_pb2.KernelDef]:
    return list(kernels.get_registered_kernels_for_op(op).kernel)


def _kernel(
    node: node_def_pb2.NodeDef, definition: op_def_pb2.OpDef, xla: bool
) -> kernel_def_pb2.KernelDef | None:
    """Returns the kernel that a GPU would take for a node, None if there is none.

    xla: what XLA would take when it compiles for a GPU.
    """
    fitting = [one for one in _kernels_of(node.op) if _fits(one, node, definition)]
    for device in ("XLA_GPU_JIT",) if xla else ("GPU", "DEFAULT"):
        for one in fitting:
            if one.device_type == device:
                return one
    return None


def _fits(kernel, node, definition) -> bool:
    if kernel.label:
        return False
    for constraint in kernel.constraint:
        value = _attribute(constraint.name, node, definition)
        types = [value.type] if value.WhichOneof("value") == "type" else value.list.type
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _attribute(name: str, node, definition):
    if name in node.attr:
        return node.attr[name]
    return next(one.default_value for one in definition.attr if one.name == name)


def _arguments(arguments, node, definition) -> list[tuple[str, int]]:
    """Returns (name, type) of each tensor of a node's inputs or outputs."""
    found = []
    for one in arguments:
        if one.type_list_attr:
            types = _attribute(one.type_list_attr, node, definition).list.type
        else:
            count = _attribute(one.number_attr, node, definition).i if one.number_attr else 1
            types = [one.type or _attribute(one.type_attr, node, definition).type] * count
        found += [(one.name, dtype) for dtype in types]
    return found


def _launches(node, definition, kernel) -> bool:
    if node.op in _FREE:
        return False
    outputs = [name for name, _ in _arguments(definition.output_arg, node, definition)]
    return not outputs or not all(name in kernel.host_memory_arg for name in outputs)
