/*
 * How TensorRT learns of the plugins. Three ways, each right alone and after the others:
 *
 * - dlopen (or linking): the creators register themselves with the registry of the TensorRT that the process has, when
 *   it is of the major version that this library was compiled for.
 * - TensorRT's IPluginRegistry::loadLibrary: TensorRT opens the file, asks for the creators and registers them itself;
 *   it fails where one is registered already. The library therefore keeps still while TensorRT opens it, and has no
 *   more creators to give once they are registered.
 * - initTrtllmExtPlugins(logger): registers whatever is not; for processes that loaded TensorRT later than this library.
 */
#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/guarded.h"
#include "plugins/tensorrt/tensorrt_library.h"

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR >= 10
#include "plugins/tensorrt/plugin_v3.h"
#else
#include "plugins/tensorrt/plugin_v2.h"
#endif

#include <memory>
#include <mutex>
#include <vector>

#define TRTLLM_EXT_EXPORT extern "C" __attribute__((visibility("default")))

namespace trtllm_ext::plugins
{

namespace
{

#if NV_TENSORRT_MAJOR >= 10
using Creator = CreatorV3;
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using Creator = CreatorV2;
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

std::mutex mutex;
bool registered = false; // by ourselves

/* Never destroyed: TensorRT's registry may outlive this library's statics. */
std::vector<CreatorInterface*> const& creators()
{
    static auto const* const all = []
    {
        auto* const made = new std::vector<CreatorInterface*>;
        for (OperationRecord const* const record : all_records())
        {
            made->push_back(new Creator(*record));
        }
        return made;
    }();
    return *all;
}

/*
 * Of the registry nothing is called but registerCreator and this: 8.6.0 and 8.6.1 have the same functions in another
 * order from the fourth on, and a library for the one is to run in the other.
 */
CreatorInterface* registered_creator(nvinfer1::IPluginRegistry& registry, OperationRecord const& record)
{
#if NV_TENSORRT_MAJOR >= 10
    return registry.getCreator(record.name, record.version, TRTLLM_EXT_PLUGIN_NAMESPACE);
#else
    return registry.getPluginCreator(record.name, record.version, TRTLLM_EXT_PLUGIN_NAMESPACE);
#endif
}

/* Throws Refusal where another library's plugin has the name. */
void register_creators(nvinfer1::IPluginRegistry& registry)
{
    for (size_t i = 0; i < creators().size(); ++i)
    {
        OperationRecord const& record = *all_records()[i];
        // It answers false where TensorRT has loaded this library by itself, too; then the creator is our own.
        if (!registry.registerCreator(*creators()[i], TRTLLM_EXT_PLUGIN_NAMESPACE)
            && registered_creator(registry, record) != creators()[i])
        {
            throw Refusal(std::string("plugin ") + record.name + " version " + record.version
                + " of namespace " TRTLLM_EXT_PLUGIN_NAMESPACE " is registered by another library; load one of them");
        }
    }
}

/* The registry of the TensorRT in this process. Throws Refusal where there is none of the right version. */
nvinfer1::IPluginRegistry& find_registry()
{
    int32_t const major = tensorrt_major();
    std::string const own = "TensorRT " + std::to_string(NV_TENSORRT_MAJOR);
    if (major == 0)
    {
        throw Refusal("there is no TensorRT in this process; load " + own + " first");
    }
    if (major != NV_TENSORRT_MAJOR)
    {
        throw Refusal("this process has TensorRT " + std::to_string(major) + ", and this library was built for " + own
            + ". Build the plugins with the other's headers (make plugins)");
    }
    auto const get_registry = tensorrt_function<decltype(getPluginRegistry)>("getPluginRegistry");
    nvinfer1::IPluginRegistry* const registry = get_registry == nullptr ? nullptr : get_registry();
    if (registry == nullptr)
    {
        throw Refusal("the TensorRT in this process has no plugin registry");
    }
    return *registry;
}

bool register_once() noexcept
{
    return guarded("plugins", "registration",
               [&]
               {
                   std::lock_guard<std::mutex> const lock(mutex);
                   if (!registered)
                   {
                       register_creators(find_registry());
                       registered = true;
                   }
               })
        == TRTLLM_EXT_SUCCESS;
}

CreatorInterface* const* creators_to_give(int32_t& count) noexcept
{
    CreatorInterface* const* given = nullptr;
    count = 0;
    guarded("plugins", "registration",
        [&]
        {
            std::lock_guard<std::mutex> const lock(mutex);
            given = creators().data();
            count = registered ? 0 : static_cast<int32_t>(creators().size());
        });
    return given;
}

/* Runs when the library is loaded. Without TensorRT, or with another one, it is not an error yet. */
bool register_when_loaded() noexcept
{
    return tensorrt_major() == NV_TENSORRT_MAJOR && !called_by_tensorrt() && register_once();
}

} // namespace

} // namespace trtllm_ext::plugins

/* Registers the plugins. `logger` may be nullptr. Whether they are registered; what is in the way is logged. */
TRTLLM_EXT_EXPORT bool initTrtllmExtPlugins(nvinfer1::ILogger* logger)
{
    if (logger != nullptr)
    {
        trtllm_ext::plugins::set_logger(logger);
    }
    return trtllm_ext::plugins::register_once();
}

#if NV_TENSORRT_MAJOR >= 10
TRTLLM_EXT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
#else
TRTLLM_EXT_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count)
#endif
{
    return trtllm_ext::plugins::creators_to_give(count);
}

namespace
{

[[maybe_unused]] bool const registered_when_loaded = trtllm_ext::plugins::register_when_loaded();

} // namespace
