#include "nvinfer_part.h"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <string>

#define PLAYER_EXPORT __attribute__((visibility("default")))

namespace player
{

namespace
{

#if NV_TENSORRT_MAJOR >= 10
using Creator = nvinfer1::IPluginCreatorInterface;
using Named = nvinfer1::IPluginCreatorV3One;
constexpr char GIVE_CREATORS[] = "getCreators";
#else
using Creator = nvinfer1::IPluginCreator;
using Named = nvinfer1::IPluginCreator;
constexpr char GIVE_CREATORS[] = "getPluginCreators";
#endif

class Logger final : public nvinfer1::ILogger
{
public:
    void log(Severity severity, char const* message) noexcept override
    {
        if (!quiet)
        {
            std::printf("log %d %s\n", static_cast<int>(severity), message);
        }
    }

    bool quiet = false;
};

Logger logger;

class Finder final : public nvinfer1::ILoggerFinder
{
public:
    nvinfer1::ILogger* findLogger() override
    {
        return &logger;
    }
};

Finder finder;

std::string key_of(char const* name, char const* version, char const* plugin_namespace)
{
    return std::string(plugin_namespace) + "::" + name + " " + version;
}

class Registry final : public nvinfer1::IPluginRegistry
{
public:
    bool add(Creator& creator, char const* plugin_namespace)
    {
        auto& named = static_cast<Named&>(creator);
        auto const key = key_of(named.getPluginName(), named.getPluginVersion(), plugin_namespace);
        return creators_.emplace(key, &creator).second;
    }

    Creator* find(char const* name, char const* version, char const* plugin_namespace)
    {
        auto const place = creators_.find(key_of(name, version, plugin_namespace));
        return place == creators_.end() ? nullptr : place->second;
    }

    bool remove(Creator const& creator)
    {
        for (auto place = creators_.begin(); place != creators_.end(); ++place)
        {
            if (place->second == &creator)
            {
                creators_.erase(place);
                return true;
            }
        }
        return false;
    }

    int32_t size() const
    {
        return static_cast<int32_t>(creators_.size());
    }

    void* loadLibrary(char const* path) noexcept override
    {
        // The registry is not to be changed by the library that it loads: TensorRT may hold a lock of its own here.
        loading_ = true;
        void* const library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
        if (library == nullptr)
        {
            std::printf("dlopen %s\n", dlerror());
            return nullptr;
        }
        using SetFinder = void (*)(nvinfer1::ILoggerFinder*);
        using Give = Creator* const* (*) (int32_t&);
        reinterpret_cast<SetFinder>(dlsym(library, "setLoggerFinder"))(&finder);
        int32_t count = 0;
        Creator* const* const given = reinterpret_cast<Give>(dlsym(library, GIVE_CREATORS))(count);
        loading_ = false;
        for (int32_t i = 0; i < count; ++i)
        {
            if (!add(*given[i], static_cast<Named*>(given[i])->getPluginNamespace()))
            {
                return nullptr;
            }
        }
        return library;
    }

    void deregisterLibrary(void*) noexcept override {}

    void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}

    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override
    {
        return nullptr;
    }

    bool isParentSearchEnabled() const override
    {
        return true;
    }

    void setParentSearchEnabled(bool) override {}

    bool registerCreator(Creator& creator, char const* plugin_namespace) noexcept override
    {
        if (loading_)
        {
            std::printf("registered while TensorRT loads the library\n");
        }
        return add(creator, plugin_namespace);
    }

    bool deregisterCreator(Creator const& creator) noexcept override
    {
        return remove(creator);
    }

#if NV_TENSORRT_MAJOR < 10
    Creator* const* getPluginCreatorList(int32_t* count) const noexcept override
    {
        *count = 0;
        return nullptr;
    }

    Creator* getPluginCreator(
        char const* name, char const* version, char const* plugin_namespace) noexcept override
    {
        return find(name, version, plugin_namespace);
    }
#else
    Creator* const* getAllCreators(int32_t* count) const noexcept override
    {
        *count = 0;
        return nullptr;
    }

    Creator* const* getAllCreatorsRecursive(int32_t* count) noexcept override
    {
        *count = 0;
        return nullptr;
    }

    Creator* getCreator(char const* name, char const* version, char const* plugin_namespace) noexcept override
    {
        return find(name, version, plugin_namespace);
    }

    nvinfer1::IPluginResource* acquirePluginResource(char const*, nvinfer1::IPluginResource*) noexcept override
    {
        return nullptr;
    }

    int32_t releasePluginResource(char const*) noexcept override
    {
        return 1;
    }
#endif
#if NV_TENSORRT_MAJOR == 10
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" // 10 has the functions of 8 beside its own
    bool registerCreator(nvinfer1::IPluginCreator&, char const*) noexcept override
    {
        return false;
    }

    nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override
    {
        return nullptr;
    }

    nvinfer1::IPluginCreator* getPluginCreator(char const*, char const*, char const*) noexcept override
    {
        return nullptr;
    }

    bool deregisterCreator(nvinfer1::IPluginCreator const&) noexcept override
    {
        return false;
    }
#pragma GCC diagnostic pop
#endif

private:
    std::map<std::string, Creator*> creators_;
    bool loading_ = false;
};

Registry& registry()
{
    static Registry registry;
    return registry;
}

} // namespace

void set_quiet(bool quiet)
{
    logger.quiet = quiet;
}

int32_t num_registered()
{
    return registry().size();
}

} // namespace player

extern "C" PLAYER_EXPORT nvinfer1::IPluginRegistry* getPluginRegistry() noexcept
{
    return &player::registry();
}

extern "C" PLAYER_EXPORT nvinfer1::ILogger* getLogger() noexcept
{
    return &player::logger;
}

/* PLAYED_MAJOR in the environment plays a release of another major version. */
extern "C" PLAYER_EXPORT int32_t getInferLibVersion() noexcept
{
    char const* const played = std::getenv("PLAYED_MAJOR");
    int32_t const major = played == nullptr ? NV_TENSORRT_MAJOR : std::atoi(played);
    return major < 10 ? major * 1000 + 601 : major * 10000 + 100;
}
