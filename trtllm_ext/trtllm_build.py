"""The file for `trtllm-build --model_cls_file`: this package's models as classes that TensorRT-LLM builds.

    trtllm-build --checkpoint_dir CKPT --output_dir E \
        --model_cls_file "$(python -m trtllm_ext.trtllm_build)" --model_cls_name SublayerStack

Loading it also tells TensorRT-LLM's own readers of checkpoints and engine directories of these architectures, so
`import trtllm_ext.trtllm_build` goes before `tensorrt_llm.builder.Engine.from_dir`. Run as a module it prints its path.
"""

import sys

if __name__ == "__main__":
    sys.stdout.write(f"{__file__}\n")
else:
    from trtllm_ext.tensorrt_llm.model_classes import Encoder, SublayerStack

    __all__ = ["Encoder", "SublayerStack"]
