/*
 * Sentences to TensorRT's logger: the one that setLoggerFinder or initTrtllmExtPlugins gave, else that of the TensorRT
 * library in this process, else the standard error stream.
 */
#ifndef TRTLLM_EXT_PLUGINS_LOGGING_H
#define TRTLLM_EXT_PLUGINS_LOGGING_H

#include <string>

namespace trtllm_ext::plugins
{

void log_error(std::string const& sentence) noexcept;
void log_warning(std::string const& sentence) noexcept;

/* An nvinfer1::ILogger*, or nullptr. (Its own headers declare it in more than one way.) */
void set_logger(void* logger) noexcept;

} // namespace trtllm_ext::plugins

#endif
