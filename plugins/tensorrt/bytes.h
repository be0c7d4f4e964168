/* Numbers and byte strings one after the other, little-endian, without gaps; and back, with every end checked. */
#ifndef TRTLLM_EXT_PLUGINS_BYTES_H
#define TRTLLM_EXT_PLUGINS_BYTES_H

#include "plugins/tensorrt/refusal.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace trtllm_ext::plugins
{

class Writer
{
public:
    template <typename T>
    void number(T value)
    {
        uint8_t raw[sizeof(T)];
        std::memcpy(raw, &value, sizeof(T));
        bytes_.insert(bytes_.end(), raw, raw + sizeof(T));
    }

    /* With their count before them. */
    void bytes(std::vector<uint8_t> const& data)
    {
        number<uint64_t>(data.size());
        bytes_.insert(bytes_.end(), data.begin(), data.end());
    }

    void text(std::string const& text)
    {
        bytes(std::vector<uint8_t>(text.begin(), text.end()));
    }

    std::vector<uint8_t> take()
    {
        return std::move(bytes_);
    }

    std::vector<uint8_t> const& so_far() const
    {
        return bytes_;
    }

private:
    std::vector<uint8_t> bytes_;
};

/* Reads what a Writer wrote. Throws Refusal where the bytes end too early, or go on. */
class Reader
{
public:
    Reader(void const* data, uint64_t size)
        : next_(static_cast<uint8_t const*>(data))
        , left_(size)
    {
    }

    template <typename T>
    T number()
    {
        T value;
        std::memcpy(&value, skip(sizeof(T)), sizeof(T));
        return value;
    }

    std::vector<uint8_t> bytes()
    {
        uint64_t const count = number<uint64_t>();
        uint8_t const* const begin = skip(count);
        return std::vector<uint8_t>(begin, begin + count);
    }

    std::string text()
    {
        auto const data = bytes();
        return std::string(data.begin(), data.end());
    }

    void end() const
    {
        if (left_ != 0)
        {
            throw Refusal(std::to_string(left_) + " bytes after the end of what is read");
        }
    }

private:
    uint8_t const* skip(uint64_t count)
    {
        if (count > left_)
        {
            throw Refusal("the bytes end " + std::to_string(count - left_) + " too early");
        }
        uint8_t const* const here = next_;
        next_ += count;
        left_ -= count;
        return here;
    }

    uint8_t const* next_;
    uint64_t left_;
};

} // namespace trtllm_ext::plugins

#endif
