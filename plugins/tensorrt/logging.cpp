#include "plugins/tensorrt/logging.h"

#include "plugins/tensorrt/tensorrt_library.h"

#include <NvInferRuntime.h>

#include <atomic>
#include <cstdio>

namespace trtllm_ext::plugins
{

namespace
{

std::atomic<nvinfer1::ILogger*> given_logger{nullptr};
std::atomic<nvinfer1::ILoggerFinder*> given_finder{nullptr};

nvinfer1::ILogger* find_logger()
{
    if (nvinfer1::ILoggerFinder* const finder = given_finder)
    {
        if (nvinfer1::ILogger* const logger = finder->findLogger())
        {
            return logger;
        }
    }
    if (nvinfer1::ILogger* const logger = given_logger)
    {
        return logger;
    }
    if (tensorrt_major() != NV_TENSORRT_MAJOR)
    {
        return nullptr;
    }
    auto const get_logger = tensorrt_function<decltype(getLogger)>("getLogger");
    return get_logger == nullptr ? nullptr : get_logger();
}

void log(nvinfer1::ILogger::Severity severity, std::string const& sentence) noexcept
{
    try
    {
        std::string const text = "trtllm_ext: " + sentence;
        if (nvinfer1::ILogger* const logger = find_logger())
        {
            logger->log(severity, text.c_str());
        }
        else
        {
            std::fprintf(stderr, "%s\n", text.c_str());
        }
    }
    catch (...)
    {
        // A sentence that cannot be said must not end the process; the status still tells of the failure.
    }
}

} // namespace

void log_error(std::string const& sentence) noexcept
{
    log(nvinfer1::ILogger::Severity::kERROR, sentence);
}

void log_warning(std::string const& sentence) noexcept
{
    log(nvinfer1::ILogger::Severity::kWARNING, sentence);
}

void set_logger(void* logger) noexcept
{
    given_logger = static_cast<nvinfer1::ILogger*>(logger);
}

} // namespace trtllm_ext::plugins

/* TensorRT calls this when it loads the library by itself. */
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    trtllm_ext::plugins::given_finder = finder;
}
