# The sources of the plugins, beside the kernels. TENSORRT_ROOT/include has TensorRT's headers; there is no link to its
# library. They include each other from the repository's root.
set(TRTLLM_EXT_TENSORRT_SOURCES
    blob.cpp
    feed_forward.cpp
    feed_forward_plans.cpp
    fields.cpp
    gated_activation.cpp
    info.cpp
    layer.cpp
    logging.cpp
    operation.cpp
    plugin_v2.cpp
    plugin_v3.cpp
    plugin_v3_fields.cpp
    registration.cpp
    residual_norm.cpp
    tensorrt_library.cpp
    translate.cpp
    tuning_memory.cpp)
list(TRANSFORM TRTLLM_EXT_TENSORRT_SOURCES PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
set(TRTLLM_EXT_TENSORRT_EXPORTS "${CMAKE_CURRENT_LIST_DIR}/exports.map")
