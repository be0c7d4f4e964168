# The sources of the plugins, beside the kernels. TENSORRT_ROOT/include has TensorRT's headers; there is no link to its
# library. They include each other from the repository's root.

# What any library of plugins is made of, whichever its operations are.
set(TRTLLM_EXT_TENSORRT_ADAPTERS
    blob.cpp
    fields.cpp
    info.cpp
    layer.cpp
    logging.cpp
    operation.cpp
    plugin_v2.cpp
    plugin_v3.cpp
    plugin_v3_fields.cpp
    refused_plugin_v2.cpp
    registration.cpp
    tensorrt_library.cpp
    translate.cpp)
list(TRANSFORM TRTLLM_EXT_TENSORRT_ADAPTERS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")

# The operations of this one.
set(TRTLLM_EXT_TENSORRT_OPERATIONS
    feed_forward.cpp
    feed_forward_plans.cpp
    gated_activation.cpp
    operations.cpp
    residual_norm.cpp
    tuning_memory.cpp)
list(TRANSFORM TRTLLM_EXT_TENSORRT_OPERATIONS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")

set(TRTLLM_EXT_TENSORRT_SOURCES ${TRTLLM_EXT_TENSORRT_ADAPTERS} ${TRTLLM_EXT_TENSORRT_OPERATIONS})
set(TRTLLM_EXT_TENSORRT_EXPORTS "${CMAKE_CURRENT_LIST_DIR}/exports.map")
