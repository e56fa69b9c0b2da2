"""What a GPU would do with a traced program, read from the kernels that TensorFlow registers.

The wheel for GPUs registers its kernels on a machine without one too. A kernel says for which types
it is, and which of its arguments lie in the memory of the host: hence what would run on the CPU,
what the host would wait for, and how many kernels would be launched.
"""

import collections
import functools
from collections.abc import Collection, Iterator
from typing import NamedTuple

import tensorflow as tf
from tensorflow.core.framework import (
    attr_value_pb2,
    function_pb2,
    kernel_def_pb2,
    node_def_pb2,
    op_def_pb2,
    types_pb2,
)
from tensorflow.python.framework import kernels, op_def_registry

# Nodes that hand on what they get, or read a variable in its place.
_LAUNCH_NOTHING = """
    NoOp Const Identity IdentityN StopGradient PreventGradient Reshape Squeeze ExpandDims
    EnsureShape ReadVariableOp
""".split()
_HANDLES = (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT)

# (whether a tensor lies in the memory of the host, its type, the op that made it)
_Tensor = tuple[bool, int, str]


class Findings(NamedTuple):
    """Of one function with all that it calls; a loop's body and a function count at each call.

    without_kernel: {(op, types)} of nodes that no kernel for a GPU fits, in functions that XLA
    compiles of those for which XLA has none. to_host: {(op, op that takes its result, type)} of
    results on the GPU that the host waits for. launches: {op} of kernels launched; "XLA" is a
    program that XLA compiles. ops: {op} of all nodes.
    """

    without_kernel: collections.Counter
    to_host: collections.Counter
    launches: collections.Counter
    ops: collections.Counter


class Program:
    """A traced function with the library of those that it calls.

    on_host: ops that run on the CPU by design.
    """

    def __init__(
        self, traced: tf.types.experimental.ConcreteFunction, on_host: Collection[str] = ()
    ):
        self.main = traced.function_def
        self._functions = {
            function.signature.name: function
            for function in traced.graph.as_graph_def().library.function
        }
        self._on_host = on_host

    def functions(self, name: str = "") -> list[function_pb2.FunctionDef]:
        """Returns the functions that are called and have `name` in their names."""
        return [function for key, function in self._functions.items() if name in key]

    def that_holds(self, op: str) -> function_pb2.FunctionDef:
        """Returns the one function that holds a node of this op."""
        (found,) = (
            function
            for function in (self.main, *self._functions.values())
            if any(node.op == op for node in function.node_def)
        )
        return found

    def called_by(self, node: node_def_pb2.NodeDef) -> list[str]:
        """Returns the names of the functions that a node calls."""
        values = list(node.attr.values())
        names = [value.func.name for value in values if value.WhichOneof("value") == "func"]
        names += [function.name for value in values for function in value.list.func]
        return [*names, node.op] if node.op in self._functions else names

    def findings(
        self, of: function_pb2.FunctionDef | None = None, without: Collection[str] = ()
    ) -> Findings:
        """Returns what a GPU would do in one call of a function; of the main one if None.

        without: parts of the names of functions that are left out.
        """
        found = Findings(*(collections.Counter() for _ in Findings._fields))
        function = of or self.main
        self._follow(function, found, _compiled(function), without)
        return found

    def _follow(
        self,
        function: function_pb2.FunctionDef,
        found: Findings,
        xla: bool,
        without: Collection[str],
        condition: bool = False,
    ) -> None:
        """Adds what one call of a function does.

        xla: XLA compiles it. condition: it says whether a loop goes on, which the host must know.
        """
        tensors: dict[str, _Tensor] = {
            argument.name: (_handed_over_on_host(argument.type), argument.type, "Arg")
            for argument in function.signature.input_arg
        }
        folded = set(_constants(function))
        nodes = [(node, self._definition(node)) for node in function.node_def]
        for node, definition in nodes:
            found.ops[node.op] += 1
            kernel = None if self._on_cpu(node) else _kernel(node, definition, xla)
            called = self.called_by(node)
            results = collections.Counter()  # One argument may stand for many results.
            for argument, dtype in _arguments(definition.output_arg, node, definition):
                on_host = (
                    _handed_over_on_host(dtype)
                    if called
                    else node.name in folded or _in_host_memory(argument, kernel)
                )
                tensors[f"{node.name}:{argument}:{results[argument]}"] = on_host, dtype, node.op
                results[argument] += 1
            if node.op == "Identity":  # TensorFlow takes it out before the call.
                tensors[f"{node.name}:output:0"] = tensors[node.input[0]]
            for name in called:
                if not any(part in name for part in without):
                    callee = self._functions[name]
                    compiled = _compiled(callee) or _compiled(node)
                    found.launches["XLA"] += compiled and not xla
                    decides = "cond" in node.attr and node.attr["cond"].func.name == name
                    self._follow(callee, found, xla or compiled, without, decides)
            if called or self._on_cpu(node) or node.name in folded:
                continue
            if kernel is None:
                found.without_kernel[node.op, _types(node)] += 1
            elif not xla and _launches(node, definition, kernel):
                found.launches[node.op] += 1
        if not xla:
            for node, definition in nodes:
                if node.name not in folded and node.op != "Identity":
                    self._wait(node, definition, tensors, found)
            for argument in function.signature.output_arg:
                if condition or _handed_over_on_host(argument.type):
                    _count_wait(tensors, function.ret[argument.name], "Return", found)

    def _wait(self, node, definition, tensors: dict[str, _Tensor], found: Findings) -> None:
        """Adds those inputs of a node that lie on the GPU but must be in the host's memory."""
        kernel = None if self._on_cpu(node) else _kernel(node, definition, xla=False)
        called = self.called_by(node)
        sources = [source for source in node.input if not source.startswith("^")]
        arguments = _arguments(definition.input_arg, node, definition)
        for source, (argument, dtype) in zip(sources, arguments, strict=True):
            if _handed_over_on_host(dtype) if called else _in_host_memory(argument, kernel):
                _count_wait(tensors, source, node.op, found)

    def _definition(self, node: node_def_pb2.NodeDef) -> op_def_pb2.OpDef:
        return op_def_registry.get(node.op) or self._functions[node.op].signature

    def _on_cpu(self, node: node_def_pb2.NodeDef) -> bool:
        return node.op in self._on_host or "CPU" in node.device


