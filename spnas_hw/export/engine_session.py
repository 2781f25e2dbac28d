"""Runs model.engine of this folder as ONNX Runtime runs a model.

Needs numpy, cuda-bindings and what the engine was built by, tensorrt or tensorrt_rtx of the same version.
"""

import importlib

import numpy as np
from cuda.bindings import runtime as cuda


def call(name, *arguments):
    """What a CUDA function answers."""
    error, *answer = getattr(cuda, name)(*arguments)
    if error != cuda.cudaError_t.cudaSuccess:
        raise SystemExit(f"{name} failed: {error.name}")
    return answer[0] if answer else None


class EngineSession:
    """An engine on CUDA's first device, its inputs and outputs in fixed memory."""

    def __init__(self, plan, runtime):
        trt = importlib.import_module(runtime.replace("-", "_"))
        call("cudaSetDevice", 0)
        self.stream = call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.runtime.engine_host_code_allowed = True  # which version-compatible engines bring
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise SystemExit(f"model.engine does not fit {runtime} {trt.__version__} or this GPU")
        self.context = self.make_context(trt)
        if self.context is None:
            raise SystemExit("model.engine makes no execution context: too little memory?")
        self.tensors = {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            dtype = trt.nptype(self.engine.get_tensor_dtype(name))
            host = np.empty(tuple(self.engine.get_tensor_shape(name)), dtype)
            self.tensors[name] = host, call("cudaMalloc", host.nbytes)
            self.context.set_tensor_address(name, self.tensors[name][1])

    def make_context(self, trt):
        """Most engines of TensorRT-RTX want to be given their scratch memory."""
        if not hasattr(self.engine, "create_runtime_config"):
            return self.engine.create_execution_context()
        strategies = trt.ExecutionContextAllocationStrategy
        for strategy in (strategies.USER_MANAGED, strategies.STATIC):
            self.config = self.engine.create_runtime_config()
            self.config.set_execution_context_allocation_strategy(strategy)
            context = self.engine.create_execution_context(self.config)
            if context is not None:
                break
        if context is not None and strategy == strategies.USER_MANAGED:
            size = max(self.engine.device_memory_size_v2, 1)
            context.set_device_memory(call("cudaMalloc", size), size)
        return context

    def run(self, names, feeds):
        """Arrays by name -> the arrays that `names` tells."""
        kinds = cuda.cudaMemcpyKind
        for name, array in feeds.items():
            host, address = self.tensors[name]
            host[...] = array
            kind = kinds.cudaMemcpyHostToDevice
            call("cudaMemcpyAsync", address, host.ctypes.data, host.nbytes, kind, self.stream)
        if not self.context.execute_async_v3(int(self.stream)):
            raise SystemExit("the engine did not run")
        for name in names:
            host, address = self.tensors[name]
            kind = kinds.cudaMemcpyDeviceToHost
            call("cudaMemcpyAsync", host.ctypes.data, address, host.nbytes, kind, self.stream)
        call("cudaStreamSynchronize", self.stream)
        return [self.tensors[name][0].copy() for name in names]