def between(
    function: function_pb2.FunctionDef, first: Collection[str], last: str
) -> Iterator[node_def_pb2.NodeDef]:
    """Yields the nodes on the ways from the nodes `first`, by name, to the node `last`."""
    nodes = {node.name: node for node in function.node_def}

    @functools.cache
    def follows(name: str) -> bool:
        if name in first:
            return True
        return name in nodes and any(map(follows, _sources(nodes[name])))

    left, seen = [last], set(first)
    while left:
        for name in _sources(nodes[left.pop()]):
            if name not in seen and follows(name):
                seen.add(name)
                left.append(name)
                yield nodes[name]


def _sources(node: node_def_pb2.NodeDef) -> list[str]:
    """Returns the names of the nodes whose results a node takes."""
    return [source.split(":")[0] for source in node.input if not source.startswith("^")]


def _constants(function: function_pb2.FunctionDef) -> Iterator[str]:
    """Yields the names of constants and of what TensorFlow computes from them before any call."""
    found = set()
    for node in function.node_def:  # In their order: a node comes after those that it takes from.
        sources = _sources(node)
        definition = op_def_registry.get(node.op)
        pure = definition is not None and not definition.is_stateful
        if node.op == "Const" or (sources and pure and found.issuperset(sources)):
            found.add(node.name)
            yield node.name


def _count_wait(tensors: dict[str, _Tensor], source: str, by: str, found: Findings) -> None:
    on_host, dtype, op = tensors[source]
    if not on_host and dtype not in _HANDLES:
        found.to_host[op, by, _name(dtype)] += 1


def _handed_over_on_host(dtype: int) -> bool:
    """Returns whether functions take and return this type in the memory of the host."""
    return dtype == types_pb2.DT_INT32


def _in_host_memory(argument: str, kernel: kernel_def_pb2.KernelDef | None) -> bool:
    return kernel is None or argument in kernel.host_memory_arg


def _compiled(thing: node_def_pb2.NodeDef | function_pb2.FunctionDef) -> bool:
    """Returns whether XLA compiles a function, or what a node calls."""
    return "_XlaMustCompile" in thing.attr and thing.attr["_XlaMustCompile"].b


def _launches(node, definition: op_def_pb2.OpDef, kernel: kernel_def_pb2.KernelDef) -> bool:
    """Returns whether a node starts work on the GPU: not if its results lie with the host."""
    results = [name for name, _ in _arguments(definition.output_arg, node, definition)]
    on_host = results and all(name in kernel.host_memory_arg for name in results)
    return node.op not in _LAUNCH_NOTHING and not on_host


@functools.cache
def _kernels_of(op: str) -> list[kernel_def_pb2.KernelDef]:
    return list(kernels.get_registered_kernels_for_op(op).kernel)


def _kernel(node, definition: op_def_pb2.OpDef, xla: bool) -> kernel_def_pb2.KernelDef | None:
    """Returns the kernel that a GPU takes for a node, or XLA compiling for one; None if none."""
    fitting = {one.device_type: one for one in _kernels_of(node.op) if _fits(one, node, definition)}
    return fitting.get("XLA_GPU_JIT") if xla else fitting.get("GPU") or fitting.get("DEFAULT")


def _fits(kernel: kernel_def_pb2.KernelDef, node, definition: op_def_pb2.OpDef) -> bool:
    """Returns whether a kernel is for the types of a node."""

    def types(name: str) -> list[int]:
        value = _attribute(name, node, definition)
        return [value.type] if value.WhichOneof("value") == "type" else list(value.list.type)

    return not kernel.label and all(
        set(types(constraint.name)) <= set(constraint.allowed_values.list.type)
        for constraint in kernel.constraint
    )


def _attribute(name: str, node, definition: op_def_pb2.OpDef) -> attr_value_pb2.AttrValue:
    if name in node.attr:
        return node.attr[name]
    return next(one.default_value for one in definition.attr if one.name == name)


def _arguments(arguments, node, definition: op_def_pb2.OpDef) -> list[tuple[str, int]]:
    """Returns (argument, type) of each tensor that a node takes or returns."""
    found = []
    for one in arguments:
        if one.type_list_attr:
            types = _attribute(one.type_list_attr, node, definition).list.type
        else:
            count = _attribute(one.number_attr, node, definition).i if one.number_attr else 1
            types = [one.type or _attribute(one.type_attr, node, definition).type] * count
        found += [(one.name, dtype) for dtype in types]
    return found


def _types(node: node_def_pb2.NodeDef) -> str:
    return ",".join(sorted({_name(value.type) for value in node.attr.values() if value.type}))


def _name(dtype: int) -> str:
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
